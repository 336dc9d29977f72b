"""A command is carried out long after its caller gave up: it undoes nothing, and takes nothing new away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache import ConversationArchive, HybridConversationCache
from lix_cache.config import CacheConfig
from lix_cache.effects import Effect, Flow, RedisBatch, RedisCall
from lix_cache.errors import ArchiveBusy, RedisUnavailable
from lix_cache.hot import scripts
from lix_cache.hot.replies import Gap
from lix_cache.hot.scripts import Script, ScriptCall
from lix_cache.messages.turn import ZERO_ID, MessageId, with_id
from lix_cache.session import append, offload, old_sessions, reconcile, rounds, whole
from lix_cache.session import read as read_flow
from lix_cache.session.batch import Batch
from lix_cache.session.budget import Budget
from lix_cache.session.context import smart_context
from tests.support import CountingProxy, RedisServer
from tests.support.lab import Process
from tests.support.sessions import said
from tests.support.twins import ManualClock, Twins

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture
def config(redis_config: CacheConfig) -> CacheConfig:
    """The store as processes see it whose commands arrive in time."""
    return redis_config.replace(hot_window_size=4, archive_batch_turns=2, redis_retry_seconds=0)


@pytest.fixture
def held_up(config: CacheConfig, proxy: CountingProxy) -> CacheConfig:
    """And as the one sees it behind the proxy that holds packets."""
    return config.replace(redis_port=proxy.port, redis_socket_timeout=1.0)


def say(cache: Any, *texts: str) -> None:
    for text in texts:
        cache.add_message("user", text)


def check(config: CacheConfig, full: list[str], context: list[str] | None = None) -> None:
    """Assert what every process sees: as it is, moved to disk, and brought back."""
    expected = full[-4:] if context is None else context
    for _ in range(2):
        cache = HybridConversationCache("s", config)
        assert said(cache.get_full()) == full
        assert said(cache.get_context()) == expected
        cache.flush_to_disk()
    assert said(cache.get_full()) == full
    assert said(cache.get_context()) == expected


def give_up(running: Flow[Any]) -> Any:
    """Let the flow hear that there was no answer in time; return what it returns."""
    try:
        running.throw(RedisUnavailable("no answer in time", maybe_done=True, timed_out=True))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it goes on")


def sent_twice(process: Process) -> Effect:
    """Add "twice" over a connection that breaks; return the first sending, not carried out."""
    adding = process.adding("twice")
    first = process.run_until(adding, scripts.ADD)
    step = adding.throw(RedisUnavailable("the connection broke", maybe_done=True))
    with pytest.raises(StopIteration):
        while True:
            step = process.step(adding, step)
    return first


def lose_memory(redis_server: RedisServer, config: CacheConfig) -> None:
    """Let Redis forget the whole store."""
    with redis_server.client(db=config.session_redis_db) as client:
        client.delete(*client.keys(f"{config.redis_key_prefix}*"))


# -- what is put back ------------------------------------------------------------------------


def _clears(cache: Any) -> list[str]:
    cache.clear()
    return []


def _deletes(cache: Any) -> list[str]:
    cache.delete_session()
    return []


def _deletes_and_begins_anew(cache: Any) -> list[str]:
    cache.delete_session()
    say(cache, "new")
    cache.flush_to_disk()
    return ["new"]


def _adds_and_flushes(cache: Any) -> list[str]:
    say(cache, "new")
    cache.flush_to_disk()
    return ["c", "d", "e", "new"]


def _reads_and_clears(cache: Any) -> list[str]:
    cache.get_context()
    cache.clear()
    return []


def _reads_adds_and_flushes(cache: Any) -> list[str]:
    cache.get_context()
    return _adds_and_flushes(cache)


MEANWHILE = [
    _clears,
    _deletes,
    _deletes_and_begins_anew,
    _adds_and_flushes,
    _reads_and_clears,
    _reads_adds_and_flushes,
]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("loses_memory", [False, True])
def test_a_context_that_is_put_back_late_stays_where_it_is(
    twins: Twins,
    config: CacheConfig,
    held_up: CacheConfig,
    proxy: CountingProxy,
    redis_server: RedisServer,
    meanwhile: Callable[[Any], list[str]],
    loses_memory: bool,
) -> None:
    other = HybridConversationCache("s", config)
    say(other, "a", "b", "c", "d", "e")
    other.flush_to_disk()
    cache = twins.make("HybridConversationCache", "s", held_up)
    proxy.hold(scripts.REHYDRATE.sha)
    assert said(cache.get_context()) == ["b", "c", "d", "e"]
    assert proxy.is_holding
    expected = meanwhile(other)
    if loses_memory:
        lose_memory(redis_server, config)
    proxy.let_go()
    assert other._drive.client.xlen(other._store.hot.keys.window("s")) == 0
    for one in (other, HybridConversationCache("s", config), cache):
        assert said(one.get_context()) == expected


def test_a_ticket_of_a_read_that_is_carried_out_twice_is_not_the_first_ones(config: CacheConfig) -> None:
    process, other = Process(config), Process(config)
    for text in "abc":
        process.add(text)
    process.flush()
    reading = read_flow.get_context(process.session)
    read = process.run_until(reading, scripts.READ)
    process.drive._perform(read)
    step = process.step(reading, read)
    while not (isinstance(step, RedisCall) and getattr(step.command, "script", None) is scripts.REHYDRATE):
        step = process.step(reading, step)
    give_up(reading)
    other.drive(whole.clear(other.session))
    # The connection broke, and the request was repeated: its first copy comes now.
    process.drive._perform(read)
    assert process.drive._perform(step) == -1
    assert other.context() == []
    assert other.full() == ["a", "b", "c"]


def test_a_session_that_changed_while_it_was_read_is_read_again(config: CacheConfig) -> None:
    process, other = Process(config), Process(config)
    for text in "abc":
        process.add(text)
    process.flush()
    reading = read_flow.get_context(process.session)
    read = process.run_until(reading, scripts.READ)
    step = process.step(reading, read)
    other.add("d")
    other.flush()
    while True:
        try:
            step = process.step(reading, step)
        except StopIteration as stop:
            found = [turn.body["content"] for turn in stop.value]
            break
    assert found == ["a", "b", "c", "d"]
    # The next process needs the disk no more.
    assert process.hot() == 4
    assert process.store.counters["rehydrations"] == 1


def test_readers_of_a_cold_session_put_it_back_once(config: CacheConfig) -> None:
    one, two = Process(config), Process(config)
    for text in "abc":
        one.add(text)
    one.flush()
    first, second = read_flow.get_context(one.session), read_flow.get_context(two.session)
    step = one.step(first, one.run_until(first, scripts.READ))
    assert two.context() == ["a", "b", "c"]
    with pytest.raises(StopIteration) as stop:
        while True:
            step = one.step(first, step)
    assert [turn.body["content"] for turn in stop.value.value] == ["a", "b", "c"]
    assert one.hot() == 3
    second.close()


# -- adds ----------------------------------------------------------------------------------


# Of an add that failed only the process knows that sent it.
@pytest.mark.parametrize(("policy", "by_itself"), [("archive", True), ("archive", False), ("raise", True)])
@pytest.mark.parametrize("end", ["delete", "clear"])
def test_an_add_that_is_carried_out_after_the_end_of_its_session_is_refused(
    twins: Twins,
    config: CacheConfig,
    held_up: CacheConfig,
    proxy: CountingProxy,
    policy: str,
    by_itself: bool,
    end: str,
) -> None:
    cache = twins.make("HybridConversationCache", "s", held_up.replace(on_redis_error=policy))
    say(cache, "before")
    proxy.hold(scripts.ADD.sha)
    if policy == "archive":
        say(cache, "late")
    else:
        with pytest.raises(RedisUnavailable):
            say(cache, "late")
    assert proxy.is_holding
    ending = cache if by_itself else HybridConversationCache("s", config)
    if end == "delete":
        ending.delete_session()
    else:
        ending.clear()
    proxy.let_go()
    before = [] if end == "delete" else ["before", "late"] if policy == "archive" else ["before"]
    for one in (cache, ending, HybridConversationCache("s", config)):
        assert said(one.get_context()) == []
        assert said(one.get_full()) == before
    say(cache, "new")
    check(config, [*before, "new"], ["new"])


@pytest.mark.parametrize("end", ["delete", "clear"])
def test_a_late_add_that_a_server_without_memory_takes_does_not_count(
    config: CacheConfig, held_up: CacheConfig, proxy: CountingProxy, end: str
) -> None:
    cache, other = HybridConversationCache("s", held_up), Process(config)
    say(cache, "before")
    proxy.hold(scripts.ADD.sha)
    say(cache, "late")
    other.drive(whole.delete(other.session) if end == "delete" else whole.clear(other.session))
    other.add("new")
    other.drive.client.delete(other.store.hot.keys.refused("s"))
    proxy.let_go()
    assert other.hot() == 2
    before = [] if end == "delete" else ["before", "late"]
    for process in (other, Process(config)):
        assert process.context() == ["new"]
        assert process.full() == [*before, "new"]
    check(config, [*before, "new"], ["new"])


def test_an_add_that_was_brought_together_with_the_archive_does_not_come_again(
    config: CacheConfig, held_up: CacheConfig, proxy: CountingProxy
) -> None:
    cache, other = HybridConversationCache("s", held_up), Process(config)
    say(cache, "before")
    proxy.hold(scripts.ADD.sha)
    say(cache, "late", "after")
    other.drive(rounds.reconcile_all_pending(other.store))
    assert other.context() == ["before", "late", "after"]
    hot = other.hot()
    proxy.let_go()
    assert other.hot() == hot
    check(config, ["before", "late", "after"])


@pytest.mark.parametrize("end", ["delete", "clear", "nothing"])
def test_the_first_of_two_sendings_is_refused_after_the_second(config: CacheConfig, end: str) -> None:
    process, other = Process(config), Process(config)
    process.add("before")
    first = sent_twice(process)
    if end == "delete":
        other.drive(whole.delete(other.session))
    elif end == "clear":
        other.drive(whole.clear(other.session))
    assert process.drive._perform(first) == b"LATE"
    before = [] if end == "delete" else ["before", "twice"]
    context = before if end == "nothing" else []
    for one in (process, other, Process(config)):
        assert one.full() == before
        assert one.context() == context


def test_under_disk_durability_a_message_sent_twice_stays_once_when_redis_lost_its_memory(
    config: CacheConfig, redis_server: RedisServer
) -> None:
    config = config.replace(durability="disk")
    process, other = Process(config), Process(config)
    process.add("before")
    first = sent_twice(process)
    lose_memory(redis_server, config)
    other.add("after")
    assert isinstance(first, RedisCall)
    first.opened = None
    process.drive._perform(first)
    other.flush()
    assert other.archived() == other.full() == Process(config).full() == ["before", "twice", "after"]


def test_a_deletion_remembers_what_was_sent_twice_also_where_redis_lost_its_memory(
    config: CacheConfig, redis_server: RedisServer
) -> None:
    process, other = Process(config), Process(config)
    first = sent_twice(process)
    other.drive(whole.delete(other.session))
    lose_memory(redis_server, config)
    other.add("after")
    assert isinstance(first, RedisCall)
    first.opened = None
    process.drive._perform(first)
    assert Process(config).full() == ["after"]
    other.flush()
    assert other.archived() == other.full() == ["after"]


def test_what_waits_in_redis_when_it_is_told_is_dropped_and_what_was_put_back_stays(
    config: CacheConfig, held_up: CacheConfig, proxy: CountingProxy
) -> None:
    cache, process = HybridConversationCache("s", held_up), Process(config)
    say(cache, "before")
    proxy.hold(scripts.ADD.sha)
    say(cache, "late")
    nonces = process.archive.contested("s")
    process.flush()
    assert process.context() == ["before", "late"]
    proxy.let_go()
    assert process.hot() == 3
    process.drive(_sent(process.store.hot.refuse("s", nonces)))
    assert process.hot() == 2
    assert process.context() == process.full() == ["before", "late"]


@pytest.mark.promise("no-loss")
def test_one_add_that_was_repeated_puts_no_other_message_in_doubt(config: CacheConfig) -> None:
    process = Process(config)
    for number in range(60):
        process.add(str(number))
    twice = process.turn("twice")
    with process.archive.lock("s"):
        process.drive(
            append._append_hot(process.session, Batch((twice,)), Gap.REFUSE, locked=True, repeated=True),
        )
    process.add("last")
    process.flush()
    newest = process.archive.turns("s")[-2]
    assert process.archive.contested("s") == {twice.nonce: newest.id}
    assert newest.body["content"] == "twice"
    assert process.full() == [*map(str, range(60)), "twice", "last"]


def _sent(command: Any) -> Flow[Any]:
    return (yield RedisCall(command))


def test_an_add_that_fills_a_gap_is_noted_before_it_is_sent(config: CacheConfig) -> None:
    process = Process(config)
    process.add("a")
    filling = append._append_hot(process.session, Batch((process.turn("b"),)), Gap.FILL, locked=False)
    process.run_until(filling, scripts.ADD)
    with pytest.raises(RedisUnavailable):
        give_up(filling)
    assert process.store.outage_sessions == {"s"}


# -- what is taken away --------------------------------------------------------------------


@pytest.mark.parametrize("asked_again", [True, False])
@pytest.mark.parametrize("script", [scripts.ENDS, scripts.FORGET], ids=["look", "drop"])
@pytest.mark.parametrize("moved", [True, False])
def test_a_deletion_that_is_carried_out_late_takes_no_newer_message_with_it(
    twins: Twins,
    config: CacheConfig,
    held_up: CacheConfig,
    proxy: CountingProxy,
    asked_again: bool,
    script: Script,
    moved: bool,
) -> None:
    cache = twins.make("HybridConversationCache", "s", held_up)
    other = HybridConversationCache("s", config)
    say(cache, "old 1", "old 2")
    proxy.hold(script.sha)
    with pytest.raises(RedisUnavailable):
        cache.delete_session()
    assert proxy.is_holding
    old = ["old 1", "old 2"]
    if asked_again:
        assert other.delete_session()
        old = []
    say(other, "new 1", "new 2")
    if moved:
        other.flush_to_disk()
        other.get_context()
        say(other, "new 3")
    full = said(other.get_full())
    proxy.let_go()
    found = said(HybridConversationCache("s", config).get_full())
    # The deletion was asked for: what it was about may go.
    assert found in (full, [text for text in full if text not in old])
    assert (
        said(HybridConversationCache("s", config).get_context())[-len(full) + len(old) :] == full[len(old) :]
    )
    check(config, found)


def test_a_deletion_leaves_no_empty_stream_that_numbers_within_its_millisecond(config: CacheConfig) -> None:
    process, other = Process(config), Process(config)
    process.add("refused by the disk")
    client, keys = process.drive.client, process.store.hot.keys
    ((taken_back, _),) = client.xrange(keys.window("s"))
    client.xdel(keys.window("s"), taken_back)
    deleting = whole.delete(other.session)
    step = other.step(deleting, other.run_until(deleting, scripts.ENDS))
    # As if the add came within the millisecond of that look.
    high = keys.high_water(keys.bucket("s"))
    client.set(high, int(client.get(high)) + 60_000)
    adding = process.adding("acknowledged")
    cold = process.drive._perform(process.run_until(adding, scripts.ADD))
    assert cold == b"COLD"
    adding.close()
    with pytest.raises(StopIteration):
        while True:
            step = other.step(deleting, step)
    process.add("acknowledged")
    for one in (process, other, Process(config)):
        assert one.full() == one.context() == ["acknowledged"]


def test_a_message_that_is_added_in_the_middle_of_a_deletion_is_there_or_not_but_whole(
    config: CacheConfig,
) -> None:
    process, other = Process(config), Process(config)
    process.add("old")
    deleting = whole.delete(process.session)
    step = process.run_until(deleting, scripts.FORGET)
    other.add("between")
    with pytest.raises(StopIteration):
        while True:
            step = process.step(deleting, step)
    other.add("after")
    for _ in range(2):
        for one in (process, other, Process(config)):
            assert one.full() == one.context() == ["between", "after"]
        one.flush()


def test_a_late_end_of_what_the_old_package_left_takes_no_newer_message_with_it(config: CacheConfig) -> None:
    process = Process(config)
    client, old = process.drive.client, process.store.hot.old

    def add_old(number: bytes, text: str) -> None:
        client.lpush(old.list_key("s"), number)
        client.set(old.message_key("s", number), json.dumps({"role": "user", "content": text}))

    add_old(b"1", "first")
    dropping = old_sessions.drop_locked(process.store, "s")
    step = dropping.send(None)
    late = process.step(dropping, step)
    add_old(b"2", "second")
    client.set(old.message_key("s", b"1"), json.dumps({"role": "user", "content": "another"}))
    process.drive._perform(late)
    assert process.full() == ["another", "second"]


def test_what_is_remembered_of_deletions_adds_up_and_is_forgotten_in_the_end(config: CacheConfig) -> None:
    process = Process(config)
    archive = process.archive
    with archive.lock("s"):
        archive.append_locked("s", [with_id(process.turn("a"), MessageId(1, 1))], contested=True)
        (nonce,) = archive.contested("s")
        # By the archive alone, which knows of no Redis.
        assert archive.delete_locked("s")
        assert archive.contested("s") == {nonce: ZERO_ID}
        assert archive.delete_locked("s", up_to := MessageId(1, 1), [b"sixsix"]) is False
    found = archive.look("s")
    assert found.deleted == found.newest == up_to
    assert found.contested == {nonce: ZERO_ID, b"sixsix": ZERO_ID}
    assert archive.forget_deletions(1) == 0
    assert archive.forget_deletions(2) == 1
    assert archive.look("s").contested == {}


# -- what moves to disk ----------------------------------------------------------------------


ENDINGS = {"clear": whole.clear, "flush": whole.flush, "reconcile": reconcile.reconcile}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("between", ["trim", "taking back"])
def test_a_window_that_begins_elsewhere_than_was_read_leaves_all_the_same(
    config: CacheConfig, ending: str, between: str
) -> None:
    daemon, process, other = Process(config), Process(config), Process(config)
    texts = list("abcdef")
    for text in texts:
        daemon.add(text)
    other.context()
    moving = offload.move_to_disk(daemon.store, {"s": 4})
    trim = daemon.run_until(moving, scripts.TRIM)
    with pytest.raises(RedisUnavailable):
        give_up(moving)
    running = ENDINGS[ending](process.session)
    step = process.step(running, process.run_until(running, scripts.OLDEST))
    if between == "trim":
        daemon.drive._perform(trim)
    else:
        client, window = process.drive.client, process.store.hot.keys.window("s")
        client.xdel(window, client.xrange(window)[0][0])
    with pytest.raises(StopIteration):
        while True:
            step = process.step(running, step)
    assert process.hot() == 0
    for one in (process, other, Process(config)):
        assert one.full() == texts
        assert one.context() == ([] if ending == "clear" else texts[-4:])


def test_a_window_that_changes_all_the_time_is_no_success_and_keeps_no_other(config: CacheConfig) -> None:
    config = config.replace(hot_window_size=100)
    process, steady = Process(config), Process(config, "steady")
    for number in range(4 * offload.MOVES_AGAIN):
        process.add(str(number))
    steady.add("moves")
    assert process.archive.lock_key("s") != process.archive.lock_key("steady")
    client, window = process.drive.client, process.store.hot.keys.window("s")
    moving = offload.move_to_disk(process.store, {"s": 0, "steady": 0})
    step, trims = moving.send(None), 0
    with pytest.raises(StopIteration) as stop:
        while True:
            commands = step.commands if isinstance(step, RedisBatch) else ()
            if any(isinstance(one, ScriptCall) and one.script is scripts.TRIM for one in commands):
                trims += 1
                client.xdel(window, client.xrange(window)[0][0])
            step = process.step(moving, step)
    moved = stop.value.value
    assert (moved.messages, moved.sessions) == (1, 1)
    assert isinstance(moved.failed["s"], ArchiveBusy)
    assert trims == offload.MOVES_AGAIN + 1
    assert steady.hot() == 0
    assert process.full() == [str(number) for number in range(4 * offload.MOVES_AGAIN)]


def test_what_is_put_back_late_stays_in_the_trash_where_its_session_expired(config: CacheConfig) -> None:
    then = time.time() - 20 * 86_400
    archive = ConversationArchive(config.archive_dir, clock=ManualClock(then))
    archive.append_turn("s", {"role": "user", "content": "old"})
    os.utime(os.path.join(config.archive_dir, "s.huff"), (then, then))
    reader, daemon = Process(config), Process(config)
    reading = read_flow.get_context(reader.session)
    late = reader.run_until(reading, scripts.REHYDRATE)
    give_up(reading)
    assert daemon.drive(rounds.clean_up(daemon.store)) == 1
    assert reader.drive._perform(late) == -1
    for one in (reader, daemon, Process(config)):
        assert one.hot() == 0
        assert one.context() == one.full() == []
    with daemon.archive.lock("s"):
        assert daemon.archive.restore_locked("s")
    assert Process(config).context() == ["old"]


def test_a_late_copy_among_the_recent_is_not_shown_as_relevant_again(config: CacheConfig) -> None:
    process, other = Process(config), Process(config)
    for text in "abc":
        process.add(text)
    late = other.turn("late")
    with other.archive.lock("s"):
        [given], _ = other.archive.append_outage_locked("s", [late], contested=True)
    # Carried out now; this process looked at the archive before there was anything in doubt.
    process.drive(append._append_hot(process.session, Batch((late,)), Gap.IGNORE, locked=False))
    assert given not in (turn.id for turn in process.drive(read_flow.get_context(process.session)))
    found = process.drive(smart_context(process.session, Budget(), "late", None, 4, 5))
    assert [said(part) for part in found.values()] == [["a", "b", "c", "late"], []]
    assert process.full() == ["a", "b", "c", "late"]
