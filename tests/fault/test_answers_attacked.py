"""Attempts to get a wrong answer out of the semantic cache, or to lose one in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from lix_cache import AsyncSemanticCache
from lix_cache.config import CacheConfig
from lix_cache.errors import InvalidContext
from lix_cache.hot.client import close_async_redis_clients
from lix_cache.semantic.decide import Limits
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.twins import Twins

TABLE = {
    "capital of France": mix(a=1),
    "France's capital": mix(a=0.995, b=0.0999),
    "the capital France has": mix(a=0.995, b=-0.0999),
    "bread": mix(e=1),
}
CAPITAL, LEARNED, THIRD, BREAD = TABLE
LIMITS = Limits(threshold=0.9, margin=0.05)
LEARNING = Limits(threshold=0.9, margin=0.05, learn_evidence=0.9)


@pytest.fixture(params=["sync", "async"])
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    made = Twins(request.param)
    yield made
    made.close()


@pytest.fixture
def make(twins: Twins, redis_config: CacheConfig) -> Any:
    def build(**options: Any) -> Any:
        embedder = options.pop("embedder", None) or Meanings(TABLE)
        settings = {"limits": LIMITS, "guards": False, "policy": ANYTHING, **options}
        return twins.make("SemanticCache", embedder, redis_config, **settings)

    return build


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis_server.client(db=0)
    yield client
    client.close()


# -- threads -------------------------------------------------------------------------------


def test_embedders_that_hang_for_ever_leave_threads_for_everything_else(redis_config: CacheConfig) -> None:
    embedder = Meanings(TABLE)

    async def main() -> Any:
        cache = AsyncSemanticCache(
            embedder, redis_config, limits=LIMITS, guards=False, policy=ANYTHING, deadline_seconds=0.05
        )
        await cache.store(BREAD, "flour")
        embedder.gate.clear()
        await asyncio.gather(*(cache.lookup(f"unheard of {i}") for i in range(40)))
        try:
            answer = {"a response": ["that is", "encoded in a thread"]}
            await asyncio.wait_for(cache.store(CAPITAL, answer), 5)
            found = await asyncio.wait_for(cache.lookup(CAPITAL), 5)
            assert found.response == answer
        finally:
            embedder.gate.set()
            await close_async_redis_clients()

    asyncio.run(main())


# -- scopes --------------------------------------------------------------------------------


def test_the_context_of_a_cache_is_not_changed_behind_its_back(make: Any) -> None:
    mine: dict[str, Any] = {"tenant": "a", "tools": ["x"]}
    cache = make(context=mine)
    cache.store(CAPITAL, "a's")
    mine["tools"].append("y")
    mine["tenant"] = "b"
    assert cache.lookup(CAPITAL, context={}).response == "a's"
    with pytest.raises((TypeError, AttributeError)):
        cache.context["tenant"] = "b"
    assert not make(context=mine).lookup(CAPITAL)


def test_whole_numbers_of_any_length_are_compared_exactly(make: Any) -> None:
    cache, big = make(), 10**5000
    cache.store(CAPITAL, "big", context={"n": big})
    assert cache.lookup(CAPITAL, context={"n": big}).response == "big"
    assert not cache.lookup(CAPITAL, context={"n": big + 1})
    cache.store(BREAD, [big])
    assert cache.lookup(BREAD).response == [big]


def test_a_context_that_holds_itself_is_refused(make: Any) -> None:
    own: dict[str, Any] = {}
    own["self"] = own
    with pytest.raises(InvalidContext):
        make(context=own)
