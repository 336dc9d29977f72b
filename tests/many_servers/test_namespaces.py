from tests.contract.test_namespaces import *  # noqa: F403
