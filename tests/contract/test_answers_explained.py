"""``explain``: the decision of a lookup and the entries that it was made among, in both variants."""

from __future__ import annotations

from typing import Any

import pytest

from lix_cache import Explanation, Neighbour
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, EmbedderUnavailable, InvalidInput
from lix_cache.matching.thresholds import Thresholds
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.semantic import apart, with_settings
from tests.support.twins import Twins

TABLE = {
    "what is the capital of France": mix(a=1.0),
    "France's capital?": mix(a=0.98, b=0.199),
    "what is the largest city of France": mix(a=0.9, d=0.436),
    "how do I bake bread": mix(e=1.0),
    "how do I turn on the lights": mix(g=1.0),
    "how do I turn off the lights": mix(g=0.99, h=0.141),
}
CAPITAL, PARAPHRASE, LARGEST, BREAD, ON, OFF = TABLE


@pytest.fixture
def make(twins: Twins, redis_config: CacheConfig) -> Any:
    def build(**options: Any) -> Any:
        embedder = options.pop("embedder", None) or Meanings(TABLE)
        fixed = {"thresholds": Thresholds(threshold=0.92, margin=0.05), "policy": ANYTHING, "audit_rate": 0}
        return twins.make("SemanticCache", embedder, redis_config, **with_settings(**{**fixed, **options}))

    return build


def test_the_neighbours_come_with_similarity_answer_and_objection(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    cache.store(LARGEST, "Paris")
    cache.store(BREAD, "Slowly")
    cache.store(ON, "The switch")
    why = cache.explain(PARAPHRASE)
    assert (why.found.is_hit, why.found.reason, why.found.response) == (True, "semantic", None)
    assert [(one.answer, round(one.similarity, 2)) for one in why.neighbours][:2] == [(0, 0.98), (0, 0.88)]
    assert {one.answer for one in why.neighbours[2:]} == {1, 2}
    assert why.votes == 2
    assert why.entries == 4
    assert why.thresholds.threshold == 0.92
    assert all(one.ttl_remaining_seconds > 0 for one in why.neighbours)
    stopped = cache.explain(OFF)
    assert (stopped.found.is_hit, stopped.found.reason) == (False, "guard")
    assert stopped.neighbours[0].guard == "direction"
    assert len(cache.explain(OFF, limit=1).neighbours) == 1
    assert cache.explain(PARAPHRASE, similarity_threshold=0.99).found.reason == "below_threshold"
    assert cache.explain(PARAPHRASE, similarity_threshold=0.99).thresholds.threshold == 0.99


def test_an_exact_hit_has_neighbours_too(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    cache.store(BREAD, "Slowly")
    why = apart(cache).explain(CAPITAL)
    assert why.found.reason == "exact"
    assert round(why.neighbours[0].similarity, 3) == 1.0
    assert len(why.neighbours) == 2


@pytest.mark.promise("isolation")
def test_it_sees_its_own_scope_alone(make: Any) -> None:
    make(context={"tenant": "ann"}).store(CAPITAL, "Paris")
    why = make(context={"tenant": "bob"}).explain(CAPITAL)
    assert (why.found.reason, why.neighbours, why.entries) == ("empty", (), 0)


def test_it_leaves_no_trace(make: Any, redis_server: RedisServer, redis_config: CacheConfig) -> None:
    cache = make(eviction="lru", sliding_seconds=60)
    cache.store(CAPITAL, "Paris")
    client = redis_server.client(db=redis_config.semantic_redis_db)

    def state() -> dict[bytes, Any]:
        names = [name for name in client.keys(f"{redis_config.redis_key_prefix}:*") if b":ans:" in name]
        return {name: client.dump(name) for name in sorted(names)}

    stats, before = cache.get_stats()["hits_by_reason"], state()
    for question in (CAPITAL, PARAPHRASE, BREAD):
        cache.explain(question)
    assert state() == before
    assert cache.get_stats()["hits_by_reason"] == stats


def test_where_nothing_could_be_looked_at_there_is_the_reason(make: Any) -> None:
    embedder = Meanings(TABLE)
    cache = make(embedder=embedder)
    cache.store(CAPITAL, "Paris")
    embedder.error = EmbedderUnavailable("away")
    why = cache.explain(PARAPHRASE)
    assert (why.found.reason, why.neighbours, why.score) == ("embedder_failed", (), None)
    assert cache.explain(CAPITAL).found.reason == "exact", "that needs no vector"
    for limit in (0, 51, True, "8"):
        with pytest.raises(ConfigError, match="limit"):
            cache.explain(CAPITAL, limit=limit)
    with pytest.raises(InvalidInput):
        cache.explain("")


@pytest.mark.promise("no-leak")
def test_no_text_is_in_a_repr(make: Any) -> None:
    cache = make()
    cache.store(CAPITAL, "Paris")
    why = cache.explain(PARAPHRASE)
    assert isinstance(why, Explanation)
    assert isinstance(why.neighbours[0], Neighbour)
    assert "France" not in repr(why)
