"""``redis_buckets`` is noted where the sessions are, and another number is an error that loses nothing."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lix_cache import HybridConversationCache, StoreAdmin
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveMismatch, ArchiveUnavailable, LayoutMismatch
from lix_cache.session.evictor import Evictor
from lix_cache.session.layout import Layout
from lix_cache.session.store import open_store
from tests.support import CountingProxy, RedisServer
from tests.support.lab import Process
from tests.support.sessions import batch, said
from tests.support.twins import ManualClock, Twins

pytestmark = pytest.mark.promise("no-loss")

NUMBERS = [(1, 4), (4, 1), (3, 5)]


def opened(config: CacheConfig, **changes: Any) -> HybridConversationCache:
    """Return a cache that knows no more than one in a new process."""
    cache = HybridConversationCache("s", config.replace(**changes))
    cache._store.layout = Layout()
    return cache


@pytest.mark.parametrize(("before", "now"), NUMBERS)
def test_another_number_of_buckets_is_an_error_at_the_first_use(
    twins: Twins, redis_config: CacheConfig, before: int, now: int
) -> None:
    old, new = redis_config.replace(redis_buckets=before), redis_config.replace(redis_buckets=now)
    cache = twins.make("HybridConversationCache", "s", old)
    cache.add_message("user", "there")
    wrong = twins.make("HybridConversationCache", "s", new)
    uses: list[Callable[[], Any]] = [
        lambda: wrong.add_message("user", "x"),
        wrong.get_context,
        wrong.get_full,
        lambda: wrong.smart_context("x"),
        wrong.flush_to_disk,
        wrong.clear,
        wrong.delete_session,
        Evictor(open_store(new)).run_once,
        StoreAdmin(new).sessions,
        StoreAdmin(new).offload,
        StoreAdmin(new).migrate,
        lambda: StoreAdmin(new).session("s"),
    ]
    for use in uses * 2:
        with pytest.raises(
            LayoutMismatch, match=rf"redis_buckets is {now}.*'{before}'.*migrate --new-buckets"
        ):
            use()
    health = wrong.health_check()
    assert health["status"] == "down"
    assert "LayoutMismatch" in health["redis"]
    assert "LayoutMismatch" in wrong.get_stats()["redis"]
    (found,) = [check for check in StoreAdmin(new).doctor() if check.name == "buckets"]
    assert (found.status, f"redis_buckets is {now}" in found.found) == ("fail", True)
    assert "buckets" not in [check.name for check in StoreAdmin(old).doctor()]
    assert said(cache.get_full()) == ["there"]


#: What asks for a window or changes one, by the public door and what it is called with.
DOORS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SessionContextWindow": {
        "add_message": ("user", "x"),
        "get_context": (),
        "get_full_history": (),
        "pop_last": (),
        "clear": (),
        "delete_session": (),
    },
    "CacheCoordinator": {
        "add_message_to_context": ("user", "x"),
        "add_messages_to_context": (batch("x"),),
        "get_context_messages": (),
        "pop_last_message": (),
        "replace_all_messages": ([],),
        "clear_context": (),
        "delete_session": (),
    },
    "StoreAdmin": {
        "sessions": (),
        "session": ("s",),
        "messages": ("s",),
        "session_page": (),
        "session_ids": (),
        "stats": (),
        "offload": (),
        "migrate": (),
        "delete_namespace": ("acme",),
    },
}


@pytest.mark.parametrize("is_empty", [True, False])
@pytest.mark.parametrize(("door", "call"), [(door, call) for door, calls in DOORS.items() for call in calls])
def test_every_door_refuses_another_number(
    twins: Twins, redis_config: CacheConfig, is_empty: bool, door: str, call: str
) -> None:
    first = twins.make("HybridConversationCache", "s", redis_config)
    first.add_message("user", "there")
    if is_empty:
        first.delete_session()
    wrong = redis_config.replace(redis_buckets=4)
    opened_by = twins.make(door, wrong) if door == "StoreAdmin" else twins.make(door, "s", wrong)
    with pytest.raises(LayoutMismatch, match="migrate --new-buckets"):
        getattr(opened_by, call)(*DOORS[door][call])
    assert said(first.get_full()) == ([] if is_empty else ["there"])


def test_the_archive_remembers_when_redis_forgets(
    redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    one = opened(redis_config, redis_buckets=4)
    one.add_message("user", "there")
    key, redis = one._store.hot.keys.layout(), redis_server.client(db=2)
    redis.delete(key)
    with pytest.raises(LayoutMismatch, match="the archive notes '4'"):
        opened(redis_config).get_context()
    assert redis.get(key) is None, "a wrong number is not noted"
    assert said(opened(redis_config, redis_buckets=4).get_full()) == ["there"]
    assert redis.get(key) == b"4"


def test_redis_remembers_when_the_archive_is_gone(redis_config: CacheConfig) -> None:
    one = opened(redis_config, redis_buckets=4)
    one.add_message("user", "there")
    for note in Path(redis_config.archive_dir, ".settings").iterdir():
        note.unlink()
    with pytest.raises(LayoutMismatch, match="Redis notes '4'"):
        opened(redis_config).get_context()
    assert list(Path(redis_config.archive_dir, ".settings").iterdir()) == [], "a wrong number is not noted"


def test_two_prefixes_may_share_an_archive(redis_config: CacheConfig) -> None:
    opened(redis_config).add_message("user", "a")
    prefix = f"{redis_config.redis_key_prefix}x"
    assert opened(redis_config, redis_buckets=4, redis_key_prefix=prefix).get_full() == []


def test_who_only_looks_notes_nothing(redis_config: CacheConfig) -> None:
    StoreAdmin(redis_config).sessions()
    opened(redis_config).health_check()
    one = opened(redis_config, redis_buckets=4)
    one.add_message("user", "there")
    assert said(one.get_full()) == ["there"]


@pytest.mark.promise("one-trip")
def test_only_the_first_use_costs_a_round_trip_more(redis_config: CacheConfig, proxy: CountingProxy) -> None:
    cache = opened(redis_config, redis_port=proxy.port)
    cache.add_message("user", "first")
    for n in range(3):
        before = proxy.round_trips
        cache.add_message("user", str(n))
        assert proxy.round_trips - before == 1


def test_a_process_that_starts_in_an_outage_works_and_compares_later(
    redis_config: CacheConfig, proxy: CountingProxy
) -> None:
    opened(redis_config).add_message("user", "before")
    proxy.refuse()
    away = opened(redis_config, redis_port=proxy.port, on_redis_error="archive")
    away.add_message("user", "away")
    assert not away._store.layout.in_redis
    proxy.allow()
    away._store.breaker.reset()
    assert said(away.get_full()) == ["before", "away"]
    assert away._store.layout.in_redis


@pytest.mark.parametrize(("before", "now"), NUMBERS)
def test_migrate_moves_to_another_number_of_buckets(redis_config: CacheConfig, before: int, now: int) -> None:
    old = redis_config.replace(redis_buckets=before, hot_window_size=3)
    new = old.replace(redis_buckets=now)
    sessions = [f"session {n}" for n in range(12)]
    for session_id in sessions:
        process = Process(old, session_id)
        for n in range(5):
            process.add(f"{session_id}: {n}")
    opened(old).get_context()
    dry = StoreAdmin(new).migrate_buckets(dry_run=True)
    assert 0 < dry.sessions <= len(sessions)
    done = StoreAdmin(new).migrate_buckets()
    assert (done.sessions, done.failed) == (dry.sessions, {})
    assert StoreAdmin(new).migrate_buckets().sessions == 0
    assert {info.session_id for info in StoreAdmin(new).sessions()} == set(sessions)
    for session_id in sessions:
        process = Process(new, session_id)
        assert process.full() == [f"{session_id}: {n}" for n in range(5)]
        process.add("later")
        assert process.context()[-1] == "later"
        assert len(process.full()) == 6
    with pytest.raises(LayoutMismatch):
        opened(old).get_context()


def test_a_process_of_the_old_number_stops_at_the_next_round_of_its_daemon(redis_config: CacheConfig) -> None:
    left = opened(redis_config)
    left.add_message("user", "before")
    new = redis_config.replace(redis_buckets=4)
    StoreAdmin(new).migrate_buckets()
    # It has not heard of it.
    left.add_message("user", "stray")
    with pytest.raises(LayoutMismatch):
        Evictor(left._store).run_once()
    with pytest.raises(LayoutMismatch):
        left.add_message("user", "refused")
    StoreAdmin(new).migrate_buckets()
    assert said(opened(new).get_full()) == ["before", "stray"]


def test_a_session_that_cannot_be_moved_keeps_the_old_number(redis_config: CacheConfig) -> None:
    for session_id in ("s", "t", "u", "v"):
        Process(redis_config, session_id).add("there")
    opened(redis_config).get_context()
    in_the_way = Path(redis_config.archive_dir, "t.huff")
    in_the_way.mkdir()
    new = redis_config.replace(redis_buckets=64)
    assert list(StoreAdmin(new).migrate_buckets().failed) == ["t"]
    with pytest.raises(LayoutMismatch):
        opened(new).get_context()
    in_the_way.rmdir()
    assert StoreAdmin(new).migrate_buckets().failed == {}
    assert said(opened(new).get_full()) == ["there"]
    assert Process(new, "t").full() == ["there"]


@pytest.mark.promise("no-loss")
def test_another_archive_than_that_of_the_others_is_an_error_at_the_first_use(
    redis_config: CacheConfig, tmp_path: Path
) -> None:
    """Two hosts with folders of their own would each archive a part."""
    here = opened(redis_config)
    here.add_message("user", "a")
    here.flush_to_disk()
    for place in ({"archive_dir": str(tmp_path / "other")}, {"archive_url": f"file://{tmp_path}/objects"}):
        there = opened(redis_config, **place)
        uses: list[Callable[[], Any]] = [
            lambda there=there: there.add_message("user", "x"),
            there.get_full,
            there.flush_to_disk,
            there.delete_session,
        ]
        for use in uses * 2:
            with pytest.raises(ArchiveMismatch, match="lix-cache archive adopt"):
                use()
        assert there.health_check()["status"] == "down"
        with pytest.raises(ArchiveMismatch):
            Evictor(open_store(redis_config.replace(**place))).run_once()
    assert not list((tmp_path / "other").glob("*.huff")), "nothing was stored"
    assert said(opened(redis_config).get_full()) == ["a"]


def refusing(*_: Any, **__: Any) -> Any:
    raise ArchiveUnavailable(errno.EIO, "the disk does not answer")


@pytest.mark.promise("no-loss")
def test_an_archive_that_failed_at_the_first_use_is_compared_later(
    twins: Twins, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = twins.make("HybridConversationCache", "s", redis_config)
    here.add_message("user", "a")
    clock = ManualClock(time.time())
    other = redis_config.replace(archive_dir=str(tmp_path / "other"))
    there = twins.make("HybridConversationCache", "s", other, clock=clock)
    with monkeypatch.context() as broken:
        asked: list[str] = []
        broken.setattr(there._store.cold, "archive_id", lambda **_: (asked.append("id"), refusing()))
        for _ in range(3):
            assert said(there.get_context()) == ["a"]
        assert asked == ["id"], "what does not answer holds up one use only"
    clock.advance(60)
    for _ in range(2):
        with pytest.raises(ArchiveMismatch):
            there.add_message("user", "lost")
    assert said(here.get_full()) == ["a"]


@pytest.mark.promise("no-loss")
def test_a_number_that_the_archive_refused_is_noted_later(
    twins: Twins, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(time.time())
    cache = twins.make("HybridConversationCache", "s", redis_config.replace(redis_buckets=4), clock=clock)
    name = f"redis_buckets of {redis_config.redis_key_prefix}"
    with monkeypatch.context() as broken:
        broken.setattr(cache._store.cold, "note_setting", refusing)
        cache.get_context()
    assert cache._store.cold.setting(name) is None
    cache.get_context()
    assert cache._store.cold.setting(name) is None
    clock.advance(60)
    cache.get_context()
    assert cache._store.cold.setting(name) == "4"
    assert cache._store.layout.ask_again is None


@pytest.mark.promise("no-loss")
def test_a_copy_of_the_folder_is_noticed(
    redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(redis_config)
    here.add_message("user", "a")
    here.flush_to_disk()
    shutil.copytree(redis_config.archive_dir, tmp_path / "copy")
    copied = redis_config.replace(archive_dir=str(tmp_path / "copy"))
    # Another machine, some hours later: what it notes is not in the folder that was copied.
    monkeypatch.setattr("platform.node", lambda: "another")
    monkeypatch.setattr("lix_cache.session.identity._TURN_SECONDS", 0)
    opened(copied).get_full()
    with pytest.raises(ArchiveMismatch, match="a copy"):
        opened(redis_config).get_full()
    # The daemon of a process that knew the archive looks again.
    daemon = Evictor(here._store)
    with pytest.raises(ArchiveMismatch):
        daemon.run_once()
    StoreAdmin(redis_config).adopt_archive()
    assert said(opened(redis_config).get_full()) == ["a"]
    with pytest.raises(ArchiveMismatch):
        opened(copied).get_full()


@pytest.mark.promise("no-loss")
def test_machines_that_share_a_folder_take_turns(
    redis_config: CacheConfig, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lix_cache.session.identity._TURN_SECONDS", 0)
    for number in range(6):
        monkeypatch.setattr("platform.node", lambda number=number: f"machine {number % 2}")
        opened(redis_config).add_message("user", str(number))
        Evictor(open_store(redis_config)).run_once()
    assert said(opened(redis_config).get_full()) == [str(n) for n in range(6)]
    opened(redis_config).clear()
    with redis_server.client(db=2) as client:
        assert client.delete(f"{redis_config.redis_key_prefix}:{{0}}:archive")
    assert len(opened(redis_config).get_full()) == 6, "Redis lost its memory"
