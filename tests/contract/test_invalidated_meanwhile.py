"""An answer that is made while its like is invalidated is not stored. In both variants: one suite."""

from __future__ import annotations

from typing import Any

import pytest

from lix_cache import HashingEmbedder, SemanticCache
from lix_cache.config import CacheConfig
from lix_cache.effects import RedisCall
from lix_cache.semantic import maintenance
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("right-answer")

Q = "What is the price?"
HERE = {"tenant": "a", "model": "m"}


@pytest.fixture(params=[1, 3])
def cache(twins: Twins, redis_config: CacheConfig, request: pytest.FixtureRequest) -> Any:
    config = redis_config.replace(redis_buckets=request.param)
    return twins.make("SemanticCache", HashingEmbedder(), config, context=HERE)


def begun(cache: Any, twins: Twins, **options: Any) -> Any:
    call = cache.begin(Q, **options)
    assert not call.is_hit
    return call


MEANT: list[dict[str, Any]] = [
    {"context": {}},
    {"context": {"tenant": "a"}},
    {"tags": ["prices"]},
    {"tags": ["other", "prices"], "older_than_seconds": 0},
    {"similar_to": Q},
]


@pytest.mark.parametrize("what", MEANT, ids=str)
@pytest.mark.parametrize("is_there", [False, True])
def test_an_answer_that_was_begun_before_it_was_invalidated_is_not_stored(
    cache: Any, twins: Twins, what: dict[str, Any], is_there: bool
) -> None:
    if is_there:
        cache.store("Who wrote Faust?", "x")
    call = begun(cache, twins)
    cache.invalidate(**what)
    stored = twins.run(call.complete("the old one", tags=["prices"]))
    assert (bool(stored), stored.refused) == (False, "invalidated")
    assert not cache.lookup(Q).is_hit
    assert cache.get_stats()["stores_refused"] == {"invalidated": 1}
    # What is begun afterwards is new, and what is set is meant.
    assert twins.run(begun(cache, twins).complete("the new one", tags=["prices"]))
    assert cache.lookup(Q).response == "the new one"
    cache.invalidate(**what)
    assert cache.store(Q, "set")


OTHERS: list[dict[str, Any]] = [
    {"tags": ["other"]},
    {"context": {"more": "of it"}},
    {"context": {}, "older_than_seconds": 3600},
    {"context": {"more": 1}, "tags": ["prices"]},
    {"context": {"more": 1}, "similar_to": Q},
]


@pytest.mark.parametrize("what", OTHERS, ids=str)
def test_what_was_not_meant_is_stored(cache: Any, twins: Twins, what: dict[str, Any]) -> None:
    call = begun(cache, twins)
    cache.invalidate(**what)
    assert twins.run(call.complete("an answer", tags=["prices"]))
    assert cache.lookup(Q).response == "an answer"


def test_where_more_was_invalidated_than_is_looked_at_nothing_is_stored(cache: Any, twins: Twins) -> None:
    call = begun(cache, twins)
    for number in range(110):
        cache.invalidate(tags=[f"other {number}"])
    assert twins.run(call.complete("an answer")).refused == "invalidated"


def test_a_cached_function_runs_again_if_its_answer_was_invalidated_while_it_ran(
    cache: Any, twins: Twins
) -> None:
    prices = iter(["old", "new", "newer"])

    def sync(question: str) -> str:
        price = next(prices)
        if price == "old":
            cache.invalidate(tags=["prices"])
        return price

    async def asynchronous(question: str) -> str:
        price = next(prices)
        if price == "old":
            await cache.target.invalidate(tags=["prices"])
        return price

    function = cache.cached(query_param="question", tags=["prices"])(
        sync if twins.variant == "sync" else asynchronous
    )
    told = [twins.run(function(question=Q)) for _ in range(3)]
    assert told == ["old", "new", "new"]


@pytest.mark.parametrize("buckets", [1, 3])
def test_the_notes_of_an_invalidation_are_answered_before_any_scope_is_listed(
    redis_config: CacheConfig, buckets: int
) -> None:
    # Not in one batch: a script that the server does not know yet is sent again after the others.
    core = SemanticCache(HashingEmbedder(), redis_config.replace(redis_buckets=buckets))._core
    first: Any = next(maintenance.scopes_with(core, frozenset(), maintenance.Criteria()))
    commands = (first.command,) if isinstance(first, RedisCall) else first.commands
    noted = core.redis.answers.invalidate(0, frozenset(), *maintenance.Criteria().words(), b"12345678")
    assert [one.script for one in commands] == [noted.script] * buckets


def test_what_begins_after_an_invalidation_is_stored_however_soon(cache: Any, twins: Twins) -> None:
    for _ in range(50):
        cache.invalidate(context={})
        assert twins.run(begun(cache, twins).complete("an answer"))
