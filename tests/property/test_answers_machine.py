"""Two processes on one semantic cache against a model: whatever is done, in whatever order,
nothing crosses a scope, nothing that should be gone answers, and what should answer does."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lix_cache import Reason, SemanticCache, SemanticSettings
from lix_cache.config import CacheConfig
from lix_cache.errors import InvalidContext
from lix_cache.matching.thresholds import Thresholds
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix, spelled
from tests.support.semantic import apart

pytestmark = pytest.mark.promise("right-answer")

#: Two topics with three paraphrases each: close to each other, far from the other topic.
TABLE = {
    f"{topic}{number}": mix(24, **{topic: 1.0, chr(ord("d") + "ab".index(topic) * 3 + number): 0.12})
    for topic in "ab"
    for number in range(3)
}
THRESHOLDS = Thresholds(threshold=0.9, margin=0.05)
CONTEXTS: list[dict[str, Any]] = [
    {"tenant": "x"},
    {"tenant": "y"},
    {"tenant": "x", "session": 1},
    {"tenant": "x", "session": "1"},
]

paraphrases = st.sampled_from(sorted(TABLE))
scopes = st.sampled_from([0, 0, 0, 1, 2, 3])
answers = st.integers(0, 1)
tag_sets = st.sampled_from([frozenset(), frozenset({"red"}), frozenset({"blue"}), frozenset({"red", "blue"})])
whos = st.integers(0, 1)
_SHORT = 0.04


@dataclass
class Entry:
    answer: int
    tags: frozenset[str]
    is_short: bool
    entry_id: str


class AnswersMachine(RuleBasedStateMachine):
    """The model is a dict for each scope. Answers tell their scope and topic."""

    config: CacheConfig

    def __init__(self) -> None:
        super().__init__()
        self.config = self.config.replace(redis_key_prefix=f"t{uuid.uuid4().hex}")
        self.caches = [self.new() for _ in range(2)]
        self.model: list[dict[str, Entry]] = [{} for _ in CONTEXTS]
        self.wrong: set[tuple[int, str, str]] = set()
        self.ids: dict[str, tuple[int, str, str, bool]] = {}

    def new(self) -> SemanticCache:
        cache = SemanticCache(
            Meanings(TABLE, dim=24),
            self.config,
            thresholds=THRESHOLDS,
            guards=False,
            policy=ANYTHING,
            settings=SemanticSettings(ttl_seconds=300),
        )
        return apart(cache)  # as of two processes

    def text(self, scope: int, query: str, answer: int) -> str:
        return f"{scope} {query[0]} {answer}"

    @rule(
        who=whos,
        scope=scopes,
        query=paraphrases,
        answer=answers,
        tags=tag_sets,
        is_short=st.sampled_from([False, False, False, True]),
    )
    def store(
        self, who: int, scope: int, query: str, answer: int, tags: frozenset[str], is_short: bool
    ) -> None:
        text = self.text(scope, query, answer)
        ttl = _SHORT if is_short else None
        entry_id = self.caches[who].store(
            query, text, context=CONTEXTS[scope], tags=sorted(tags), ttl_seconds=ttl
        )
        if (scope, query, text) in self.wrong:
            assert entry_id is None
            return
        assert entry_id is not None
        self.ids[entry_id] = (scope, query, text, is_short)
        self.model[scope][query] = Entry(answer, tags, is_short, entry_id)

    @rule(who=whos, scope=scopes, peek=st.booleans())
    def look_everything_up(self, who: int, scope: int, peek: bool) -> None:
        for query in sorted(TABLE):
            self.look_up(who, scope, query, peek)

    def look_up(self, who: int, scope: int, query: str, peek: bool) -> None:
        cache = self.caches[who]
        call = cache.check_availability if peek else cache.lookup
        started = time.monotonic()
        found = call(query, context=CONTEXTS[scope])
        live = self.model[scope]
        near = {w: e for w, e in live.items() if w[0] == query[0]}
        texts = {self.text(scope, w, e.answer) for w, e in near.items()}
        if found.is_hit:
            assert peek or found.response in texts
        # What is short may have ended or not; the rest is certain.
        if any(e.is_short for e in near.values()) and time.monotonic() - started < 60:
            return
        if query in near:
            assert found.is_hit
            assert found.reason == Reason.EXACT
            assert peek or found.response == self.text(scope, query, near[query].answer)
        elif not live:
            assert found.reason == Reason.EMPTY
        elif not near or len(texts) > 1:
            assert not found.is_hit
        elif (scope, query, *texts) in self.wrong:
            assert found.reason == Reason.REPORTED
        else:
            assert found.is_hit, found
            assert found.reason == Reason.SEMANTIC

    @precondition(lambda self: any(e.is_short for live in self.model for e in live.values()))
    @rule()
    def wait(self) -> None:
        time.sleep(_SHORT + 0.01)
        self.model = [{w: e for w, e in live.items() if not e.is_short} for live in self.model]

    @rule(who=whos)
    def clean_up(self, who: int) -> None:
        assert self.caches[who].cleanup_expired() >= 0

    @rule(who=whos, tags=st.sampled_from([frozenset({"red"}), frozenset({"red", "blue"})]))
    def drop_tags(self, who: int, tags: frozenset[str]) -> None:
        for live in self.model:
            for query in [w for w, e in live.items() if e.tags & tags]:
                del live[query]
        self.caches[who].invalidate(tags=sorted(tags))

    @rule(who=whos, context=st.sampled_from([{}, {"tenant": "x"}, {"session": 1}, {"tenant": "y"}]))
    def drop_context(self, who: int, context: dict[str, Any]) -> None:
        for i, known in enumerate(CONTEXTS):
            if all(key in known and repr(known[key]) == repr(value) for key, value in context.items()):
                self.model[i] = {}
        self.caches[who].invalidate(context=context)

    @rule(who=whos, topic=st.sampled_from("ab"), scope=scopes)
    def drop_meaning(self, who: int, topic: str, scope: int) -> None:
        for i, known in enumerate(CONTEXTS):
            if CONTEXTS[scope].items() <= known.items():
                self.model[i] = {w: e for w, e in self.model[i].items() if w[0] != topic}
        self.caches[who].invalidate(similar_to=f"{topic}0", context=CONTEXTS[scope])

    @precondition(lambda self: self.ids)
    @rule(who=whos, data=st.data(), query=paraphrases, other=scopes)
    def report(self, who: int, data: st.DataObject, query: str, other: int) -> None:
        entry_id = data.draw(st.sampled_from(list(self.ids)))
        scope, own, text, is_short = self.ids[entry_id]
        if other != scope:
            assert not self.caches[who].report_wrong(entry_id, query, context=CONTEXTS[other])
        current = self.model[scope].get(own)
        is_there = current is not None and current.entry_id == entry_id
        noted = self.caches[who].report_wrong(entry_id, query, context=CONTEXTS[scope]).noted
        assert noted == is_there or is_short  # which ends, and is cleaned up, when it likes
        if not noted:
            return
        self.wrong.add((scope, query, text))
        paired = self.model[scope].get(query)
        if paired is not None and self.text(scope, query, paired.answer) == text:
            del self.model[scope][query]

    @rule(who=whos)
    def restart(self, who: int) -> None:
        self.caches[who] = self.new()

    @invariant()
    def nothing_is_counted_that_is_not_there(self) -> None:
        certain = sum(not e.is_short for live in self.model for e in live.values())
        possible = sum(len(live) for live in self.model)
        entries = self.caches[0].get_stats()["entries"]
        assert certain <= entries <= possible


@pytest.fixture(scope="module")
def machine_config(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> CacheConfig:
    return redis_server.config(archive_dir=tmp_path_factory.mktemp("archive"), evictor_enabled=False)


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=[pytest.mark.exhaustive])])
def test_any_sequence_of_calls_agrees_with_the_model(machine_config: CacheConfig, examples: int) -> None:
    kind = type("Machine", (AnswersMachine,), {"config": machine_config})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- scopes --------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, -0.0, "", "1", b"1"])
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
contexts = st.dictionaries(st.sampled_from(["tenant", "model", "tools"]), values, max_size=3)


@pytest.fixture
def cache(redis_config: CacheConfig) -> SemanticCache:
    return SemanticCache(
        Meanings(TABLE, dim=24),
        redis_config,
        thresholds=Thresholds(threshold=-1.0),
        guards=False,
        policy=ANYTHING,
        settings=SemanticSettings(ttl_seconds=300),
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(contexts, min_size=2, max_size=5), paraphrases)
def test_equal_queries_never_meet_across_contexts(
    cache: SemanticCache, asked: list[dict[str, Any]], query: str
) -> None:
    # Even where every similarity is enough for a hit.
    cache.invalidate(context={})
    owner: dict[Any, int] = {}
    for i, context in enumerate(asked):
        key = spelled(context)
        known = owner.get(key)
        found = cache.lookup(query, context=context)
        assert found.is_hit is (known is not None)
        assert found.response == known
        cache.store(query, i, context=context)
        owner[key] = i


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(victim=paraphrases, data=st.data())
def test_another_tenants_near_duplicates_poison_nothing(
    cache: SemanticCache, redis_config: CacheConfig, victim: str, data: st.DataObject
) -> None:
    cache.invalidate(context={})
    mine = SemanticCache(
        Meanings(TABLE, dim=24), redis_config, context={"tenant": "mine"}, guards=False, policy=ANYTHING
    )
    theirs = SemanticCache(
        Meanings(TABLE, dim=24), redis_config, context={"tenant": "theirs"}, guards=False, policy=ANYTHING
    )
    for _ in range(data.draw(st.integers(1, 6))):
        # The same words, other spellings, the very vector or one close to it.
        text = data.draw(st.sampled_from([victim, f" {victim} ", victim.upper(), *sorted(TABLE)]))
        noise = 0.001 * np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal(24)
        vector = data.draw(st.sampled_from([None, TABLE[victim], TABLE[victim] + noise]))
        context = data.draw(
            st.sampled_from([None, {}, {"tenant": "mine"}, {"tenant": ["mine"]}, {"user": "mine"}])
        )
        try:
            theirs.store(text, "poison", context=context, query_embedding=vector)
        except InvalidContext:
            assert context is not None
            assert "tenant" in context
    for call in (mine.lookup, mine.check_availability):
        found = call(victim)
        assert (found.is_hit, found.reason) == (False, Reason.EMPTY)
    mine.store(victim, "mine")
    assert mine.lookup(victim).response == "mine"
    assert theirs.lookup(victim).response in ("poison", None)
