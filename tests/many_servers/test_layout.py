from tests.contract.test_layout import *  # noqa: F403
