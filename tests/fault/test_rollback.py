"""Redis goes back to an older state: a restart from an old snapshot, a replica that lagged.

What only the dead server had is gone, and that alone. What the archive has, what was cleared
and what was deleted stay as they are, whatever the old state says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ConversationArchive
from lix_cache.config import CacheConfig
from lix_cache.effects import RedisCall
from lix_cache.errors import ArchiveUnavailable
from lix_cache.hot import scripts
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.window import HotWindow
from lix_cache.messages.packing import pack_hot
from lix_cache.messages.turn import MessageId
from lix_cache.session import read, reconcile, rounds, whole
from lix_cache.session.base import Session, hot_length
from tests.support import RedisServer
from tests.support.lab import Process, contents
from tests.support.redis_server import wait_until
from tests.support.sessions import said
from tests.support.stores import own_store
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-loss")

Make = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, which starts from what it last saved."""
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["redis", "disk"])
def config(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> CacheConfig:
    small = {"hot_window_size": 6, "archive_batch_turns": 3, "redis_retry_seconds": 0}
    return own_store(server, tmp_path, durability=request.param, **small)


def say(cache: Any, *texts: str) -> list[str]:
    for text in texts:
        cache.add_message("user", text)
    return list(texts)


def numbered(count: int, start: int = 0) -> list[str]:
    return [f"m{n}" for n in range(start, start + count)]


def kept(config: CacheConfig, texts: list[str], in_snapshot: int) -> list[str]:
    """What must be left of the texts: the snapshot's, and what the archive has."""
    archived = said(ConversationArchive(config.archive_dir).load_all("s") or [])
    return [text for n, text in enumerate(texts) if n < in_snapshot or text in archived]


# -- a restart from a snapshot ---------------------------------------------------------------


@pytest.mark.parametrize("first_use", ["add", "context", "full", "smart"])
@pytest.mark.parametrize("user", ["the one that was there", "one that knew less", "one that is new"])
def test_the_archive_knows_better_than_a_snapshot(
    twins: Twins, config: CacheConfig, server: RedisServer, user: str, first_use: str
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    idle = Process(config)
    texts = say(cache, *numbered(6))
    assert idle.context() == texts
    server.save()
    texts += say(cache, *numbered(20, 6))
    cache.evictor.run_once()
    server.go_back()
    expected = kept(config, texts, 6)
    assert len(expected) > 6
    who: Any = {"the one that was there": cache, "one that knew less": idle}.get(user, Process(config))
    if isinstance(who, Process):
        add, context, full = who.add, who.context, who.full
    else:
        add, context, full = (lambda text: say(who, text)), (lambda: said(who.get_context())), None
        full = lambda: said(who.get_full())  # noqa: E731
    if first_use == "add":
        add("after")
        expected.append("after")
    elif first_use == "smart" and who is cache:
        recent = cache.smart_context("x", recent_k=3)["recent"]
        assert said(recent) == expected[-3:]
    elif first_use == "full":
        assert full() == expected
    assert context() == expected[-6:]
    add("one more")
    expected.append("one more")
    assert context() == expected[-6:]
    assert full() == expected
    other = Process(config)
    assert (other.context(), other.full()) == (expected[-6:], expected)
    other.flush()
    assert other.archived() == expected


def test_a_process_that_saw_what_is_lost_does_not_look_for_it_for_ever(
    twins: Twins, config: CacheConfig, server: RedisServer
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    texts = say(cache, *numbered(4))
    server.save()
    texts += say(cache, *numbered(1, 4))
    server.go_back()
    expected = kept(config, texts, 4)
    for _ in range(3):
        assert said(cache.get_context()) == expected
    assert cache.get_stats()["counters"]["rolled_back"] == 1


def test_what_is_added_without_redis_comes_after_all_that_the_process_saw(config: CacheConfig) -> None:
    """Also after hot and cold were reconciled while it went on adding: clocks may differ by minutes."""
    process = Process(config.replace(durability="redis"))
    process.add("first")
    seen = MessageId(process.session.seen.newest.ms + 200_000, 0)
    process.session.seen.saw(seen)
    process.drive(reconcile.reconcile(process.session))
    process.store.breaker._open_until = float("inf")
    process.add("second")
    assert process.archive.turns("s")[-1].id > seen


def test_what_was_cleared_stays_cleared(twins: Twins, config: CacheConfig, server: RedisServer) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    texts = say(cache, *numbered(5))
    server.save()
    cache.clear()
    server.go_back()
    for user in (Process(config), cache):
        context = user.context() if isinstance(user, Process) else said(user.get_context())
        assert context == []
    say(cache, "new")
    assert said(cache.get_context()) == ["new"]
    assert said(cache.get_full()) == [*texts, "new"]


def test_what_was_cleared_stays_cleared_when_only_a_daemon_has_been_there(
    config: CacheConfig, server: RedisServer
) -> None:
    process = Process(config)
    texts = numbered(14)
    for text in texts[:10]:
        process.add(text)
    server.save()
    for text in texts[10:]:
        process.add(text)
    process.drive(whole.clear(process.session))
    server.go_back()
    daemon = Process(config)
    daemon.drive(rounds.spill_overflow(daemon.store))
    daemon.drive(rounds.offload_idle(daemon.store, 0))
    assert daemon.archived() == texts
    assert Process(config).context() == []


@pytest.mark.parametrize("first", ["context", "full", "add", "daemon"])
def test_what_was_deleted_stays_deleted(
    twins: Twins, config: CacheConfig, server: RedisServer, first: str
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    say(cache, *numbered(9))
    server.save()
    assert cache.delete_session() is True
    server.go_back()
    process = Process(config)
    if first == "daemon":
        process.drive(rounds.spill_overflow(process.store))
        process.drive(rounds.offload_idle(process.store, 0))
    elif first == "add":
        process.add("new")
        assert (process.context(), process.full()) == (["new"], ["new"])
    elif first == "full":
        assert process.full() == []
    assert process.context() == (["new"] if first == "add" else [])
    assert said(cache.get_full()) == process.full()
    process.flush()
    assert process.archived() == (["new"] if first == "add" else [])


def test_a_session_that_begins_anew_after_its_deletion_keeps_its_messages(
    config: CacheConfig, server: RedisServer
) -> None:
    process = Process(config)
    for text in numbered(9):
        process.add(text)
    process.drive(whole.delete(process.session))
    process.add("new 1")
    server.save()
    process.add("new 2")
    process.flush()
    server.go_back()
    other = Process(config)
    assert other.full() == ["new 1", "new 2"]
    assert other.context() == ["new 1", "new 2"]


def test_a_deletion_leaves_nothing_readable_behind(config: CacheConfig) -> None:
    process = Process(config)
    process.add("a secret")
    process.flush()
    process.drive(whole.delete(process.session))
    left = [Path(folder, name) for folder, _, names in os.walk(config.archive_dir) for name in names]
    assert not [path for path in left if b"secret" in path.read_bytes() or path.name.startswith("s.")]
    assert process.archive.forget_deletions(2**63) == 1
    assert process.archive.deleted_up_to("s") == (0, 0)


# -- a replica that lagged ---------------------------------------------------------------------


@pytest.mark.parametrize("how_many", [1, 3])
def test_a_replica_that_lagged_gives_no_message_the_id_of_another(
    config: CacheConfig, server: RedisServer, how_many: int
) -> None:
    """Several use the session, and each has seen another part of it."""
    users = [Process(config) for _ in range(how_many)]
    texts = numbered(60)
    with RedisServer() as replica, replica.client() as admin:
        admin.config_set("repl-diskless-sync-delay", 0)
        admin.execute_command("REPLICAOF", "127.0.0.1", server.port)
        wait_until(lambda: admin.info("replication")["master_link_status"] == "up", 30, "the link")
        with server.client() as master:
            for number, text in enumerate(texts[:10]):
                users[number % how_many].add(text)
            assert master.execute_command("WAIT", 1, 5000) == 1
            admin.execute_command("REPLICAOF", "127.0.0.1", 1)
        for text in texts[10:40]:
            users[0].add(text)
        users[0].drive(rounds.spill_overflow(users[0].store))
        expected = kept(config, texts[:40], 10)
        admin.execute_command("REPLICAOF", "NO", "ONE")
        moved = config.replace(redis_port=replica.port)
        again = [Process(moved) for _ in range(how_many)]
        for old, new in zip(users, again, strict=True):
            # The same processes, whose server is another one now.
            new.session.seen.newest = old.session.seen.newest
        for number, text in enumerate(texts[40:]):
            again[number % how_many].add(text)
        expected += texts[40:]
        assert again[-1].full() == expected
        assert again[-1].context() == expected[-6:]
        again[0].flush()
        assert again[0].archived() == expected


def test_two_messages_under_one_id_are_both_kept_in_order(config: CacheConfig) -> None:
    """Two masters, each with its own clients, gave out the same ids."""
    one = Process(config)
    for text in ("a1", "a2", "a3"):
        one.add(text)
    client = one.drive.client
    window = one.store.hot.keys.window("s")
    rows: Any = client.xrange(window)
    one.flush()
    client.flushdb()
    for number, (name, _) in enumerate(rows):
        turn = one.turn(f"b{number + 1}")
        command = ("XADD", window, name, "m", pack_hot(turn))
        client.execute_command(*command)
    client.zadd(one.store.hot.keys.active(0), {"s": 1})
    other = Process(config)
    assert sorted(other.full()) == ["a1", "a2", "a3", "b1", "b2", "b3"]
    other.flush()
    found = other.archived()
    assert sorted(found) == ["a1", "a2", "a3", "b1", "b2", "b3"]
    assert [text for text in found if text[0] == "a"] == ["a1", "a2", "a3"]
    assert [text for text in found if text[0] == "b"] == ["b1", "b2", "b3"]
    assert contents(other.archive.recent("s", 3)) == found[-3:]


def test_a_read_that_began_before_both_were_brought_together_does_not_pass_for_the_newest(
    config: CacheConfig, server: RedisServer
) -> None:
    """Two tasks share what they know: one reconciles while the other has read the older window."""
    process = Process(config)
    for text in numbered(6):
        process.add(text)
    server.save()
    for text in numbered(14, 6):
        process.add(text)
    process.flush()
    server.go_back()
    reading = read.get_context(process.session)
    step = reading.send(None)
    window: Any = None
    while window is None:
        try:
            result = process.drive._perform(step)
        except NewConnection as new:
            step = reading.throw(new)
            continue
        if isinstance(step, RedisCall) and getattr(step.command, "script", None) is scripts.READ:
            window = result
        else:
            step = reading.send(result)
    reconciling = reconcile.reconcile(Session(process.store, "s", 6))
    other = reconciling.send(None)
    for _ in range(100):
        try:
            other = process.step(reconciling, other)
        except StopIteration:
            break
        assert process.session.seen.goes_beyond(HotWindow.newest(window).turns[-1].id)  # type: ignore[union-attr]
    assert said_by(process, reading, window) == numbered(20)[-6:]


def said_by(process: Process, running: Any, result: Any) -> list[Any]:
    try:
        step = running.send(result)
        while True:
            step = process.step(running, step)
    except StopIteration as stop:
        return contents(stop.value)


def test_a_gap_that_an_add_filled_while_the_disk_refused_is_closed_when_it_has_room(
    config: CacheConfig, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(durability="redis")
    process = Process(config)
    texts = numbered(20)
    for text in texts[:6]:
        process.add(text)
    server.save()
    for text in texts[6:]:
        process.add(text)
    process.flush()
    server.go_back()
    with monkeypatch.context() as patched:

        def full(*_: Any) -> None:
            raise ArchiveUnavailable(28, "the disk is full")

        for name in ("append", "write_synced", "write_many"):
            patched.setattr(process.archive._files, name, full)
        process.add("after")
    assert process.context() == [*texts, "after"][-6:]
    assert process.full() == [*texts, "after"]
    assert Process(config).context() == [*texts, "after"][-6:]


def test_a_look_at_the_archive_that_failed_is_made_again(
    config: CacheConfig, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(config)
    for text in numbered(5):
        process.add(text)
    server.save()
    process.drive(whole.clear(process.session))
    server.go_back()
    other = Process(config)
    with monkeypatch.context() as patched:

        def refused(*_: Any, **__: Any) -> Any:
            raise ArchiveUnavailable(24, "too many open files")

        patched.setattr(other.archive, "look", refused)
        other.drive(hot_length(other.session))
        with contextlib.suppress(ArchiveUnavailable):
            other.context()
    assert other.context() == []
