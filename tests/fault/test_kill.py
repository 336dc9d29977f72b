"""A process killed at any moment loses nothing that it acknowledged, and doubles nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lix_cache.config import CacheConfig
from lix_cache.drivers.sync import SyncDriver
from lix_cache.session import rounds
from lix_cache.session.cache import HybridConversationCache
from lix_cache.storage import files as files_module
from lix_cache.storage.files import Files
from tests.support import RedisServer
from tests.support.forks import Child, Report
from tests.support.lab import Process, fast_folder, is_free
from tests.support.stores import own_store

pytestmark = [pytest.mark.slow, pytest.mark.promise("no-loss")]

KILLS = 60
KILLS_PER_SESSION = 12
#: File operations after which there is something else than before.
CHANGES = ["append", "write_synced", "truncate", "rename", "remove", "sync_folder", "try_lock"]


@pytest.fixture
def config(redis_server: RedisServer, tmp_path: Path) -> Iterator[CacheConfig]:
    # A killed process takes nothing with it that was written, so memory will do as a disk.
    folder = fast_folder(tmp_path)
    yield own_store(redis_server, folder, hot_window_size=5, archive_batch_turns=3, on_redis_error="raise")
    shutil.rmtree(folder, ignore_errors=True)


def _live(
    config: CacheConfig,
    session: str,
    number: int,
    ending: Callable[[random.Random], None],
    seed: float,
    report: Report,
) -> None:
    """Add without end, and now and then do what moves messages between the tiers."""
    chance = random.Random(seed)
    cache = HybridConversationCache(session, config)
    drive = cache._drive
    ending(chance)
    while True:
        report("t", number)
        cache.add_message("user", str(number))
        report("a", number)
        number += 1
        what = chance.random()
        if what < 0.15:
            drive(rounds.spill_overflow(cache._store))
        elif what < 0.25:
            drive(rounds.offload_idle(cache._store, 0))
        elif what < 0.40:
            cache.get_context()
        elif what < 0.45:
            cache.flush_to_disk()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Countdown:
    """Kills this process when something has happened so many times."""

    def __init__(self, count: int) -> None:
        self.left = count

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                _die()
            return call(*args, **kwargs)

        return counted

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                _die()
            return result

        return counted

    def within(self, write: Callable[[int, Any, int], None]) -> Callable[[int, Any, int], None]:
        def counted(fd: int, data: Any, offset: int) -> None:
            self.left -= 1
            if self.left == 0:
                write(fd, data[: self._part(len(data))], offset)
                _die()
            write(fd, data, offset)

        return counted

    @staticmethod
    def _part(size: int) -> int:
        return random.Random(size).randrange(size)


# Each prepares the child to end in its way. They change classes, which only the child sees.


def _when_told(chance: random.Random) -> None:
    """The parent kills it at a random moment."""


def _at_a_step(chance: random.Random) -> None:
    """Before or after one of the steps of its flows."""
    count = _Countdown(chance.randrange(1, 120))
    around = chance.choice([count.before, count.after])
    SyncDriver._perform = around(SyncDriver._perform)  # type: ignore[method-assign]


def _at_a_file_operation(chance: random.Random) -> None:
    """Before or after it changes something on disk."""
    count = _Countdown(chance.randrange(1, 60))
    around = chance.choice([count.before, count.after])
    for name in CHANGES:
        setattr(Files, name, around(getattr(Files, name)))


def _within_a_write(chance: random.Random) -> None:
    """With a part of the bytes written."""
    files_module._write_all = _Countdown(chance.randrange(1, 8)).within(files_module._write_all)


@pytest.mark.parametrize("ending", [_when_told, _at_a_step, _at_a_file_operation, _within_a_write])
def test_a_process_killed_at_any_moment_loses_and_doubles_nothing(
    config: CacheConfig, ending: Callable[[random.Random], None]
) -> None:
    chance = random.Random(ending.__name__)
    all_acknowledged = 0
    for kill in range(KILLS):
        if kill % KILLS_PER_SESSION == 0:
            session = f"session {kill}"
            tried: set[int] = set()
            acknowledged: set[int] = set()

        life = partial(_live, config, session, max(tried, default=-1) + 1, ending, chance.random())
        with Child(life) as child:
            if ending is _when_told:
                time.sleep(chance.random() * _window(kill, all_acknowledged))
                child.kill()
            records = child.records()
            assert child.wait() == -signal.SIGKILL
        tried |= {number for kind, number in records if kind == "t"}
        acknowledged |= {number for kind, number in records if kind == "a"}
        all_acknowledged += sum(kind == "a" for kind, _ in records)
        _check(config, session, tried, acknowledged, f"kill {kill}")
    assert all_acknowledged


def _window(kill: int, acknowledged: int) -> float:
    """Return within how many seconds a process is killed: more where none has come to a message yet."""
    return 0.04 if acknowledged else min(2.0, 0.04 * 1.2**kill)


def _check(config: CacheConfig, session: str, tried: set[int], acknowledged: set[int], when: str) -> None:
    process = Process(config, session)
    assert is_free(process.archive, session), f"{when}: the dead process keeps its lock"
    found = [int(text) for text in process.full()]
    assert found == sorted(set(found)), f"{when}: doubled or out of order: {found}"
    assert acknowledged <= set(found), f"{when}: lost {sorted(acknowledged - set(found))}"
    assert set(found) <= tried, f"{when}: never added: {sorted(set(found) - tried)}"
    context = [int(text) for text in process.context()]
    assert context == found[-config.hot_window_size :], when


def test_a_process_killed_with_its_daemon_at_work_loses_and_doubles_nothing(config: CacheConfig) -> None:
    chance = random.Random(7)
    config = config.replace(evictor_enabled=True, evictor_interval_seconds=0.001, evict_after_minutes=0.0)
    tried: set[int] = set()
    acknowledged: set[int] = set()

    def live(report: Report) -> None:
        cache = HybridConversationCache("s", config)
        number = max(tried, default=-1) + 1
        while True:
            report("t", number)
            cache.add_message("user", str(number))
            report("a", number)
            number += 1
            if number % 5 == 0:
                cache.get_context()

    for kill in range(KILLS):
        with Child(live) as child:
            time.sleep(0.005 + chance.random() * _window(kill, len(acknowledged)))
            child.kill()
            records = child.records()
            child.wait()
        tried |= {number for kind, number in records if kind == "t"}
        acknowledged |= {number for kind, number in records if kind == "a"}
        _check(config, "s", tried, acknowledged, f"kill {kill}")
    assert acknowledged
