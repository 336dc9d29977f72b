from tests.contract.test_invalidated_meanwhile import *  # noqa: F403
