from tests.fault.test_kill import (  # noqa: F401
    config,
    test_a_process_killed_with_its_daemon_at_work_loses_and_doubles_nothing,
)
