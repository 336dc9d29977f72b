from tests.contract.test_in_flight import *  # noqa: F403
