from tests.fault.test_changes_faults import *  # noqa: F403
