from tests.fault.test_batch_faults import *  # noqa: F403
