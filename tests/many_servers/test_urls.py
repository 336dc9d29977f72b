from tests.contract.test_urls import *  # noqa: F403
