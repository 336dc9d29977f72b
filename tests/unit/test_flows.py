"""Every flow, stopped at every step: nothing acknowledged is lost, nothing is doubled, no lock stays.

The flows run against a real server and real files, under drivers that go wrong at one step
on purpose.
"""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from lix_cache.clock import SystemClock
from lix_cache.compat import flow as semantic_flow
from lix_cache.config import CacheConfig
from lix_cache.effects import DiskCall, Effect, Flow, RedisBatch, RedisCall, Sleep
from lix_cache.errors import ArchiveBusy, ArchiveUnavailable, LixCacheError, RedisUnavailable
from lix_cache.hot.connections import NewConnection
from lix_cache.messages.turn import MessageId, with_id
from lix_cache.session import add, base, offload, read, reconcile, rounds, whole
from lix_cache.session import read as read_flow
from lix_cache.session.base import hot_length
from tests.support.lab import Process, World, contents, is_free
from tests.support.sampling import Part, in_parts

#: Far enough for the archive to hold ids that the clock will not reach during the test.
AN_HOUR_MS = 3_600_000


class Crash(BaseException):
    """The process is stopped here."""


@pytest.fixture
def new_world(new_store: Callable[..., CacheConfig]) -> Callable[..., World]:
    """Makes worlds: a store of its own for each."""
    return lambda **changes: World(new_store(**{"archive_lock_timeout_seconds": 0.05, **changes}))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a move of a few messages takes several rounds.
    monkeypatch.setattr(offload, "CHUNK", 3)
    monkeypatch.setattr(rounds, "SESSIONS_AT_ONCE", 2)


# -- situations ----------------------------------------------------------------------------


def nothing(world: World) -> None:
    """An empty store."""


def hot(world: World) -> None:
    """A window that is not full."""
    world.add(world.process(), "h1", "h2", "h3")


def overflowing(world: World) -> None:
    """A window that the daemon should have looked at."""
    world.add(world.process(), *(f"o{i}" for i in range(11)))


def cold(world: World) -> None:
    """A session that was moved to disk whole."""
    process = world.process()
    world.add(process, *(f"c{i}" for i in range(6)))
    process.flush()


def both(world: World) -> None:
    """Some on disk, and a window begun after that."""
    cold(world)
    world.add(world.process(), "b1", "b2")


def rehydrated(world: World) -> None:
    """Some on disk and in Redis as well, and a newer one."""
    cold(world)
    world.process().context()
    world.add(world.process(), "r1")


def ahead(world: World) -> None:
    """Ids that the clock has not reached: it was set back since, and the session is cold."""
    process = world.process()
    future = MessageId(int(SystemClock().time() * 1000) + AN_HOUR_MS, 0)
    turns = []
    for i in range(3):
        future = future.successor()
        turns.append(process.turn(f"f{i}"))
        turns[-1] = with_id(turns[-1], future)
        world.tried.append(f"f{i}")
        world.must.append(f"f{i}")
    process.drive(_call(lambda: process.archive.append_locked("s", turns)))


def forgotten(world: World) -> None:
    """A cold session, and a Redis that has lost its memory of when windows were emptied."""
    cold(world)
    process = world.process()
    process.drive.client.delete(process.store.hot.keys.high_water(0))


def outage(world: World) -> None:
    """Messages in Redis, and newer ones on disk that were added while it was away."""
    both(world)
    away = world.process()
    _close(away)
    world.add(away, "away1", "away2")
    # Within a millisecond, messages of two processes that cannot talk have no order.
    time.sleep(0.002)


def _call(call: Callable[[], Any]) -> Flow[Any]:
    return (yield DiskCall(call))


def _close(process: Process) -> None:
    """Let a process think that Redis is away."""
    process.store.breaker._open_until = float("inf")


SITUATIONS = [nothing, hot, overflowing, cold, both, rehydrated, ahead, forgotten, outage]


