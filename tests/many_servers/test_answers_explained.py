from tests.contract.test_answers_explained import *  # noqa: F403
