"""Processes that catch up with a scope page by page while others store, drop, expire and clear: the index
then holds what the scope held when its last page was made, no more and no less."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from lix_cache import SemanticCache, SemanticSettings
from lix_cache.config import CacheConfig
from lix_cache.effects import Compute, Effect, RedisCall
from lix_cache.hot.entries import EntryId, pack_meaning, unpack_meta
from lix_cache.semantic.lookup import catch_up
from tests.support import RedisServer
from tests.support.meaning import ANYTHING
from tests.support.semantic import apart
from tests.support.small_pages import small_pages

pytestmark = pytest.mark.promise("right-answer")

DIM = 4
numbers = st.integers(0, 40)
whos = st.integers(0, 1)
#: An entry: its number and its nonce.
Name = tuple[bytes, bytes]


@dataclass
class Asked:
    """A flow that catches up.

    Attributes:
        who: whose index it is.
        flow: it.
        effect: what it asks for.
        reply: of the server, once it has been asked.
        truth: what the scope held then.
        time: when that was.
        until_ms: the server's clock then: what ended between the page and that may be in either.
    """

    who: int
    flow: Generator[Effect, Any, Any]
    effect: Effect
    reply: Any = None
    truth: dict[Name, float] | None = None
    time: int = 0
    until_ms: float = 0.0


class CatchUpMachine(RuleBasedStateMachine):
    """Two processes, each with any number of threads: a page is asked for, carried out and taken in at
    times of their own. What the scope holds is read from Redis itself."""

    config: CacheConfig
    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        config = self.config.replace(
            redis_key_prefix=f"t{uuid.uuid4().hex}", embedder_id="test", embedding_dim=DIM
        )

        def cache(**options: Any) -> SemanticCache:
            return apart(
                SemanticCache(
                    None, config, guards=False, policy=ANYTHING, settings=SemanticSettings(**options)
                )
            )

        self.writer, self.small = cache(), cache(max_entries=6)
        self.readers = [cache(), cache()]
        self.drive = self.writer._drive
        self.scope = self.drive(self.writer._core.scope(None)).id
        self.raw = self.server.client()
        self.asked: list[Asked] = []
        #: When each entry came, and the time of the newest page that each index took in.
        self.born: dict[Name, int] = {}
        self.taken = [0, 0]
        self.time = 0

    def teardown(self) -> None:
        for one in self.asked:
            one.flow.close()
        self.raw.close()

    def truth(self) -> dict[Name, float]:
        """What the scope holds, and until when."""
        self.time += 1
        key = self.writer._core.redis.answers.keys.answers(self.scope).entries
        metas = {number: unpack_meta(meta) for number, meta in self.raw.hgetall(key).items()}
        held = {(number, meta.nonce): meta.expires_ms for number, meta in metas.items()}
        for name in held:
            self.born.setdefault(name, self.time)
        return held

    def store_one(self, cache: SemanticCache, n: int, **options: Any) -> None:
        vector = np.eye(DIM)[n % DIM]
        cache.store(f"text {n}", n % 3, query_embedding=vector, tags=[f"tag {n % 5}"], **options)
        self.truth()

    # -- writing --------------------------------------------------------------------------

    @rule(first=numbers, count=st.integers(1, 12))
    def store(self, first: int, count: int) -> None:
        for n in range(first, first + count):
            self.store_one(self.writer, n)

    @rule(n=numbers)
    def store_where_there_is_no_room(self, n: int) -> None:
        self.store_one(self.small, n)

    @rule(n=numbers)
    def store_what_ends_at_once(self, n: int) -> None:
        self.store_one(self.writer, n, ttl_seconds=0.002)

    @rule(n=numbers)
    def attach(self, n: int) -> None:
        held = sorted(self.truth())
        if not held:
            return
        number, nonce = held[n % len(held)]
        answers = self.writer._core.redis.answers
        row = pack_meaning(number, nonce, np.eye(DIM, dtype=np.float32)[0])
        self.drive(_just(RedisCall(answers.attach(self.scope, number, nonce, row))))

    @rule(tags=st.sets(st.integers(0, 4), min_size=1, max_size=5))
    def drop_by_tag(self, tags: set[int]) -> None:
        self.writer.invalidate(tags=[f"tag {n}" for n in sorted(tags)])

    @rule()
    def clear(self) -> None:
        self.writer.invalidate(context={})

    @rule()
    def clean_up(self) -> None:
        self.writer.cleanup_expired()

    @rule(n=numbers)
    def report(self, n: int) -> None:
        held = sorted(self.truth())
        if held:
            self.writer.report_wrong(str(EntryId(*held[n % len(held)])), f"text {n}")

    @rule()
    def lose(self) -> None:
        for key in list(self.raw.scan_iter(f"{self.writer._core.redis.answers.keys.prefix}:*")):
            self.raw.delete(key)

    # -- catching up ----------------------------------------------------------------------

    # How many pages there are depends on the clock: so no precondition and no choice does.

    @rule(who=whos)
    def ask(self, who: int) -> None:
        if len(self.asked) == 4:
            return
        core = self.readers[who]._core
        flow = catch_up(core, self.scope, DIM)
        self.asked.append(Asked(who, flow, next(flow)))

    @rule(which=st.integers(0, 3))
    def carry_out(self, which: int) -> None:
        waiting = [one for one in self.asked if one.truth is None]
        if waiting:
            self.answer(waiting[which % len(waiting)])

    @rule(which=st.integers(0, 3), count=st.integers(1, 3))
    def take_in(self, which: int, count: int) -> None:
        answered = [one for one in self.asked if one.truth is not None]
        for one in answered[which % len(answered) :][:1] if answered else ():
            self.go_on(one, count)

    @rule()
    def take_all_in(self) -> None:
        for one in list(self.asked):
            self.go_on(one, 200)
            assert one not in self.asked, "it asks for ever"

    def go_on(self, one: Asked, pages: int) -> None:
        for _ in range(pages):
            if one not in self.asked:
                return
            if one.truth is None:
                self.answer(one)
            self.deliver(one)

    def answer(self, one: Asked) -> None:
        one.reply = self.drive(_just(one.effect))
        one.truth = self.truth()
        one.time = self.time
        seconds, microseconds = self.raw.time()
        one.until_ms = seconds * 1000 + microseconds / 1000

    def deliver(self, one: Asked) -> None:
        try:
            one.effect = one.flow.send(one.reply)
            while isinstance(one.effect, Compute):
                one.effect = one.flow.send(one.effect.call())
        except StopIteration as stop:
            self.asked.remove(one)
            self.check(one, *stop.value)
        newest = self.taken[one.who]
        self.taken[one.who] = max(newest, one.time)
        one.truth = None

    def check(self, one: Asked, view: Any, now_ms: float) -> None:
        assert one.truth is not None
        rows = [row for row in range(len(view.expires)) if view.expires[row] > now_ms]
        names = [(view.records[row].number, view.records[row].nonce) for row in rows]
        seen = set(names)
        assert len(names) == len(seen), "an entry stands there twice"
        lasting = {name for name, row in zip(names, rows, strict=True) if view.expires[row] > one.until_ms}
        held = {name for name, expires_ms in one.truth.items() if expires_ms > now_ms}
        is_newest = self.taken[one.who] <= one.time
        still = held if is_newest else held & self.truth().keys()
        assert still <= seen, "an entry is missing"
        # Another thread's newer page may have brought what came since.
        extra = {name for name in lasting - held if is_newest or self.born[name] <= one.time}
        assert not extra, "an entry is there that is gone"
        for row in rows:
            number = view.records[row].text.partition(" ")[2]
            assert view.vectors[row].tolist() == np.eye(DIM)[int(number) % DIM].tolist()


def _just(effect: Effect) -> Generator[Effect, Any, Any]:
    return (yield effect)


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    with small_pages() as rows:
        yield rows


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("examples", [30, pytest.param(400, marks=[pytest.mark.exhaustive])])
def test_an_index_that_has_caught_up_holds_what_the_scope_holds(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    config = redis_server.config(archive_dir=tmp_path_factory.mktemp("archive"), evictor_enabled=False)
    kind = type("Machine", (CatchUpMachine,), {"config": config, "server": redis_server})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
