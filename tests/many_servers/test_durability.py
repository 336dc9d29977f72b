from tests.fault.test_durability import *  # noqa: F403
