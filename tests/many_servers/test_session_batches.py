from tests.contract.test_session_batches import *  # noqa: F403
