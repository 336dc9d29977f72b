from tests.contract.test_semantic import *  # noqa: F403
