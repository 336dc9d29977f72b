from tests.contract.test_answers_learning import *  # noqa: F403
