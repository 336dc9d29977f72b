from tests.fault.test_forks import *  # noqa: F403
