"""The semantic cache that gives reasons, in both variants: one suite."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
import redis

from lix_cache import CachePolicy, HashingEmbedder, Prices, Reason, Report
from lix_cache.config import CacheConfig
from lix_cache.errors import (
    ConfigError,
    DimensionMismatch,
    InvalidContext,
    InvalidInput,
    InvalidVector,
    RedisCommandError,
)
from lix_cache.hot.keys import AnswerKeys
from lix_cache.matching.guards import Objection
from lix_cache.matching.thresholds import Thresholds
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.semantic import apart, with_settings
from tests.support.twins import Twins
from tests.support.waiting import Life, wait_until

#: Cosines: "capital" and its paraphrase 0.98; "largest" is at 0.9 to both or less.
TABLE = {
    "what is the capital of France": mix(a=1.0),
    "France's capital?": mix(a=0.98, b=0.199),
    "capital city of France please": mix(a=0.97, c=0.243),
    "what is the largest city of France": mix(a=0.9, d=0.436),
    "how do I bake bread": mix(e=1.0),
    "bread, how is it baked": mix(e=0.95, f=0.312),
}
CAPITAL, PARAPHRASE, OTHER_PARAPHRASE, LARGEST, BREAD, BAKED = TABLE
THRESHOLDS = Thresholds(threshold=0.92, margin=0.05)


@pytest.fixture
def embedder() -> Meanings:
    return Meanings(TABLE)


@pytest.fixture
def make(twins: Twins, embedder: Meanings, redis_config: CacheConfig) -> Any:
    def build(**options: Any) -> Any:
        embedder_ = options.pop("embedder", embedder)
        config = options.pop("config", redis_config)
        return twins.make(
            "SemanticCache",
            embedder_,
            config,
            **with_settings(
                **{"thresholds": THRESHOLDS, "guards": False, "policy": ANYTHING, "audit_rate": 0, **options}
            ),
        )

    return build


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis_server.client(db=0)
    yield client
    client.close()


#: Of one scope, as AnswerKeys names them; what was reported last.
SCOPE_KEYS = AnswerKeys._fields[:10]


def keys_of(raw: redis.Redis, config: CacheConfig, name: str) -> list[bytes]:
    return sorted(raw.scan_iter(f"{config.redis_key_prefix}:{{*}}:ans:{name}:*"))


# -- hit, miss, and why --------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_an_empty_scope_is_a_miss_that_asks_no_embedder(make: Any, embedder: Meanings) -> None:
    found = make().lookup(CAPITAL)
    assert (found.is_hit, found.response, found.reason) == (False, None, "empty")
    assert not found
    assert embedder.asked == []


def test_the_exact_text_is_found_without_the_embedder(make: Any, embedder: Meanings) -> None:
    cache = make()
    entry_id = cache.store(CAPITAL, {"answer": "Paris", "sources": [1, 2.5, None]})
    embedder.asked.clear()
    found = cache.lookup(f"  {CAPITAL} ")
    assert found.is_hit
    assert found.response == {"answer": "Paris", "sources": [1, 2.5, None]}
    assert (found.reason, found.similarity, found.margin) == (Reason.EXACT, 1.0, math.inf)
    assert found.entry_id == entry_id
    assert 0 <= found.age_seconds < 60
    assert 200 < found.ttl_remaining_seconds <= 300
    assert embedder.asked == []


def test_another_paraphrase_is_found_by_its_meaning(make: Any) -> None:
    cache = make()
    entry_id = cache.store(CAPITAL, "Paris")
    found = cache.lookup(PARAPHRASE)
    assert (found.is_hit, found.response, found.reason) == (True, "Paris", Reason.SEMANTIC)
    assert found.similarity == pytest.approx(0.98, abs=1e-3)
    assert found.margin == math.inf
    assert found.entry_id == entry_id
    assert found.age_seconds is not None
    assert found.ttl_remaining_seconds is not None


def test_what_is_too_far_is_a_miss_that_says_how_far(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    found = cache.lookup(LARGEST)
    assert (found.is_hit, found.reason) == (False, Reason.BELOW_THRESHOLD)
    assert found.similarity == pytest.approx(0.9, abs=1e-3)
    assert found.response is found.entry_id is found.age_seconds is found.ttl_remaining_seconds is None


def test_a_neighbour_that_answers_differently_makes_a_miss(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    cache.store(OTHER_PARAPHRASE, "Lyon")
    found = cache.lookup(PARAPHRASE)
    assert (found.is_hit, found.reason) == (False, Reason.MARGIN)
    assert 0 < found.margin < 0.04


def test_a_neighbour_that_answers_the_same_does_not(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, {"city": "Paris", "country": "FR"})
    cache.store(OTHER_PARAPHRASE, {"country": "FR", "city": "Paris"})
    assert cache.lookup(PARAPHRASE).is_hit


def test_the_threshold_of_a_call_wins(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    assert cache.lookup(LARGEST, similarity_threshold=0.85).is_hit
    assert not cache.lookup(PARAPHRASE, similarity_threshold=0.99).is_hit
    with pytest.raises(InvalidInput, match="threshold"):
        cache.lookup(CAPITAL, similarity_threshold=1.5)


def test_a_vector_of_the_applications_own_is_taken(make: Any, embedder: Meanings) -> None:
    cache = make()
    cache.store("x", "X", query_embedding=7 * mix(a=1))
    assert cache.lookup("y", query_embedding=mix(a=1, b=0.01)).response == "X"
    assert embedder.asked == []
    with pytest.raises(DimensionMismatch):
        cache.lookup("y", query_embedding=[1.0, 0.0])
    with pytest.raises(InvalidVector):
        cache.store("y", 1, query_embedding=np.zeros(16))


def test_without_an_embedder_exact_texts_are_found(make: Any) -> None:
    cache = make(embedder=None)
    cache.store(CAPITAL, "Paris")
    assert cache.lookup(CAPITAL).response == "Paris"
    assert cache.lookup(PARAPHRASE).reason in (Reason.NO_EMBEDDING, Reason.EMPTY)
    with pytest.raises(ConfigError, match="embedding_dim"):
        cache.lookup(CAPITAL, query_embedding=mix(a=1))


def test_without_an_embedder_given_vectors_are_searched(make: Any, redis_config: CacheConfig) -> None:
    cache = make(embedder=None, config=redis_config.replace(embedding_dim=16, embedder_id="mine"))
    cache.store(CAPITAL, "Paris", query_embedding=mix(a=1))
    assert cache.lookup(PARAPHRASE, query_embedding=TABLE[PARAPHRASE]).response == "Paris"
    assert cache.lookup(PARAPHRASE).reason == Reason.NO_EMBEDDING


def test_what_was_stored_last_for_a_text_is_what_it_gets(make: Any) -> None:
    cache = make()
    for answer in ("Lyon", "Paris"):
        cache.store(CAPITAL, answer)
        assert cache.lookup(CAPITAL).response == answer
        assert cache.lookup(PARAPHRASE).response == answer
    assert cache.get_stats()["entries"] == 1


def test_every_process_sees_what_another_stored(make: Any) -> None:
    one, other = make(), make()
    assert other.lookup(PARAPHRASE).reason == Reason.EMPTY
    one.store(CAPITAL, "Paris")
    assert other.lookup(PARAPHRASE).response == "Paris"
    one.invalidate(context={})
    assert other.lookup(PARAPHRASE).reason == Reason.EMPTY
    one.store(BREAD, "in the oven")
    assert other.lookup(BAKED).response == "in the oven"
    assert other.lookup(PARAPHRASE).reason == Reason.BELOW_THRESHOLD


def test_what_is_refused_is_refused_by_name(make: Any) -> None:
    cache = make(context={"tenant": "a"})
    for call in (
        lambda: cache.lookup(""),
        lambda: cache.lookup("  "),
        lambda: cache.lookup(3),
        lambda: cache.store(CAPITAL, None),
        lambda: cache.store(CAPITAL, "x", tags="tag"),
        lambda: cache.store(CAPITAL, "x", tokens=(1,)),
    ):
        with pytest.raises(InvalidInput):
            call()
    for call in (
        lambda: cache.lookup(CAPITAL, context={"when": {1}}),
        lambda: cache.store(CAPITAL, "x", context={"tenant": "b"}),
        lambda: cache.invalidate(context={"tenant": "b"}),
    ):
        with pytest.raises(InvalidContext):
            call()
    with pytest.raises(ConfigError):
        cache.store(CAPITAL, "x", ttl_seconds=0)
    assert cache.get_stats()["entries"] == 0


def test_a_guard_that_does_not_exist_is_refused_not_left_out(make: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"guards\[1\]: there is no guard of that name; there are .*numbers"
    ):
        make(guards=["numbers", "numbres"])


@pytest.mark.promise("isolation")
def test_a_context_that_is_no_mapping_is_refused_by_name(make: Any) -> None:
    with pytest.raises(InvalidContext, match="must be a mapping, got str"):
        make(context="acme")


def test_messages_in_place_of_a_question_are_refused_with_what_to_do(make: Any) -> None:
    with pytest.raises(InvalidInput, match=r"got list; CachePolicy\.extract_query"):
        make().lookup([{"role": "user", "content": CAPITAL}])


@pytest.mark.parametrize(
    "option",
    [
        {"eviction": "random"},
        {"max_entries": 0},
        {"max_entries": 2.5},
        {"index_bytes": 0},
        {"audit_rate": 1.5},
        {"verifier_threshold": -0.1},
        {"deadline_seconds": 0},
        {"sliding_seconds": math.inf},
        {"ttl_seconds": -1},
        {"guards": "numbers"},
        {"context": {"x": object()}},
    ],
    ids=lambda option: next(iter(option)),
)
def test_settings_that_make_no_sense_are_refused_at_once(make: Any, option: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, InvalidContext)):
        make(**option)


# -- scopes --------------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_everything_in_the_context_must_match(make: Any) -> None:
    cache = make(context={"tenant": "a"})
    cache.store(CAPITAL, "Paris", context={"model": "m", "temperature": 0.0})
    assert cache.lookup(CAPITAL, context={"temperature": 0.0, "model": "m", "tenant": "a"}).is_hit
    for context in (
        None,
        {"model": "m"},
        {"model": "m", "temperature": 0},
        {"model": "n", "temperature": 0.0},
        {"model": "m", "temperature": 0.0, "tools": None},
    ):
        for query in (CAPITAL, PARAPHRASE):
            assert cache.lookup(query, context=context).reason == Reason.EMPTY


def test_embedder_dimension_and_version_must_match(make: Any) -> None:
    make().store(CAPITAL, "Paris")
    for other in (
        make(embedder=Meanings(TABLE, name="meanings-2")),
        make(embedder=Meanings(dim=8)),
        make(version="2"),
        make(context={"tenant": "a"}),
    ):
        assert other.lookup(CAPITAL).reason == Reason.EMPTY


# -- guards, verifier, policy --------------------------------------------------------------


def objecting(*texts: str) -> Any:
    def check(query: str, cached: str) -> Objection | None:
        return Objection("test", f"not {cached}") if cached in texts else None

    return check


def test_a_guard_that_objects_makes_a_miss(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    cache._core.hits = replace(cache._core.hits, object_to=objecting(CAPITAL))
    found = cache.lookup(PARAPHRASE)
    assert (found.is_hit, found.reason, found.detail) == (False, Reason.GUARD, f"test: not {CAPITAL}")
    assert found.similarity > 0.9
    assert cache.lookup(CAPITAL).is_hit


def test_another_paraphrase_of_the_same_answer_may_pass_the_guard(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    entry_id = cache.store(OTHER_PARAPHRASE, "Paris")
    cache._core.hits = replace(cache._core.hits, object_to=objecting(CAPITAL))
    found = cache.lookup(PARAPHRASE)
    assert (found.response, found.entry_id) == ("Paris", entry_id)


def test_another_answer_never_takes_the_place_of_one_that_a_guard_objects_to(make: Any) -> None:
    cache = make(thresholds=Thresholds(threshold=0.85))
    cache.store(CAPITAL, "Paris")
    cache.store(LARGEST, "Marseille")
    cache._core.hits = replace(cache._core.hits, object_to=objecting(CAPITAL))
    assert cache.lookup(PARAPHRASE).reason == Reason.GUARD


class Scores:
    """A verifier that answers from a table."""

    id = "scores"

    def __init__(self, **scores: float) -> None:
        self.scores_by_text = scores
        self.asked: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.answer: Any = None

    def scores(self, pairs: Any) -> Any:
        self.asked += pairs
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        return np.array([self.scores_by_text.get(cached, 0.0) for _, cached in pairs], np.float32)


@pytest.mark.parametrize(("score", "is_hit"), [(0.71, True), (0.69, False)])
def test_the_verifier_has_the_last_word(make: Any, score: float, is_hit: bool) -> None:
    verifier = Scores(**{CAPITAL: score})
    cache = make(verifier=verifier)
    cache.store(CAPITAL, "Paris")
    found = cache.lookup(PARAPHRASE)
    assert found.is_hit is is_hit
    assert found.reason == (Reason.SEMANTIC if is_hit else Reason.VERIFIER)
    assert verifier.asked == [(PARAPHRASE, CAPITAL)]
    assert cache.lookup(CAPITAL).is_hit
    assert len(verifier.asked) == 1


def test_the_verifier_may_choose_another_paraphrase_of_the_same_answer(make: Any) -> None:
    cache = make(verifier=Scores(**{CAPITAL: 0.2, OTHER_PARAPHRASE: 0.9}))
    cache.store(CAPITAL, "Paris")
    entry_id = cache.store(OTHER_PARAPHRASE, "Paris")
    assert cache.lookup(PARAPHRASE).entry_id == entry_id


@pytest.mark.parametrize("trouble", ["raises", "too few", "no numbers", "not a share"])
def test_a_verifier_that_cannot_answer_makes_a_miss(make: Any, trouble: str) -> None:
    verifier = Scores(**{CAPITAL: 1.0})
    cache = make(verifier=verifier)
    cache.store(CAPITAL, "Paris")
    verifier.error = RuntimeError("no model") if trouble == "raises" else None
    verifier.answer = {"too few": [], "no numbers": ["good"], "not a share": [1.5]}.get(trouble)
    found = cache.lookup(PARAPHRASE)
    assert (found.is_hit, found.reason) == (False, Reason.VERIFIER_FAILED)
    stats = cache.get_stats()
    assert stats["verifier_errors"] == 1
    assert stats["last_error"] is not None
    assert stats["misses_by_reason"] == {"verifier_failed": 1}


def test_what_the_policy_is_against_is_neither_looked_up_nor_stored(make: Any, embedder: Meanings) -> None:
    cache = make(policy=CachePolicy(exclude=("password",)))
    for query, rule in (("yes please", "follow_up"), ("what is my password", "excluded")):
        found = cache.lookup(query)
        assert (found.is_hit, found.reason) == (False, Reason.POLICY)
        assert found.detail.startswith(f"{rule}: ")
        assert cache.store(query, "x") is None
    for response, rule in (("", "empty"), ({"error": "overloaded"}, "error")):
        assert cache.store(CAPITAL, response) is None, rule
    stats = cache.get_stats()
    assert stats["misses_by_reason"] == {"policy": 2}
    assert stats["stores_refused"] == {"follow_up": 1, "excluded": 1, "empty": 1, "error": 1}
    assert (stats["entries"], embedder.asked) == (0, [])


def test_what_is_said_about_now_has_a_short_life(make: Any) -> None:
    cache = make(policy=CachePolicy(time_sensitive_seconds=20))
    cache.store("who won the match today", "we did")
    assert cache.lookup("who won the match today").ttl_remaining_seconds <= 20
    cache.store("who won the match today", "we did", ttl_seconds=100)
    assert 20 < cache.lookup("who won the match today").ttl_remaining_seconds <= 100


def test_the_guards_of_the_library_are_asked_unless_one_says_otherwise(make: Any, embedder: Meanings) -> None:
    embedder.table |= {"turn the lights on": mix(a=1), "turn the lights off": mix(a=1, b=0.1)}
    for options, reason in (
        ({"guards": True}, Reason.GUARD),
        ({"guards": ["direction"]}, Reason.GUARD),
        ({"guards": ["numbers"]}, Reason.SEMANTIC),
        ({"guards": False}, Reason.SEMANTIC),
    ):
        cache = make(**options)
        cache.store("turn the lights on", "on")
        assert cache.lookup("turn the lights off").reason == reason, options


# -- life ----------------------------------------------------------------------------------


def test_what_has_expired_never_answers(make: Any) -> None:
    cache, other = make(), make()
    cache.store(BREAD, "oven")
    life = Life(1.5)
    cache.store(CAPITAL, "Paris", ttl_seconds=life.seconds)
    assert other.lookup(PARAPHRASE).is_hit or life.may_be_over
    time.sleep(1.6)
    for one in (cache, other):
        assert one.lookup(CAPITAL).reason == Reason.BELOW_THRESHOLD
        assert one.lookup(PARAPHRASE).reason == Reason.BELOW_THRESHOLD
    assert cache.lookup(BREAD).is_hit


def test_a_hit_does_not_prolong_a_life(make: Any) -> None:
    cache = make(ttl_seconds=0.3)
    cache.store(CAPITAL, "Paris")
    deadline = time.monotonic() + 0.35
    while time.monotonic() < deadline:
        cache.lookup(CAPITAL)
        cache.lookup(PARAPHRASE)
    assert not cache.lookup(CAPITAL).is_hit


def test_a_sliding_life_is_prolonged_by_hits_up_to_its_limit(make: Any) -> None:
    cache = make(sliding_seconds=20, ttl_seconds=20.5)
    cache.store(CAPITAL, "Paris")
    cache.store(BREAD, "oven")

    def end(found: Any) -> float:
        return float(found.age_seconds + found.ttl_remaining_seconds)

    wait_until(lambda: end(cache.lookup(PARAPHRASE)) > 20.05)  # longer than a step
    wait_until(lambda: cache.check_availability(CAPITAL).age_seconds > 0.6)
    assert end(cache.lookup(CAPITAL)) == pytest.approx(20.5, abs=0.01)  # and no longer than the whole
    assert end(cache.check_availability(BREAD)) == pytest.approx(20, abs=0.01)


def test_an_entrys_own_life_thresholds_its_sliding(make: Any) -> None:
    cache = make(sliding_seconds=0.2, ttl_seconds=60)
    cache.store(CAPITAL, "Paris", ttl_seconds=0.3)
    started = time.monotonic()
    while cache.lookup(CAPITAL).is_hit:
        assert time.monotonic() < started + 30
        time.sleep(0.05)


def test_keys_end_with_what_they_hold(make: Any, raw: redis.Redis, redis_config: CacheConfig) -> None:
    cache = make(ttl_seconds=1.5, eviction="lru")
    life = Life(1.5)
    cache.store(CAPITAL, "Paris")
    cache.store(BREAD, "oven", ttl_seconds=0.1)
    assert keys_of(raw, redis_config, "*") or life.may_be_over
    time.sleep(0.12)
    cache.cleanup_expired()  # makes a key for deletions
    wait_until(lambda: not keys_of(raw, redis_config, "*"), what="the end of every key")
    assert cache.cleanup_expired() == 0
    assert list(raw.scan_iter(f"{redis_config.redis_key_prefix}:*")) == []


def test_no_key_is_without_an_end_whatever_was_done(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    def check() -> None:
        ttls = {key: raw.pttl(key) for key in keys_of(raw, redis_config, "*")}
        assert ttls
        assert min(ttls.values()) > 0, ttls

    cache = make(max_entries=4)
    used = make(max_entries=4, eviction="lru")
    only = cache.store(CAPITAL, 1)
    check()
    cache.store(CAPITAL, 2)
    check()
    used.lookup(PARAPHRASE)
    check()
    cache.report_wrong(only, CAPITAL)
    cache.report_wrong(cache.lookup(CAPITAL).entry_id, CAPITAL)
    check()
    for i in range(3):
        cache.store(f"q{i}", i)
        check()
    cache.invalidate(tags=["none"], older_than_seconds=0)
    cache.invalidate(older_than_seconds=0)
    check()
    for i in range(6):
        (used if i % 2 else cache).store(f"r{i}", i)
        check()
    # Drops that leave more than they take, in a scope that has no list of deletions yet.
    many = make(context={"many": True})
    for i in range(6):
        many.store(f"q{i}", i)
        check()
    for i in range(6):
        many.store(f"q{i}", "the same")
        check()
    many.store("q0", "another")
    check()


@pytest.mark.promise("isolation")
def test_a_scope_that_had_ended_is_found_by_its_context_again(make: Any) -> None:
    cache = make(ttl_seconds=0.1)
    for _ in range(2):
        cache.store(CAPITAL, "Paris", context={"tenant": "a"})
        time.sleep(0.15)
    cache.store(CAPITAL, "Paris", context={"tenant": "a"}, ttl_seconds=60)
    assert cache.invalidate(context={"tenant": "a"}) == 1


@pytest.mark.promise("isolation")
def test_a_context_that_changed_since_the_last_call_is_another_scope(make: Any) -> None:
    cache, context = make(), {"tenant": "a", "tools": ["x"]}
    cache.store(CAPITAL, "Paris", context=context)
    assert cache.lookup(CAPITAL, context=context).is_hit
    context["tools"].append("y")
    assert not cache.lookup(CAPITAL, context=context).is_hit
    context["tools"].pop()
    assert cache.lookup(CAPITAL, context=dict(reversed(context.items()))).is_hit


def test_cleaning_up_drops_what_has_expired_and_counts_it(make: Any) -> None:
    cache = make()
    cache.store(BREAD, "oven")
    cache.store(BREAD, "oven", context={"s": 1})
    life = Life(1.5)
    cache.store(CAPITAL, "Paris", ttl_seconds=life.seconds)
    cache.store(CAPITAL, "Paris", context={"s": 1}, ttl_seconds=life.seconds)
    early = cache.cleanup_expired()
    assert early == 0 or life.may_be_over
    time.sleep(1.6)
    assert early + cache.cleanup_expired() == 2
    assert cache.cleanup_expired() == 0
    assert cache.get_stats()["expired"] == 2
    assert cache.lookup(BAKED).is_hit


@pytest.mark.parametrize(
    "response",
    [
        0,
        False,
        "",
        "text",
        b"bytes",
        2**70,
        1.5,
        [1, (2, 3), {"a": None}],
        datetime(2024, 5, 6, 7, 8, tzinfo=timezone.utc),
        {"when": datetime(2024, 5, 6), "numbers": np.arange(6, dtype=np.int16).reshape(2, 3)},
        "x" * 300_000,
        [{"i": i, "text": "abc"} for i in range(5_000)],
    ],
    ids=lambda value: f"{type(value).__name__}-{len(repr(value))}",
)
def test_any_value_comes_back_as_it_was(make: Any, response: Any) -> None:
    cache = make(policy=CachePolicy(whole_answers_only=False))
    cache.store(CAPITAL, response)
    cache.store(OTHER_PARAPHRASE, response)
    for query, reason in ((CAPITAL, Reason.EXACT), (PARAPHRASE, Reason.SEMANTIC)):
        found = cache.lookup(query)
        assert (found.is_hit, found.reason) == (True, reason)
        np.testing.assert_equal(found.response, response)
        assert type(found.response) is type(response)


def test_a_value_that_would_not_come_back_is_refused(make: Any) -> None:
    cache = make()
    with pytest.raises(InvalidInput):
        cache.store(CAPITAL, object())
    assert cache.lookup(CAPITAL).reason == Reason.EMPTY


@pytest.mark.parametrize("eviction", ["fifo", "lru", "lfu"])
def test_when_there_are_too_many_one_goes(make: Any, eviction: str) -> None:
    cache = make(max_entries=3, eviction=eviction)
    for text in "abc":
        cache.store(text, text.upper(), query_embedding=mix(**{text: 1.0}))
    uses = {"a": 3, "b": 1, "c": 2}
    for _ in range(3):
        for text in "acb":
            if uses[text]:
                uses[text] -= 1
                # By the exact text, and by the meaning.
                query = text if uses[text] % 2 else f"{text}{text}"
                assert cache.lookup(query, query_embedding=mix(**{text: 1.0})).is_hit
                time.sleep(0.002)
    cache.store("d", "D", query_embedding=mix(d=1.0))
    left = [text for text in "abcd" if cache.check_availability(text)]
    # Used last: b, c, a (in the last rounds). Used most: a, c, b.
    assert left == {"fifo": list("bcd"), "lru": list("acd"), "lfu": list("acd")}[eviction]
    assert cache.get_stats()["evicted"] == 1
    assert cache.get_stats()["entries"] == 3


def test_a_smaller_limit_is_reached_at_the_next_store(make: Any) -> None:
    for i in range(6):
        make(max_entries=6).store(f"q{i}", i)
    make(max_entries=2).store("last", 9)
    cache = make()
    assert [text for text in [f"q{i}" for i in range(6)] if cache.lookup(text)] == ["q5"]
    assert cache.lookup("last").is_hit


def test_an_expired_entry_makes_room_before_a_living_one_must(make: Any) -> None:
    cache = make(max_entries=2)
    cache.store("old", 1)
    cache.store("short", 2, ttl_seconds=0.05)
    time.sleep(0.07)
    cache.store("new", 3)
    assert cache.lookup("old").is_hit


def test_equal_responses_are_kept_once_and_as_long_as_one_needs_them(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache = make(max_entries=2)
    for text in ("q1", "q2"):
        cache.store(text, "the same")
    (responses,) = keys_of(raw, redis_config, "responses")
    assert raw.hlen(responses) == 1
    cache.store("q3", "other")
    assert raw.hlen(responses) == 2
    assert cache.lookup("q2").response == "the same"
    cache.store("q4", "other")
    assert raw.hlen(responses) == 1
    assert not cache.lookup("q2").is_hit


# -- dropping ------------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_a_context_is_dropped_with_everything_that_has_it(make: Any) -> None:
    cache = make(context={"app": "x"})
    for tenant in ("a", "b"):
        for model in ("m", "n"):
            for query in (CAPITAL, BREAD):
                cache.store(query, query, context={"tenant": tenant, "model": model})
    elsewhere = make(context={"app": "y", "tenant": "a"})
    elsewhere.store(CAPITAL, "Paris")
    assert cache.invalidate(context={"tenant": "a"}) == 4
    assert not cache.lookup(PARAPHRASE, context={"tenant": "a", "model": "m"}).is_hit
    assert cache.lookup(PARAPHRASE, context={"tenant": "b", "model": "m"}).is_hit
    assert cache.invalidate(context={"tenant": "b", "model": "n"}) == 2
    assert cache.invalidate(context={}) == 2
    assert cache.invalidate(context={}) == 0
    assert elsewhere.lookup(CAPITAL).is_hit
    assert cache.get_stats()["invalidated"] == 8


def test_entries_are_dropped_by_tag(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, 1, tags=["geo", "fr"])
    cache.store(BREAD, 2, tags=["food"])
    cache.store("untagged", 3)
    assert cache.invalidate(tags=["nothing"]) == 0
    assert cache.invalidate(tags=["fr", "nothing"]) == 1
    assert [bool(cache.lookup(q)) for q in (CAPITAL, PARAPHRASE, BREAD, "untagged")] == [
        False,
        False,
        True,
        True,
    ]


def test_entries_are_dropped_by_age(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, 1)
    time.sleep(0.6)
    young = Life(0.5)
    cache.store(BREAD, 2)
    assert cache.invalidate(older_than_seconds=60) == 0
    assert cache.invalidate(older_than_seconds=young.seconds) == 1 or young.may_be_over
    assert not cache.lookup(CAPITAL).is_hit
    assert cache.lookup(BREAD).is_hit or young.may_be_over


def test_entries_are_dropped_by_meaning(make: Any) -> None:
    cache = make()
    for session in (1, 2):
        cache.store(CAPITAL, 1, context={"s": session}, tags=["x"])
        cache.store(BREAD, 2, context={"s": session})
    assert cache.invalidate(similar_to=PARAPHRASE, similarity=0.99) == 0
    assert cache.invalidate(similar_to=PARAPHRASE, context={"s": 1}) == 1
    assert cache.invalidate(similar_to=PARAPHRASE, tags=["y"]) == 0
    assert cache.invalidate(similar_to=PARAPHRASE, tags=["x"]) == 1
    assert [bool(cache.lookup(BREAD, context={"s": s})) for s in (1, 2)] == [True, True]


def test_all_that_is_given_must_fit(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, 1, tags=["a"])
    cache.store(BREAD, 2, tags=["b"])
    assert cache.invalidate(tags=["a"], older_than_seconds=60) == 0
    assert cache.invalidate(tags=["a"], older_than_seconds=0, context={}) == 1


def test_many_are_dropped_page_by_page(make: Any) -> None:
    cache = make()
    for i in range(700):
        cache.store(f"q{i}", i, query_embedding=mix(a=1, b=i / 100), tags=["even" if i % 2 == 0 else "odd"])
    assert cache.lookup("q", query_embedding=mix(a=1)).reason in (Reason.MARGIN, Reason.SEMANTIC)
    assert cache.invalidate(tags=["even"]) == 350
    assert cache.get_stats()["entries"] == 350
    assert cache.invalidate(similar_to="x", similarity=-1) == 350
    assert cache.lookup("q1").reason == Reason.EMPTY


def test_dropping_everything_by_accident_is_refused(make: Any) -> None:
    cache = make()
    with pytest.raises(InvalidInput, match=r"context=\{\} means everything"):
        cache.invalidate()
    for wrong in (
        {"older_than_seconds": -1},
        {"older_than_seconds": "1"},
        {"similar_to": "x", "similarity": 2},
        {"similar_to": ""},
        {"tags": "tag"},
    ):
        with pytest.raises(InvalidInput):
            cache.invalidate(**wrong)
    with pytest.raises(ConfigError, match="needs an embedder"):
        make(embedder=None).invalidate(similar_to="x")


def test_a_process_that_missed_many_deletions_gets_everything_anew(make: Any) -> None:
    late, busy = apart(make(max_entries=20)), make(max_entries=20)
    busy.store("first", 0, query_embedding=mix(a=1))
    assert late.lookup("x", query_embedding=mix(a=1)).is_hit
    for i in range(2100):
        busy.store(f"q{i}", i, query_embedding=mix(b=1, c=i / 1000))
    assert late.lookup("x", query_embedding=mix(a=1)).reason == Reason.BELOW_THRESHOLD
    (kept,) = late._core.redis.store.indexes._indexes.values()
    assert len(kept.index) == 20
    assert late.lookup("q2099").response == 2099


# -- wrong answers -------------------------------------------------------------------------


def test_a_reported_answer_never_answers_that_query_again(make: Any) -> None:
    cache, other = make(), make()
    cache.store(CAPITAL, "Lyon")
    found = cache.lookup(PARAPHRASE)
    assert cache.report_wrong(found.entry_id, PARAPHRASE) == Report(noted=True)
    for one in (cache, other):
        assert one.lookup(PARAPHRASE).reason == Reason.REPORTED
        assert one.lookup(CAPITAL).response == "Lyon"
        assert one.lookup(OTHER_PARAPHRASE).response == "Lyon"
    # Not even if it is stored for another query, or for this one.
    cache.store(OTHER_PARAPHRASE, "Lyon")
    assert cache.lookup(PARAPHRASE).reason == Reason.REPORTED
    assert cache.store(PARAPHRASE, "Lyon") is None
    assert cache.lookup(PARAPHRASE).reason == Reason.REPORTED
    stats = cache.get_stats()
    assert (stats["wrong_reports"], stats["reported_queries"]) == (1, 1)
    assert stats["stores_refused"] == {"reported": 1}


def test_the_right_answer_can_be_stored_after_a_report(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Lyon")
    cache.report_wrong(cache.lookup(PARAPHRASE).entry_id, PARAPHRASE)
    assert cache.store(PARAPHRASE, "Paris") is not None
    assert cache.lookup(PARAPHRASE).response == "Paris"


def test_a_report_about_the_entrys_own_query_drops_it(make: Any) -> None:
    cache = make()
    entry_id = cache.store(CAPITAL, "Lyon")
    assert cache.report_wrong(entry_id, f" {CAPITAL}") == Report(noted=True, dropped=True)
    assert cache.lookup(CAPITAL).reason == Reason.EMPTY
    assert cache.get_stats()["entries"] == 0
    assert cache.report_wrong(entry_id, CAPITAL) == Report(noted=False)


def test_a_report_is_remembered_when_everything_is_dropped(make: Any) -> None:
    cache = make()
    entry_id = cache.store(CAPITAL, "Lyon")
    cache.report_wrong(entry_id, CAPITAL)
    cache.store(BREAD, 1)
    cache.invalidate(context={})
    assert cache.store(CAPITAL, "Lyon") is None
    assert cache.store(CAPITAL, "Paris") is not None


def test_several_answers_can_be_reported_for_one_query(make: Any) -> None:
    cache = make()
    for answer in ("Lyon", "Nice", "Metz"):
        cache.report_wrong(cache.store(CAPITAL, answer), CAPITAL)
        cache.report_wrong(cache.store("x", answer), CAPITAL)
    assert [cache.store(CAPITAL, a) is None for a in ("Lyon", "Nice", "Metz", "Paris")] == [True] * 3 + [
        False
    ]


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("forged", ["another context", "another nonce", "another number"])
def test_a_report_on_what_is_no_entry_of_the_callers_writes_nothing(
    make: Any, redis_server: RedisServer, redis_config: CacheConfig, forged: str
) -> None:
    acme, evil = make(context={"tenant": "acme"}), make(context={"tenant": "evil"})
    entry_id = acme.store(CAPITAL, "Paris", context={"user": 1})
    evil.store(CAPITAL, "Paris")
    number, nonce = entry_id.split(".")
    reports = {
        "another context": [
            (evil, entry_id, None),
            (evil, entry_id, {"user": 1}),
            (acme, entry_id, {"user": 2}),
        ],
        "another nonce": [(acme, f"{number}.{'0' * 16}", {"user": 1})],
        "another number": [(acme, f"1-1.{nonce}", {"user": 1})],
    }
    with redis_server.client() as client:
        before = {key: client.dump(key) for key in client.scan_iter(f"{redis_config.redis_key_prefix}*")}
        for cache, one, context in reports[forged]:
            assert cache.report_wrong(one, CAPITAL, context=context) == Report(noted=False)
            assert not cache.report_wrong(one, CAPITAL, context=context)
        after = {key: client.dump(key) for key in client.scan_iter(f"{redis_config.redis_key_prefix}*")}
    assert after == before
    assert evil.get_stats()["wrong_reports"] == 0
    assert acme.lookup(CAPITAL, context={"user": 1}).response == "Paris"
    assert acme.report_wrong(entry_id, CAPITAL, context={"user": 1}).dropped
    assert acme.store(CAPITAL, "Paris", context={"user": 1}) is None
    assert acme.store(CAPITAL, "Paris", context={"user": 2}) is not None


@pytest.mark.promise("isolation")
def test_an_id_cannot_be_told_from_what_was_stored(make: Any) -> None:
    cache = make()
    ids = {cache.store(CAPITAL, "Paris").split(".")[1] for _ in range(10)}
    assert len(ids) == 10


def test_only_an_entrys_id_can_be_reported(make: Any) -> None:
    with pytest.raises(InvalidInput, match="not the id of an entry"):
        make().report_wrong("../evil", CAPITAL)


# -- looking without touching --------------------------------------------------------------


@pytest.mark.parametrize("eviction", ["fifo", "lru", "lfu"])
def test_a_hit_that_is_refused_for_its_age_has_not_been_used(make: Any, eviction: str) -> None:
    policy = CachePolicy(time_sensitive_seconds=0.2, follow_ups=True)
    cache = make(policy=policy, sliding_seconds=100, ttl_seconds=300, eviction=eviction, max_entries=2)
    vector = mix(a=1)
    cache.store("old one", "old", query_embedding=vector)
    time.sleep(0.3)
    cache.store("new one", "new", query_embedding=mix(b=1))
    before = cache.check_availability("old one").ttl_remaining_seconds
    for _ in range(5):
        found = cache.lookup("what is the latest", query_embedding=vector)
        assert (found.reason, found.is_hit) == (Reason.GUARD, False)
        assert not cache.check_availability("what is the latest", query_embedding=vector)
    assert cache.check_availability("old one").ttl_remaining_seconds < before
    cache.store("third one", "third", query_embedding=mix(c=1))
    assert not cache.check_availability("old one")


def test_availability_leaves_no_trace(make: Any) -> None:
    cache = make(eviction="lru", max_entries=2, sliding_seconds=100, ttl_seconds=300)
    cache.store("a", "A", query_embedding=mix(a=1))
    time.sleep(0.002)
    cache.store("b", "B", query_embedding=mix(b=1))
    before = cache.get_stats()
    time.sleep(0.002)
    exact = cache.check_availability("a")
    near = cache.check_availability("aa", query_embedding=mix(a=1, c=0.1))
    far = cache.check_availability("zz", query_embedding=mix(p=1))
    assert (exact.is_hit, exact.reason, exact.response) == (True, Reason.EXACT, None)
    assert (near.is_hit, near.reason, near.response) == (True, Reason.SEMANTIC, None)
    assert far.reason == Reason.BELOW_THRESHOLD
    assert exact.entry_id == near.entry_id
    assert near.ttl_remaining_seconds < 100
    after = cache.get_stats()
    for name in ("hits", "misses", "entries", "saved"):
        assert after[name] == before[name]
    cache.store("c", "C", query_embedding=mix(c=1))
    assert not cache.check_availability("a")


# -- numbers -------------------------------------------------------------------------------


def test_stats_count_answers_by_reason_and_what_they_saved(make: Any) -> None:
    cache = make(prices=Prices(prompt=1.0, completion=10.0, currency="EUR"))
    cache.lookup(CAPITAL)
    cache.store(CAPITAL, "Paris", tokens=(1000, 200))
    cache.lookup(CAPITAL)
    cache.lookup(PARAPHRASE)
    cache.lookup(LARGEST)
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["hit_ratio"]) == (2, 2, 0.5)
    assert stats["hits_by_reason"] == {"exact": 1, "semantic": 1}
    assert stats["misses_by_reason"] == {"empty": 1, "below_threshold": 1}
    assert stats["saved"] == {
        "calls": 2,
        "prompt_tokens": 2000,
        "completion_tokens": 400,
        "money": pytest.approx(0.006),
        "currency": "EUR",
    }
    assert (stats["stored"], stats["scopes"], stats["entries"]) == (1, 1, 1)
    assert stats["bytes"] > 100
    assert stats["index_bytes"] > 0
    latency = stats["latency"]
    assert latency["lookup"]["count"] == 4
    assert 0 < latency["lookup"]["p50_ms"] <= latency["lookup"]["p95_ms"] <= latency["lookup"]["p99_ms"]
    assert latency["embed"]["count"] >= 2
    assert latency["store"]["count"] == 1


def test_tokens_are_estimated_where_they_are_not_given(make: Any) -> None:
    cache = make()
    cache.store("x" * 40, "y" * 38)
    cache.lookup("x" * 40)
    saved = cache.get_stats()["saved"]
    assert saved["prompt_tokens"] == 10
    assert saved["completion_tokens"] == 10
    assert "money" not in saved


@pytest.mark.promise("isolation")
def test_stats_are_those_of_the_caches_own_context(make: Any) -> None:
    make(context={"tenant": "a"}).store(CAPITAL, 1)
    cache = make(context={"tenant": "b"})
    for session in (1, 2):
        cache.store(CAPITAL, 1, context={"s": session})
    stats = cache.get_stats()
    assert (stats["scopes"], stats["entries"], stats["redis"]) == (2, 2, "ok")


def test_health_says_how_each_part_is(make: Any, embedder: Meanings) -> None:
    verifier = Scores()
    cache = make(verifier=verifier, deadline_seconds=1.0)
    healthy = cache.health_check()
    assert healthy["status"] == "ok"
    parts = healthy["components"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "redis": "ok",
        "embedder": "ok",
        "verifier": "ok",
        "index": "ok",
    }
    assert parts["embedder"]["id"] == "meanings-1"
    embedder.error = RuntimeError("no model")
    verifier.error = ValueError("no scores")
    ill = cache.health_check()
    assert ill["status"] == "degraded"
    assert ill["components"]["embedder"]["status"] == "down"
    # Of foreign errors the type alone: their texts may quote anything.
    assert ill["components"]["embedder"]["detail"].startswith("builtins.RuntimeError at line ")
    assert "builtins.ValueError at line " in ill["components"]["verifier"]["detail"]
    assert make(embedder=None).health_check()["components"]["embedder"] == {"status": "off"}


def test_the_health_says_whether_the_thresholds_fit_the_embedder(
    twins: Twins, redis_config: CacheConfig
) -> None:
    def fit(embedder: Any, **options: Any) -> Any:
        cache = twins.make("SemanticCache", embedder, redis_config, **options)
        return cache.health_check()["thresholds"]

    assert fit(HashingEmbedder()) == fit(Meanings(name="all-MiniLM-L6-v2")) == "measured"
    assert fit(Meanings(name="another")) == "cautious"
    assert fit(HashingEmbedder(), thresholds=THRESHOLDS) == fit(Meanings(), thresholds=THRESHOLDS) == "own"


# -- foreign data --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCOPE_KEYS)
@pytest.mark.promise("no-false-empty")
def test_a_key_of_another_kind_is_an_error_and_nothing_is_written(
    make: Any, raw: redis.Redis, redis_config: CacheConfig, name: str
) -> None:
    cache = make(eviction="lru")
    cache.store(CAPITAL, 1)
    key = keys_of(raw, redis_config, "entries")[0].replace(b":entries:", f":{name}:".encode())
    raw.delete(key)
    raw.set(key, "foreign")
    before = {k: raw.dump(k) for k in keys_of(raw, redis_config, "*")}
    with pytest.raises(RedisCommandError):
        cache.store(BREAD, 2)
    assert {k: raw.dump(k) for k in keys_of(raw, redis_config, "*")} == before


@pytest.mark.promise("no-false-empty")
def test_an_entry_that_is_not_ours_is_an_error(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache = make()
    cache.store(CAPITAL, 1)
    (entries,) = keys_of(raw, redis_config, "entries")
    (number,) = raw.hkeys(entries)
    raw.hset(entries, number, "foreign")
    for call in (
        lambda: cache.lookup(CAPITAL),
        lambda: cache.lookup(PARAPHRASE),
        lambda: cache.invalidate(tags=["x"]),
    ):
        with pytest.raises(RedisCommandError, match="foreign data"):
            call()


@pytest.mark.promise("no-false-empty")
def test_a_record_that_is_not_ours_is_an_error(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache = make()
    cache.store(CAPITAL, 1)
    (log,) = keys_of(raw, redis_config, "log")
    raw.xadd(log, {"record": "foreign"})
    with pytest.raises(RedisCommandError, match="foreign data"):
        cache.lookup(PARAPHRASE)
    assert cache.lookup(CAPITAL).is_hit


@pytest.mark.promise("no-false-empty")
def test_a_response_that_is_not_ours_is_an_error(
    make: Any, raw: redis.Redis, redis_config: CacheConfig
) -> None:
    cache = make()
    cache.store(CAPITAL, 1)
    (responses,) = keys_of(raw, redis_config, "responses")
    (name,) = raw.hkeys(responses)
    raw.hset(responses, name, b"\xff\xfe no response")
    for query in (CAPITAL, PARAPHRASE):
        with pytest.raises(RedisCommandError, match="a response of the semantic cache holds foreign data"):
            cache.lookup(query)


@pytest.mark.parametrize("name", SCOPE_KEYS[:-1])
def test_a_key_that_a_full_server_evicted_makes_misses_and_no_wrong_answer(
    make: Any, raw: redis.Redis, redis_config: CacheConfig, name: str
) -> None:
    cache = make(eviction="lru", max_entries=3)
    for text in (CAPITAL, BREAD, "third"):
        cache.store(text, text)
    assert cache.lookup(PARAPHRASE).is_hit
    for key in keys_of(raw, redis_config, name):
        raw.delete(key)
    for query, answer in ((CAPITAL, CAPITAL), (PARAPHRASE, CAPITAL), (BAKED, BREAD), ("third", "third")):
        for one in (cache, make()):
            assert one.lookup(query).response in (answer, None)
    for i in range(4):
        cache.store(f"q{i}", i)
        assert cache.lookup(f"q{i}").response == i
    cache.cleanup_expired()
    assert cache.get_stats()["entries"] <= 4


def test_no_command_looks_for_keys_by_a_pattern(make: Any, redis_server: RedisServer) -> None:
    redis_server.reset_stats()
    cache = make(eviction="lfu")
    cache.store(CAPITAL, 1, tags=["a"])
    cache.lookup(CAPITAL)
    cache.lookup(PARAPHRASE)
    cache.report_wrong(cache.lookup(PARAPHRASE).entry_id, PARAPHRASE)
    cache.invalidate(tags=["a"])
    cache.invalidate(context={})
    cache.cleanup_expired()
    cache.get_stats()
    assert not {"keys", "scan"} & {name.lower() for name in redis_server.command_stats()}
