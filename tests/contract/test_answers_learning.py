"""Answers that a model wrote, audits, and thresholds that follow what a scope shows: both variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lix_cache import DEFAULT_THRESHOLDS, CacheConfig, HashingEmbedder, Reason, SemanticSettings
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.semantic import with_settings
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("right-answer")

ONE = "Open the settings and choose a new password there."
TWO = "You can choose another password under your settings."
THREE = "Under your settings there is a place for another password."
OTHER = "Our shops are open from nine to six on all days."
TABLE: dict[str, Any] = {
    "how do I reset it": mix(a=1.0),
    "how can it be reset": mix(a=0.9, b=0.436),
    "way to reset it": mix(a=0.95, b=0.15, c=0.27),
    "when are you open": mix(a=0.9, d=0.436),
    ONE: mix(g=1.0),
    TWO: mix(g=0.95, h=0.312),
    THREE: mix(g=0.95, j=0.312),
    OTHER: mix(i=1.0),
}
FIRST, SECOND, ASKED, HOURS = list(TABLE)[:4]


@pytest.fixture
def make(twins: Twins, redis_config: CacheConfig) -> Any:
    def build(**options: Any) -> Any:
        settings = {
            "guards": False,
            "policy": ANYTHING,
            "audit_rate": 0,
            "thresholds": DEFAULT_THRESHOLDS,
            **options,
        }
        return twins.make(
            "SemanticCache",
            Meanings(TABLE, name="all-MiniLM-L6-v2"),
            redis_config,
            **with_settings(**settings),
        )

    return build


@pytest.fixture
def raw(redis_server: RedisServer) -> Any:
    client = redis_server.client()
    yield client
    client.close()


def fill(cache: Any, second: str) -> None:
    """Many entries that are far from all else, and two near ones."""
    for i in range(260):
        cache.store(f"filler {i}", i)
    for question, answer in ((FIRST, ONE), (SECOND, second), (HOURS, THREE if second == TWO else OTHER)):
        cache.store(question, answer)
        assert cache.settle(30)
    cache.lookup("far from everything")


def test_two_answers_in_other_words_do_not_block_each_other(make: Any) -> None:
    cache = make()
    fill(cache, TWO)
    assert cache.lookup(ASKED).reason == Reason.SEMANTIC
    assert make().lookup(ASKED).reason == Reason.SEMANTIC  # another process knows it from Redis


def test_an_answer_that_says_something_else_blocks(make: Any) -> None:
    cache = make()
    fill(cache, OTHER)
    assert not cache.lookup(ASKED).is_hit


def test_a_lexical_hit_does_not_depend_on_whether_its_answer_was_embedded(
    twins: Twins, redis_config: CacheConfig
) -> None:
    cache = twins.make(
        "SemanticCache", HashingEmbedder(), redis_config, settings=SemanticSettings(audit_rate=0)
    )
    cache.store("Where is the billing page?", "small says: it is in the settings")
    for _ in range(2):
        assert cache.lookup("where is the billing page please").reason == Reason.SEMANTIC
        assert cache.settle(30)
        cache.lookup("far from everything")


def test_without_their_vectors_answers_are_compared_by_equality(make: Any) -> None:
    cache = make(embed_answers=False)
    fill(cache, TWO)
    assert not cache.lookup(ASKED).is_hit


def test_an_entry_takes_the_vector_of_its_response_along_when_it_goes(
    make: Any, raw: Any, redis_config: CacheConfig
) -> None:
    cache = make(max_entries=2)
    for question in (FIRST, SECOND, ASKED, HOURS):
        cache.store(question, ONE)
        assert cache.settle(30)
    cache.lookup("far from everything")
    (log,) = raw.keys(f"{redis_config.redis_key_prefix}:*:ans:log:*")
    assert raw.xlen(log) <= 4
    cache.invalidate(context={})
    assert raw.xlen(log) == 0


def test_an_audited_hit_is_a_miss_whose_answer_is_compared(make: Any) -> None:
    cache = make(audit_rate=1.0)
    cache.store(FIRST, 1)
    cache.store(SECOND, 1)
    for answer in (1, 2):
        assert cache.lookup(ASKED).reason == Reason.AUDIT
        assert cache.check_availability(ASKED).is_hit
        cache.store(ASKED, answer)
        cache.lookup("far from everything")
        cache.invalidate(similar_to=ASKED, similarity=0.999)
    stats = cache.get_stats()
    assert (stats["audits"], stats["audits_wrong"]) == (2, 1)
    low, high = stats["false_hit_rate_95"]
    assert low < 0.5 < high
    assert make().get_stats()["audits"] == 2


def test_a_scope_whose_misses_disagree_asks_for_more(twins: Twins, redis_config: CacheConfig) -> None:
    rng = np.random.default_rng(1)

    def unit() -> Any:
        vector = rng.normal(size=256)
        return vector / np.linalg.norm(vector)

    table = {}
    for i in range(60):
        one, other = unit(), unit()
        other -= (one @ other) * one
        for name, cosine in (("near", 0.8), ("nearer", 0.92)):
            table[f"{name} {i}"] = cosine * one + (1 - cosine**2) ** 0.5 * other / np.linalg.norm(other)
        table[f"question {i}"] = one
    embedder = Meanings(table, dim=256, name="all-MiniLM-L6-v2")
    settings = {"guards": False, "policy": ANYTHING, "audit_rate": 0}

    def make(**more: Any) -> Any:
        return twins.make("SemanticCache", embedder, redis_config, **with_settings(**settings, **more))

    def ask(cache: Any, agree: bool) -> Any:
        for i in range(59):
            cache.store(f"question {i}", i)
            assert cache.lookup(f"near {i}").reason == Reason.SCORE
            cache.store(f"near {i}", i if agree else -i - 1)
        cache.store("question 59", 59)
        cache.lookup("far from everything")
        return cache.lookup("nearer 59")

    assert ask(make(context={"world": "friendly"}), agree=True).is_hit
    assert ask(make(context={"world": "hostile"}), agree=False).reason == Reason.SCORE
    # Another process knows it as well, and one that does not calibrate answers.
    hostile = {"context": {"world": "hostile"}}
    other = make(**hostile)
    other.lookup("far from everything")
    assert other.lookup("nearer 59").reason == Reason.SCORE
    assert make(**hostile, target_false_hit_rate=None).lookup("nearer 59").is_hit
