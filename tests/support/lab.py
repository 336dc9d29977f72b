"""Sessions under study: processes that share nothing in memory, and a count of what must come back."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lix_cache.archive.cold_tier import ColdTier
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import Effect, Flow, RedisBatch, RedisCall, Sleep
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.scripts import Script, ScriptCall
from lix_cache.messages.turn import Turn, new_turn
from lix_cache.session import add as add_flow
from lix_cache.session import read, rounds, whole
from lix_cache.session.base import Session
from lix_cache.session.batch import AddResult
from lix_cache.session.store import open_store

__all__ = ["Process", "World", "contents", "fast_folder", "is_free"]

T = TypeVar("T")


def fast_folder(fallback: str | os.PathLike[str]) -> str:
    """Return a folder in memory where there is one: for tests that do not ask what a sync is worth."""
    root = "/dev/shm"
    if os.path.isdir(root) and os.access(root, os.W_OK):
        return os.path.join(root, f"lix-test-{uuid.uuid4().hex}")
    return os.path.join(os.fspath(fallback), uuid.uuid4().hex)


def contents(turns: Iterable[Turn]) -> list[Any]:
    """Return what the messages say."""
    return [turn.body["content"] for turn in turns]


def is_free(archive: ColdTier, session_id: str) -> bool:
    """Whether the session's lock is free."""
    lock = archive.try_lock(session_id)
    if lock is None:
        return False
    lock.release()
    return True


class _Driver(SyncDriver):
    """Real commands and real files; waiting takes no time."""

    def _perform(self, effect: Effect) -> Any:
        return None if isinstance(effect, Sleep) else super()._perform(effect)


class Process:
    """A store with memory of its own, as another process would have it.

    Args:
        config: settings.
        session_id: the session that its short methods are about.
        clock: time.
    """

    def __init__(self, config: CacheConfig, session_id: str = "s", clock: Clock = SYSTEM_CLOCK) -> None:
        self.store = open_store(config, clock=clock)
        self.drive: SyncDriver = _Driver(self.store.endpoint, clock)
        self.session = Session(self.store, session_id, config.hot_window_size)

    @property
    def archive(self) -> ColdTier:
        return self.store.cold

    def turn(self, text: Any) -> Turn:
        return new_turn("user", text, None, None, None, self.store.new_nonce())

    def adding(self, text: Any) -> Flow[AddResult]:
        return add_flow.add(self.session, self.turn(text))

    def add(self, text: Any) -> AddResult:
        return self.drive(self.adding(text))

    def step(self, running: Flow[Any], effect: Effect) -> Effect:
        """Carry out what a flow asked for, and return what it asks for next."""
        try:
            result = self.drive._perform(effect)
        except NewConnection as new:
            return running.throw(new)
        return running.send(result)

    def run_until(self, running: Flow[Any], script: Script) -> Effect:
        """Run a flow to the step that sends a script, and return the step, not carried out."""
        step = running.send(None)
        while True:
            commands = step.commands if isinstance(step, RedisBatch) else ()
            commands = (step.command,) if isinstance(step, RedisCall) else commands
            if any(isinstance(one, ScriptCall) and one.script is script for one in commands):
                return step
            step = self.step(running, step)

    def full(self) -> list[Any]:
        return contents(self.drive(read.get_full(self.session)))

    def context(self) -> list[Any]:
        return contents(self.drive(read.get_context(self.session)))

    def archived(self) -> list[Any]:
        return contents(self.archive.turns(self.session.id))

    def hot(self) -> int:
        return int(self.ask("XLEN", self.store.hot.keys.window(self.session.id)))

    def ask(self, *words: Any) -> Any:
        """Send a command, wherever its key is."""
        return self.drive(_answer(words))

    def flush(self) -> int:
        return self.drive(whole.flush(self.session))


def _answer(words: tuple[Any, ...]) -> Flow[Any]:
    return (yield RedisCall(words))


@dataclass
class World:
    """One store, any number of processes, and what was acknowledged.

    Attributes:
        config: settings of the processes.
        must: contents that have to come back, in order.
        may: contents that may come back, once: asked for and not acknowledged, or dropped.
        tried: everything that was ever added, in order.
        in_context: whether the newest of ``must`` are the context.
    """

    config: CacheConfig
    must: list[str] = field(default_factory=list)
    may: set[str] = field(default_factory=set)
    tried: list[str] = field(default_factory=list)
    in_context: bool = True

    def process(self, **changes: Any) -> Process:
        return Process(self.config.replace(**changes))

    @contextmanager
    def trying(self, text: str) -> Iterator[None]:
        """Note what becomes of an add."""
        self.tried.append(text)
        try:
            yield
        except BaseException:
            self.may.add(text)
            raise
        self.must.append(text)

    def add(self, process: Process, *texts: str) -> None:
        for text in texts:
            with self.trying(text):
                process.add(text)

    def check(self, found: Sequence[str], *, in_order: bool = True) -> None:
        """Fail unless every acknowledged message is there once, and nothing that never was."""
        there = list(found)
        assert len(there) == len(set(there)), f"doubled: {there}"
        missing = [text for text in self.must if text not in there]
        assert not missing, f"lost: {missing}; found {there}"
        foreign = set(there) - set(self.must) - self.may
        assert not foreign, f"came back: {foreign}"
        if in_order:
            assert there == [text for text in self.tried if text in set(there)], f"order: {there}"

    def check_all(self, *, in_order: bool = True) -> None:
        """Look at the session as a later process finds it: as it is, moved to disk, brought back."""
        late = self.process(on_redis_error="raise")
        assert is_free(late.archive, "s"), "a lock is still held"
        late.drive(rounds.reconcile_all_pending(late.store))
        first = late.full()
        self.check(first, in_order=in_order)
        self._check_context(late, first)
        late.flush()
        assert late.full() == first
        self._check_context(late, first)
        assert late.full() == first
        self.add(late, "later")
        assert late.full() == [*first, "later"]
        assert late.context()[-1:] == ["later"]
        late.flush()
        assert late.full() == [*first, "later"]
        assert late.context()[-1:] == ["later"]

    def _check_context(self, process: Process, full: list[str]) -> None:
        context = process.context()
        size = self.config.hot_window_size
        # One that was written, not confirmed and taken back may be on disk alone.
        sure = [text for text in full if text in self.must]
        if self.in_context:
            assert context in (full[-size:], sure[-size:]), f"context {context} of {full}"
        else:
            assert context == full[len(full) - len(context) :], f"context {context} of {full}"
