from tests.contract.test_session_pages import *  # noqa: F403
