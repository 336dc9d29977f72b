"""Attempts to get a wrong answer out of the semantic cache, or to lose one in silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from lix_cache import AsyncSemanticCache, CachePolicy, Reason, SemanticSettings
from lix_cache.config import CacheConfig
from lix_cache.errors import InvalidContext
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.matching.thresholds import Thresholds
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.semantic import with_settings
from tests.support.twins import Twins
from tests.support.waiting import Life

pytestmark = pytest.mark.promise("right-answer")

TABLE = {
    "capital of France": mix(a=1),
    "France's capital": mix(a=0.995, b=0.0999),
    "the capital France has": mix(a=0.995, b=-0.0999),
    "bread": mix(e=1),
}
CAPITAL, SECOND, THIRD, BREAD = TABLE
THRESHOLDS = Thresholds(threshold=0.9, margin=0.05)


@pytest.fixture
def make(twins: Twins, redis_config: CacheConfig) -> Any:
    def build(**options: Any) -> Any:
        embedder = options.pop("embedder", None) or Meanings(TABLE)
        settings = {"thresholds": THRESHOLDS, "guards": False, "policy": ANYTHING, **options}
        return twins.make("SemanticCache", embedder, redis_config, **with_settings(**settings))

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
            embedder,
            redis_config,
            thresholds=THRESHOLDS,
            guards=False,
            policy=ANYTHING,
            settings=SemanticSettings(deadline_seconds=1.0),
        )
        await cache.store(BREAD, "flour")
        embedder.gate.clear()
        await asyncio.gather(*(cache.lookup(f"unheard of {i}") for i in range(40)))
        try:
            answer = {"a response": ["that is", "encoded in a thread"]}
            await asyncio.wait_for(cache.store(CAPITAL, answer), 60)
            found = await asyncio.wait_for(cache.lookup(CAPITAL), 60)
            assert found.response == answer
        finally:
            embedder.gate.set()
            await close_async_redis_clients()

    asyncio.run(main())


# -- an index that knows more than the server -----------------------------------------------


def test_what_the_server_forgot_does_not_hide_what_it_was_told_since(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache, writer = make(), make()
    cache.store(BREAD, "flour")
    keys = list(raw.scan_iter(f"{redis_config.redis_key_prefix}:*"))
    before = {key: raw.dump(key) for key in keys}
    cache.store(CAPITAL, "lost")
    assert cache.lookup(SECOND).response == "lost"
    # A replica that is a little behind, in time too, takes over.
    log = next(key for key in keys if b":ans:log:" in key)
    ahead = raw.xrevrange(log, count=1)[0]
    raw.delete(*raw.scan_iter(f"{redis_config.redis_key_prefix}:*"))
    for key, dump in before.items():
        raw.restore(key, 300_000, dump)
    assert not cache.lookup(SECOND)
    writer.store(CAPITAL, "Paris")
    assert raw.xrevrange(log, count=1)[0][0] > ahead[0]
    assert cache.lookup(SECOND).response == "Paris"


def test_an_entry_that_is_gone_unannounced_is_in_no_way(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache = make()
    cache.store(CAPITAL, "lost")
    cache.lookup(THIRD)
    entries = next(raw.scan_iter(f"{redis_config.redis_key_prefix}:*:ans:entries:*"))
    for number in raw.hkeys(entries):
        raw.hdel(entries, number)
    assert cache.lookup(SECOND).reason == Reason.GONE
    assert cache.lookup(SECOND).reason != Reason.GONE


def test_a_number_that_was_given_a_second_time_answers_no_other_query(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache = make()
    number = cache.store(CAPITAL, "Paris").split(".")[0].encode()
    cache.store(BREAD, "flour")
    # As when the log alone was lost, and the next entry came in the same millisecond.
    entries = next(raw.scan_iter(f"{redis_config.redis_key_prefix}:*:ans:entries:*"))
    raw.hset(entries, number, next(m for n, m in raw.hgetall(entries).items() if n != number))
    assert not cache.lookup(CAPITAL)
    assert cache.lookup(BREAD).response == "flour"
    assert not cache.report_wrong(f"1-1.{'0' * 16}", CAPITAL)
    cache.store(CAPITAL, "Paris")
    assert cache.lookup(CAPITAL).response == "Paris"
    assert cache.lookup(BREAD).response == "flour"


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


# -- dropping ------------------------------------------------------------------------------


def test_dropping_by_meaning_drops_the_very_text_even_without_a_vector(make: Any) -> None:
    embedder = Meanings(TABLE)
    cache = make(embedder=embedder)
    embedder.error = RuntimeError("no model")
    cache.store(CAPITAL, "secret")
    embedder.error = None
    assert cache.invalidate(similar_to=CAPITAL) == 1
    assert not cache.lookup(CAPITAL)


# -- time ----------------------------------------------------------------------------------


def test_a_question_about_now_gets_no_old_answer_to_a_timeless_one(make: Any) -> None:
    plain, now, today = "price of gold", "price of gold now", "price of gold today"
    table = {plain: mix(a=1), now: mix(a=1, b=0.05), today: mix(a=1, b=0.04)}
    life = Life(1)
    policy = CachePolicy(follow_ups=True, time_sensitive_seconds=life.seconds)
    cache = make(embedder=Meanings(table), policy=policy, audit_rate=0)
    cache.store(plain, "10", tags=["plain"])
    assert cache.lookup(now).response == "10" or life.may_be_over
    time.sleep(1.1)
    late = cache.lookup(now)
    assert (late.is_hit, late.reason) == (False, Reason.GUARD)
    assert "about now" in late.detail
    assert cache.lookup(plain).response == "10"
    # A life that the application gave to a question about now holds for its paraphrases.
    cache.store(now, "11", ttl_seconds=60)
    time.sleep(1.1)
    cache.invalidate(tags=["plain"])
    assert cache.lookup(today).response == "11"
