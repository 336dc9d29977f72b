"""Real servers and real troubles for the tests."""

from tests.support.proxy import CountingProxy
from tests.support.redis_server import RedisServer

__all__ = ["CountingProxy", "RedisServer"]
