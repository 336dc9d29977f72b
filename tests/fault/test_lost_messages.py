"""What Redis loses of what it acknowledged is counted by each process, message by message."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.archive.store import ArchiveStore
from lix_cache.config import CacheConfig
from lix_cache.effects import Effect, Flow, LockCall, RedisBatch, RedisCall
from lix_cache.errors import ArchiveBusy, RedisUnavailable
from lix_cache.hot import scripts
from lix_cache.hot.connections import next_number
from lix_cache.messages.turn import Turn
from lix_cache.session import changes, rounds, whole
from lix_cache.session.add import add_keyed
from lix_cache.session.base import look
from lix_cache.session.lost import count_lost
from lix_cache.session.reconcile import known_length, reconcile
from tests.support import RedisServer
from tests.support.lab import Process
from tests.support.sessions import batch, said
from tests.support.stores import own_store
from tests.support.twins import ManualClock, Twins

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, which starts from what it last saved."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def config(server: RedisServer, tmp_path: Path) -> CacheConfig:
    return own_store(server, tmp_path, hot_window_size=6, archive_batch_turns=3, redis_retry_seconds=0)


def add(process: Process, *texts: str) -> list[str]:
    for text in texts:
        process.add(text)
    return list(texts)


def lost(process: Process) -> int:
    return process.store.counters["lost_messages"]


def gone_back(config: CacheConfig, server: RedisServer) -> tuple[Process, list[str]]:
    """Return a process whose server has forgotten some of what it added, and what that was."""
    process = Process(config)
    add(process, "kept")
    server.save()
    gone = add(process, "a", "b", "c")
    server.go_back()
    return process, gone


def finish(process: Process, running: Flow[Any], step: Effect) -> None:
    """Carry out what a flow asks for until it ends."""
    with pytest.raises(StopIteration):
        while True:
            step = process.step(running, step)


def forget_keys(config: CacheConfig, server: RedisServer) -> None:
    """Let Redis forget by which keys messages were added."""
    with server.client(db=config.session_redis_db) as client:
        for key in client.scan_iter(f"{config.redis_key_prefix}:*known*"):
            client.delete(key)


def use(process: Process, how: str) -> None:
    if how == "add":
        add(process, "one more")
    elif how == "stats":
        process.drive(known_length(process.session))
    else:
        process.context() if how == "context" else process.full()


@pytest.mark.parametrize("first_use", ["add", "context", "full", "stats", "a daemon, then add"])
def test_what_only_the_dead_server_had_is_counted(
    config: CacheConfig, server: RedisServer, first_use: str
) -> None:
    process = Process(config)
    kept = add(process, "a", "b")
    server.save()
    gone = add(process, "c", "d", "e")
    server.go_back()
    if first_use.startswith("a daemon"):
        # It moves what there is; so the window is new when this process comes.
        daemon = Process(config)
        daemon.drive(rounds.offload_idle(daemon.store, 0))
    if first_use.endswith("add"):
        kept += add(process, "f")
    else:
        use(process, first_use)
    assert lost(process) == len(gone)
    # Once, whatever comes after.
    kept += add(process, "g")
    process.drive(known_length(process.session))
    assert lost(process) == len(gone)
    assert Process(config).full() == kept


@pytest.mark.parametrize("count", [2, 4])
def test_each_of_several_processes_counts_its_own(
    config: CacheConfig, server: RedisServer, count: int
) -> None:
    """The first to come brings the window together with the archive; the others must know all the same."""
    users = [Process(config) for _ in range(count)]
    for number, user in enumerate(users):
        add(user, f"kept {number}")
    server.save()
    for number, user in enumerate(users):
        add(user, *(f"gone {number} {i}" for i in range(number + 1)))
    server.go_back()
    for number, user in enumerate(users):
        add(user, f"after {number}")
    assert [lost(user) for user in users] == [number + 1 for number in range(count)]
    left = [*(f"kept {n}" for n in range(count)), *(f"after {n}" for n in range(count))]
    assert Process(config).full() == left


def test_what_is_on_disk_is_not_lost(config: CacheConfig, server: RedisServer) -> None:
    process = Process(config)
    add(process, *(f"m{n}" for n in range(4)))
    server.save()
    add(process, *(f"m{n}" for n in range(4, 20)))
    # The window is cut; the others are on disk.
    process.drive(rounds.spill_overflow(process.store))
    server.go_back()
    add(process, "after")
    assert lost(process) == 20 - len(process.full()) + 1
    assert 0 < lost(process) < 6 + 3


@pytest.mark.parametrize("how", ["pop", "delete", "edit", "delete the session", "replace all", "clear"])
def test_what_was_taken_out_is_not_lost(config: CacheConfig, server: RedisServer, how: str) -> None:
    process, other = Process(config), Process(config)
    add(process, "a", "b", "c")
    last = process.session.seen.newest
    flows: dict[str, Any] = {
        "pop": changes.pop_last(other.session),
        "delete": changes.delete_message(other.session, last),
        "edit": changes.edit(
            other.session, last, lambda old: Turn(old.id, {**old.body, "content": "x"}, None)
        ),
        "delete the session": whole.delete(other.session),
        "replace all": changes.replace_all(other.session, [other.turn("x")], None),
        "clear": whole.clear(other.session),
    }
    other.drive(flows[how])
    server.kill()
    server.start()
    add(process, "after")
    process.full()
    assert lost(process) == 0


@pytest.mark.parametrize("durability", ["disk", "redis"])
def test_a_server_that_forgets_all(
    twins: Twins, config: CacheConfig, server: RedisServer, durability: str
) -> None:
    cache = twins.make("HybridConversationCache", "s", config.replace(durability=durability))
    for text in "abc":
        cache.add_message("user", text)
    server.go_back()
    # The statistics alone find it out.
    counters = cache.get_stats()["counters"]
    assert counters.get("lost_messages", 0) == (0 if durability == "disk" else 3)


def test_a_connection_that_is_new_loses_nothing(config: CacheConfig, server: RedisServer) -> None:
    process = Process(config)
    add(process, *(f"m{n}" for n in range(5)))
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    add(process, "after")
    assert lost(process) == 0
    assert len(process.session.seen.entrusted) == 6


def test_as_much_is_remembered_as_the_window_holds(config: CacheConfig, server: RedisServer) -> None:
    process = Process(config)
    for n in range(60):
        add(process, f"m{n}")
        # An add that finds the window much too long spills it after that, and is told of the length before.
        assert len(process.session.seen.entrusted) <= 6 + 5 * 3
    process.drive(rounds.spill_overflow(process.store))
    add(process, "last")
    assert len(process.session.seen.entrusted) == process.drive(known_length(process.session))


def test_all_that_is_lost_is_counted_however_late_the_daemon_is(
    config: CacheConfig, server: RedisServer
) -> None:
    """As on the side of a partition that loses: what overflows cannot move, and Redis alone has it all."""
    process, other = Process(config), Process(config)
    add(process, "kept")
    server.save()
    lock = other.archive.try_lock("s")
    assert lock is not None
    gone = add(process, *(f"m{n}" for n in range(60)))
    lock.release()
    server.go_back()
    add(process, "after")
    assert lost(process) == len(gone)
    assert Process(config).full() == ["kept", "after"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note who waits for a session's lock in vain; a wait is over after one try."""
    waited: list[str] = []

    def busy(self: ArchiveStore, session_id: str) -> ArchiveBusy:
        waited.append(session_id)
        return ArchiveBusy(f"the lock of {session_id} is held")

    monkeypatch.setattr(ArchiveStore, "lock_pauses", lambda _: iter((0.0,)))
    monkeypatch.setattr(ArchiveStore, "busy_error", busy)
    return waited