# -- flows ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """A flow under study.

    Attributes:
        name: what it is.
        start: makes the flow for a process.
        prepare: what the process did before.
        config: settings that it needs.
    """

    name: str
    start: Callable[[Process, str], Flow[Any]]
    prepare: Callable[[World, Process], None] = lambda world, process: None
    config: tuple[tuple[str, Any], ...] = ()

    def begin(self, world: World) -> Process:
        process = world.process(**dict(self.config))
        self.prepare(world, process)
        return process


def _adding(process: Process, text: str) -> Flow[Any]:
    return process.adding(text)


def _knows(world: World, process: Process) -> None:
    world.add(process, f"known {len(world.tried)}")


def _is_away(world: World, process: Process) -> None:
    _close(process)


def _was_away(world: World, process: Process) -> None:
    _close(process)
    world.add(process, "mine while away")
    process.store.breaker.reset()


def _flushed(process: Process) -> Flow[Any]:
    yield from whole.flush(process.session)
    yield from read_flow.get_context(process.session)
    yield from whole.flush(process.session)


def _add_and_flush(process: Process, text: str) -> Flow[Any]:
    yield from process.adding(text)
    yield from whole.flush(process.session)


ADD = Act("add", _adding)
ADD_AGAIN = Act("add again", _adding, _knows)
ADD_SYNCED = Act("add to disk as well", _adding, config=(("durability", "disk"),))
ADD_AWAY = Act("add while away", _adding, _is_away)
ADD_BACK = Act("add after being away", _adding, _was_away)
ADD_RAISE = Act("add or raise", _adding, config=(("on_redis_error", "raise"),))
ADDS = [ADD, ADD_AGAIN, ADD_SYNCED, ADD_AWAY, ADD_BACK, ADD_RAISE]
ADD_FLUSH = Act("add and flush", _add_and_flush)
CONTEXT = Act("get_context", lambda p, _: read_flow.get_context(p.session))
CONTEXT_BACK = Act("get_context after being away", lambda p, _: read_flow.get_context(p.session), _was_away)
FULL = Act("get_full", lambda p, _: read_flow.get_full(p.session))
FULL_BACK = Act("get_full after being away", lambda p, _: read_flow.get_full(p.session), _was_away)
FLUSH = Act("flush", lambda p, _: whole.flush(p.session))
IN_AND_OUT = Act("flush, get_context, flush", lambda p, _: _flushed(p))
SPILL = Act("spill_overflow", lambda p, _: rounds.spill_overflow(p.store))
EVICT = Act("offload_idle", lambda p, _: rounds.offload_idle(p.store, 0, "other"))
RECONCILE = Act("reconcile_pending", lambda p, _: rounds.reconcile_all_pending(p.store))
CLEAN = Act("clean_up", lambda p, _: rounds.clean_up(p.store))
LIST = Act("list_hot", lambda p, _: rounds.list_hot(p.store))
LENGTH = Act("hot_length", lambda p, _: hot_length(p.session))
CLEAR = Act("clear", lambda p, _: whole.clear(p.session))
DELETE = Act("delete", lambda p, _: whole.delete(p.session))
READS = [CONTEXT, CONTEXT_BACK, FULL, FULL_BACK, LIST, LENGTH]
MOVES = [FLUSH, IN_AND_OUT, SPILL, EVICT, RECONCILE, CLEAN]
ACTS = [*ADDS, *READS, *MOVES, ADD_FLUSH, CLEAR, DELETE]
ADDING = {act.name for act in (*ADDS, ADD_FLUSH)}


def _settle(world: World, act: Act, text: str, error: BaseException | None) -> None:
    """Note what the end of an act means for what must and may come back."""
    if act.name in ADDING:
        world.tried.append(text)
        if error is None:
            world.must.append(text)
        else:
            world.may.add(text)
    elif act is CLEAR:
        # Every message stays in the history; of the context all is gone, or nothing yet.
        world.in_context = False
    elif act is DELETE:
        world.may = set() if error is None else {*world.may, *world.must}
        world.must = []
        # Half of a deletion may leave only the context or only the archive.
        world.in_context = error is None


# -- faults --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """How a step goes wrong.

    Attributes:
        name: what it is.
        redis: makes the error of a step that goes to Redis; None: such steps are spared.
        disk: makes the error of a step that touches files; None: such steps are spared.
        done: whether the step is carried out all the same: "no", "yes", or "late",
            which is after the flow has ended.
        stays: whether every later step of the kind goes wrong as well.
    """

    name: str
    redis: Callable[[], BaseException] | None
    disk: Callable[[], BaseException] | None
    done: str = "no"
    stays: bool = False

    def error(self, effect: Effect) -> BaseException | None:
        if isinstance(effect, Sleep):
            return None
        make = self.redis if isinstance(effect, (RedisCall, RedisBatch)) else self.disk
        return None if make is None else make()


def _refused() -> RedisUnavailable:
    return RedisUnavailable("no server there")


def _broken() -> RedisUnavailable:
    return RedisUnavailable("the connection broke", maybe_done=True)


def _slow() -> RedisUnavailable:
    return RedisUnavailable("no answer in time", maybe_done=True, timed_out=True)


def _disk_full() -> ArchiveUnavailable:
    return ArchiveUnavailable(28, "the disk is full")


FAULTS = [
    Fault("refused", _refused, None),
    Fault("refused from now on", _refused, None, stays=True),
    Fault("request lost", _broken, None),
    Fault("requests lost from now on", _broken, None, stays=True),
    Fault("answer lost", _broken, None, "yes"),
    Fault("answers lost from now on", _broken, None, "yes", stays=True),
    Fault("answer late", _slow, None, "yes"),
    Fault("done late", _slow, None, "late"),
    Fault("all done late", _slow, None, "late", stays=True),
    Fault("disk full", None, _disk_full),
    Fault("disk full from now on", None, _disk_full, stays=True),
    Fault("written, but not confirmed", None, _disk_full, "yes"),
    Fault("stopped before", Crash, Crash),
    Fault("stopped after", Crash, Crash, "yes"),
]


class Saboteur:
    """Drives a flow by hand and lets its k-th step go wrong."""

    def __init__(self, process: Process, at: int, fault: Fault) -> None:
        self._process = process
        self._at = at
        self._fault = fault
        self._late: list[Effect] = []
        self.hit = False

    def run(self, running: Flow[Any]) -> BaseException | None:
        """Run to the end; return the error that came out, if one did."""
        step = 0
        try:
            effect = running.send(None)
            while True:
                error, result = self._perform(effect, step)
                step += 1
                effect = running.send(result) if error is None else running.throw(error)
        except StopIteration:
            return None
        except (LixCacheError, Crash) as error:
            return error
        finally:
            for effect in self._late:
                if isinstance(effect, RedisCall):
                    # It was sent over a connection of then.
                    effect.opened = None
                self._process.drive._perform(effect)

    def _perform(self, effect: Effect, step: int) -> tuple[BaseException | None, Any]:
        fault = self._fault
        due = step >= self._at if fault.stays else step == self._at
        error = fault.error(effect) if due else None
        if error is None:
            try:
                return None, self._process.drive._perform(effect)
            except (LixCacheError, NewConnection) as real:
                return real, None
        if fault.done == "yes":
            try:
                self._process.drive._perform(effect)
            except NewConnection as real:
                # Nothing was sent, so no answer can get lost.
                return real, None
        self.hit = True
        if fault.done == "late":
            self._late.append(effect)
        return error, None


def _steps(act: Act, world: World) -> int:
    """Count the steps that a flow takes undisturbed."""
    process = act.begin(world)
    running = act.start(process, "counted")
    steps = 0
    try:
        effect = running.send(None)
        while True:
            steps += 1
            effect = process.step(running, effect)
    except StopIteration:
        return steps


def _situations_of(act: Act) -> list[Callable[[World], None]]:
    if act in (LIST, LENGTH, CLEAN):
        return [both]
    if act is SPILL:
        return [overflowing, both]
    if act is RECONCILE:
        return [outage, cold]
    return SITUATIONS


CASES = [pytest.param(a, s, id=f"{a.name}-{s.__name__}") for a in ACTS for s in _situations_of(a)]


@pytest.mark.promise("no-loss")
@in_parts(7)
@pytest.mark.parametrize(("act", "situation"), CASES)
def test_whatever_step_goes_wrong_nothing_is_lost_or_doubled(
    act: Act, situation: Callable[[World], None], part: Part, new_world: Callable[..., World]
) -> None:
    counting = new_world()
    situation(counting)
    steps = _steps(act, counting)
    tested = 0
    for number, fault in enumerate(FAULTS):
        for at in part.of(range(steps), number):
            world = new_world()
            situation(world)
            process = act.begin(world)
            saboteur = Saboteur(process, at, fault)
            error = saboteur.run(act.start(process, "new"))
            if not saboteur.hit:
                continue
            tested += 1
            _settle(world, act, "new", error)
            if act is CLEAR and error is None:
                assert process.context() == []
            try:
                if not isinstance(error, Crash):
                    # The process goes on: what it remembers of the trouble must be right.
                    process.store.breaker.reset()
                    world.add(process, "next")
                    late_add = fault.done == "late" and act.name in ADDING
                    world.check(process.full(), in_order=not late_add)
                    world.check_all(in_order=not late_add)
                else:
                    world.check_all()
            except AssertionError as failed:
                raise AssertionError(f"step {at}, {fault.name}: {error!r}: {failed}") from failed
    assert tested or part.is_sample


@pytest.mark.parametrize(("act", "situation"), CASES)
def test_a_flow_that_is_dropped_at_any_step_lets_go_of_its_locks(
    act: Act, situation: Callable[[World], None], new_world: Callable[..., World]
) -> None:
    counting = new_world()
    situation(counting)
    for at in range(1, _steps(act, counting) + 1):
        world = new_world()
        situation(world)
        process = act.begin(world)
        running = act.start(process, "new")
        _, effect = _drive_until(process, running, at - 1)
        # Raises RuntimeError if the flow goes on yielding.
        running.close()
        assert is_free(process.archive, "s"), f"step {at}: {effect}"


def test_no_flow_yields_in_finally() -> None:
    for module in (base, add, read, offload, reconcile, whole, rounds, semantic_flow):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Try):
                inside = [part for statement in node.finalbody for part in ast.walk(statement)]
                assert not any(isinstance(part, (ast.Yield, ast.YieldFrom)) for part in inside), (
                    f"{module.__name__}, line {node.lineno}"
                )


# -- two at once ---------------------------------------------------------------------------


def _drive_until(process: Process, running: Flow[Any], at: int) -> tuple[bool, Effect | None]:
    """Perform so many steps; return whether the flow has ended, and the step it is at."""
    try:
        effect = running.send(None)
        for _ in range(at):
            effect = process.step(running, effect)
        return False, effect
    except StopIteration:
        return True, None


@dataclass(frozen=True)
class Ended:
    """What came of an act.

    Attributes:
        act: which.
        text: the message that it was about.
        value: what it returned.
        error: what it raised.
    """

    act: Act
    text: str
    value: Any = None
    error: BaseException | None = None


def _finish(act: Act, text: str, process: Process, running: Flow[Any], effect: Effect) -> Ended:
    try:
        while True:
            try:
                result = process.drive._perform(effect)
            except (LixCacheError, NewConnection) as error:
                effect = running.throw(error)
            else:
                effect = running.send(result)
    except StopIteration as stop:
        return Ended(act, text, stop.value)
    except LixCacheError as error:
        return Ended(act, text, error=error)


def _whole(act: Act, text: str, process: Process) -> Ended:
    running = act.start(process, text)
    try:
        effect = running.send(None)
    except StopIteration as stop:
        return Ended(act, text, stop.value)
    return _finish(act, text, process, running, effect)


# What only reads disturbs no other, unless it brings a session back.
SECOND = [ADD, ADD_AWAY, ADD_FLUSH, CONTEXT, IN_AND_OUT, EVICT, RECONCILE, CLEAR, DELETE]
FIRST = [*ADDS, CONTEXT, CONTEXT_BACK, FULL, FLUSH, SPILL, EVICT, RECONCILE, CLEAR, DELETE]


@pytest.mark.promise("no-loss")
@in_parts(7)
@pytest.mark.parametrize("situation", [hot, cold, both, ahead, outage])
@pytest.mark.parametrize("first", FIRST, ids=lambda act: act.name)
def test_what_happens_between_two_steps_of_a_flow_loses_and_doubles_nothing(
    first: Act, situation: Callable[[World], None], part: Part, new_world: Callable[..., World]
) -> None:
    """Another process runs a whole flow while this one is between two of its steps."""
    for number, second in enumerate(SECOND):
        for at in part.of(count(), number):
            world = new_world()
            situation(world)
            one = first.begin(world)
            two = second.begin(world)
            archived = one.archived()
            before = list(world.must)
            running = first.start(one, "one")
            ended, effect = _drive_until(one, running, at)
            if ended or effect is None:
                break
            between = _whole(second, "two", two)
            around = _finish(first, "one", one, running, effect)
            assert between.error is None or isinstance(between.error, ArchiveBusy)
            try:
                _check_pair(world, [between, around], archived, before)
            except AssertionError as failed:
                raise AssertionError(f"{second.name} before step {at}: {failed}") from failed


def _check_pair(world: World, acts: list[Ended], archived: list[str], before: list[str]) -> None:
    for ended in acts:
        if ended.act.name in ADDING:
            world.tried.append(ended.text)
            if ended.error is None:
                world.must.append(ended.text)
            else:
                world.may.add(ended.text)
    done = {ended.act.name for ended in acts if ended.error is None}
    tried = {ended.act.name for ended in acts}
    if DELETE.name in tried:
        # What was added meanwhile may have been before or after.
        world.may.update(world.must)
        world.must = [] if DELETE.name in done else [text for text in before if text in archived]
    if {CLEAR.name, DELETE.name} & tried:
        world.in_context = False
    late = world.process()
    found = late.full()
    world.check(found, in_order=False)
    old = [text for text in found if text in before]
    assert old == [text for text in before if text in old], f"order: {found}"
    if DELETE.name in done:
        assert not old, f"came back: {old}"
    if CLEAR.name in done:
        assert not set(late.context()) & set(before), "a cleared context came back"
    if not {CLEAR.name, DELETE.name} & tried:
        _check_what_was_read(acts, before, found)
    world.check_all(in_order=False)


def _check_what_was_read(acts: list[Ended], before: list[str], found: list[str]) -> None:
    for ended in acts:
        if ended.error is not None or ended.act not in (FULL, CONTEXT):
            continue
        read = contents(ended.value)
        assert read == [text for text in found if text in set(read)], f"{ended.act.name}: {read}"
        if ended.act is FULL:
            assert set(before) <= set(read), f"get_full missed some: {read}"
        elif "away1" not in before:
            # Consecutive ones, and none of those that were there is newer than all of them.
            start = found.index(read[0]) if read else 0
            assert read == found[start : start + len(read)], f"get_context: {read} of {found}"
            assert not before or found.index(read[-1]) >= found.index(before[-1]), f"get_context: {read}"


@pytest.mark.promise("no-loss")
def test_what_an_outage_archives_comes_after_an_add_whose_answer_was_lost(
    new_world: Callable[..., World],
) -> None:
    class Behind(SystemClock):
        """So that a local id has nothing but what is known of the session to come after."""

        def time(self) -> float:
            return super().time() - 100

    world = new_world(on_redis_error="archive")
    process = Process(world.config, clock=Behind())
    process.add("before")
    time.sleep(0.01)  # ids are milliseconds
    lost = Saboteur(process, 0, Fault("answer lost", _broken, None, "yes"))
    assert lost.run(process.adding("settled")) is None
    assert lost.hit
    outage = Saboteur(process, 0, Fault("refused from now on", _refused, None, stays=True))
    assert outage.run(process.adding("archived")) is None
    assert process.archived() == ["archived"]
    assert Process(world.config).full() == ["before", "settled", "archived"]
