from tests.contract.test_session import *  # noqa: F403
