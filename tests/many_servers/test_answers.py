from tests.contract.test_answers import *  # noqa: F403