@pytest.mark.parametrize("first_use", ["add", "context", "full", "stats"])
@pytest.mark.parametrize("next_use", ["add", "context", "full", "stats"])
def test_no_lock_is_waited_for_to_count_and_what_was_not_counted_is_at_the_next_use(
    config: CacheConfig, server: RedisServer, waits: list[str], first_use: str, next_use: str
) -> None:
    process, other = Process(config), Process(config)
    add(process, "kept")
    server.save()
    gone = add(process, "a", "b", "c")
    server.go_back()
    lock = other.archive.try_lock("s")
    assert lock is not None
    use(process, first_use)
    # An add and a context find that the window ends too early, and would bring both tiers together.
    assert len(waits) == (1 if first_use in ("add", "context") else 0)
    assert lost(process) == 0
    lock.release()
    use(process, next_use)
    assert lost(process) == len(gone)
    use(process, next_use)
    assert lost(process) == len(gone)


def test_what_was_in_doubt_when_another_server_took_over_is_counted_too(
    config: CacheConfig, server: RedisServer, waits: list[str]
) -> None:
    process, other = Process(config), Process(config)
    add(process, "kept")
    server.save()
    gone = add(process, "a", "b", "c")
    server.go_back()
    lock = other.archive.try_lock("s")
    assert lock is not None
    # More than a window holds, and none of it lost: the newest says nothing of those before.
    add(process, *(f"m{n}" for n in range(5)))
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    add(process, "after")
    assert lost(process) == 0
    lock.release()
    add(process, "last")
    assert lost(process) == len(gone)
    assert process.session.seen.doubted is None


