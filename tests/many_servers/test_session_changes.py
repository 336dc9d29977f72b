from tests.contract.test_session_changes import *  # noqa: F403