@pytest.mark.parametrize("next_use", ["add", "context", "full", "stats"])
def test_what_a_thread_looks_for_while_another_moves_the_session_is_counted(
    config: CacheConfig, server: RedisServer, next_use: str
) -> None:
    """A daemon brings both tiers together with the lock that the thread beside it needs to find out."""
    process, gone = gone_back(config, server)
    # The newest is not in the window: whether the archive has it is asked under the lock.
    adding = process.adding("after")
    step = adding.send(None)
    while not isinstance(step, LockCall):
        step = process.step(adding, step)
    daemon = reconcile(process.session)
    moving = daemon.send(None)
    while not isinstance(moving, RedisBatch | RedisCall):
        moving = process.step(daemon, moving)
    step = process.step(adding, step)
    assert lost(process) == 0
    for running, effect in ((daemon, moving), (adding, step)):
        finish(process, running, effect)
    use(process, next_use)
    assert lost(process) == len(gone)
    use(process, next_use)
    assert lost(process) == len(gone)


def test_a_thread_that_finds_out_is_not_overtaken_by_one_that_comes_later(
    config: CacheConfig, server: RedisServer
) -> None:
    """Statistics whose session is in doubt no more have what was lost."""
    process, gone = gone_back(config, server)
    looking = count_lost(process.session, locked=False, anew=True)
    step = looking.send(None)
    use(process, "stats")
    assert lost(process) == 0
    assert process.session.seen.doubted is not None
    finish(process, looking, step)
    assert lost(process) == len(gone)
    use(process, "stats")
    assert lost(process) == len(gone)
    assert process.session.seen.doubted is None


def test_what_a_further_connection_puts_in_doubt_while_it_is_looked_for_stays_so(
    config: CacheConfig, server: RedisServer
) -> None:
    process = Process(config)
    kept = add(process, "kept")
    server.save()
    gone = add(process, "a", "b", "c")
    # A connection that is new, to the same server: all is there when it is looked for.
    looking = count_lost(process.session, locked=False, anew=True)
    step = looking.send(None)
    answer = process.drive._perform(step)
    server.go_back()
    # What a use over a new connection does first, and what it does then.
    process.drive(count_lost(process.session, locked=False, anew=True))
    process.drive(look(process.session, next_number() + 100))
    with pytest.raises(StopIteration):
        looking.send(answer)
    assert lost(process) == 0
    process.drive(known_length(process.session))
    assert lost(process) == len(gone)
    assert Process(config).full() == kept


def test_what_came_again_when_its_key_was_forgotten_is_counted_when_it_is_lost(
    twins: Twins, config: CacheConfig, server: RedisServer
) -> None:
    """It is stored under another nonce than that of the message that was deleted."""
    clock = ManualClock(time.time())
    cache = twins.make("HybridConversationCache", "s", config, clock=clock)
    cache.add_messages(batch("first", "ok"), keys=["k1", "k2"])
    cache.pop_last()
    forget_keys(config, server)
    server.save()
    clock.advance(3 * 86_400)
    assert cache.add_messages(batch("ok"), keys=["k2"]).added == 1
    clock.advance(-3 * 86_400)
    server.go_back()
    assert cache.get_stats()["counters"]["lost_messages"] == 1
    assert said(cache.get_full()) == ["first"]


def test_what_came_again_and_was_carried_out_without_an_answer_is_there_once(
    config: CacheConfig, server: RedisServer
) -> None:
    """Redis and the archive have it under one nonce, though it is another than the deleted one's."""
    clock = ManualClock(time.time())
    process = Process(config, clock=clock)
    process.drive(add_keyed(process.session, [process.turn("first"), process.turn("ok")], ["k1", "k2"]))
    process.drive(changes.pop_last(process.session))
    forget_keys(config, server)
    clock.advance(3 * 86_400)
    adding = add_keyed(process.session, [process.turn("ok")], ["k2"])
    step = process.run_until(adding, scripts.ADD)
    process.drive._perform(step)
    step = adding.throw(RedisUnavailable("no answer came", maybe_done=True, timed_out=True))
    finish(process, adding, step)
    assert process.archived()[-1] == "ok"
    assert process.full() == ["first", "ok"]
    process.flush()
    assert Process(config).full() == ["first", "ok"]
