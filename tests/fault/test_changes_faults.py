"""Changes of a session that are stopped, torn, late or rolled back: done or not, and nothing comes back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lix_cache.config import CacheConfig
from lix_cache.effects import Flow
from lix_cache.errors import ArchiveUnavailable, RedisUnavailable
from lix_cache.hot import scripts
from lix_cache.hot.connections import NewConnection
from lix_cache.messages.turn import MessageId, Turn
from lix_cache.session import changes, read, rounds
from lix_cache.session.batch import AddResult
from tests.support import RedisServer
from tests.support.lab import Process, contents, is_free
from tests.support.redis_server import nowhere

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture
def new_config(new_store: Callable[..., CacheConfig]) -> Callable[..., CacheConfig]:
    return partial(new_store, archive_lock_timeout_seconds=0.05)


# -- situations and changes -------------------------------------------------------------------


def hot(process: Process) -> None:
    for text in "abc":
        process.add(text)


def cold(process: Process) -> None:
    hot(process)
    process.flush()


def both(process: Process) -> None:
    cold(process)
    for text in "de":
        process.add(text)


def rehydrated(process: Process) -> None:
    both(process)
    process.flush()
    process.context()
    process.add("f")


SITUATIONS = [hot, cold, both, rehydrated]


def named(process: Process, number: int) -> Turn:
    return process.drive(read.get_full(process.session))[number]


def pop(process: Process) -> Flow[Any]:
    return changes.pop_last(process.session)


def delete_first(process: Process) -> Flow[Any]:
    return changes.delete_message(process.session, named(process, 0).id)


def delete_last(process: Process) -> Flow[Any]:
    return changes.delete_message(process.session, named(process, -1).id)


def edit_last(process: Process) -> Flow[Any]:
    def made(turn: Turn) -> Turn:
        return Turn(turn.id, {**turn.body, "content": "E"}, turn.vector)

    return changes.edit(process.session, named(process, -1).id, made)


def replace_all(process: Process) -> Flow[AddResult]:
    return changes.replace_all(process.session, [process.turn("X"), process.turn("Y")], None)


AFTERWARDS: dict[Callable[[Process], Flow[Any]], Callable[[list[str]], list[str]]] = {
    pop: lambda texts: texts[:-1],
    delete_first: lambda texts: texts[1:],
    delete_last: lambda texts: texts[:-1],
    edit_last: lambda texts: [*texts[:-1], "E"],
    replace_all: lambda texts: ["X", "Y"],
}


def forget_redis(config: CacheConfig, process: Process) -> None:
    cursor = None
    while cursor != 0:
        following, keys = process.ask("SCAN", cursor or 0, "MATCH", f"{config.redis_key_prefix}:*")
        for key in keys:
            process.ask("UNLINK", key)
        cursor = int(following)


def check(config: CacheConfig, *allowed: list[str]) -> list[str]:
    """Assert that all processes see one of these states from now on, hot and cold; return it."""
    late = Process(config.replace(on_redis_error="raise"))
    assert is_free(late.archive, "s"), "a lock is still held"
    late.drive(rounds.reconcile_all_pending(late.store))
    found = late.full()
    assert found in allowed
    for _ in range(2):
        for process in (late, Process(config)):
            assert process.full() == found
            assert process.context() == found[-4:]
        late.flush()
    assert late.archived() == found
    meta = late.archive.metadata("s")
    assert meta is None or meta.num_turns == len(found)
    assert all(report.is_intact for report in late.store.archive.verify_all())
    return found


def stop_at(process: Process, running: Flow[Any], step: int, *, done: bool) -> bool:
    """Stop a flow at a step, before or after it is carried out. False if it ended before."""
    try:
        effect = running.send(None)
        for _ in range(step):
            effect = process.step(running, effect)
        if done:
            with contextlib.suppress(NewConnection):
                process.drive._perform(effect)
    except StopIteration:
        return False
    running.close()
    return True


@pytest.mark.parametrize("loses_memory", [False, True], ids=["kept", "flushed"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "situation",
    [
        pytest.param(hot, marks=pytest.mark.slow),
        pytest.param(cold, marks=pytest.mark.slow),
        both,
        pytest.param(rehydrated, marks=pytest.mark.slow),
    ],
    ids=lambda one: one.__name__,
)
@pytest.mark.parametrize("change", AFTERWARDS, ids=lambda one: one.__name__)
def test_a_change_that_is_stopped_is_done_or_not_and_can_be_made_again(
    new_config: Callable[..., CacheConfig],
    change: Callable[[Process], Flow[Any]],
    situation: Callable[[Process], None],
    done: bool,
    loses_memory: bool,
) -> None:
    step, goes_on = 0, True
    while goes_on:
        # On disk before they are acknowledged: a Redis that forgets loses nothing of them.
        config = new_config(durability="disk")
        process, witness = Process(config), Process(config)
        situation(process)
        before = witness.full()
        after = AFTERWARDS[change](before)
        goes_on = stop_at(process, change(process), step, done=done)
        if loses_memory:
            forget_redis(config, witness)
        assert witness.full() in (before, after)
        found = check(config, before, after)
        if not goes_on:
            assert found == after
        again = Process(config)
        again.drive(change(again))
        check(config, AFTERWARDS[change](found))
        again.add("later")
        check(config, [*AFTERWARDS[change](found), "later"])
        step += 1
    assert step > 3


@pytest.mark.parametrize("change", AFTERWARDS, ids=lambda one: one.__name__)
def test_a_disk_that_refuses_leaves_all_as_it_was(
    new_config: Callable[..., CacheConfig],
    change: Callable[[Process], Flow[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = new_config()
    process = Process(config)
    both(process)
    before, running = process.full(), change(process)

    def refuse(*_: Any, **__: Any) -> None:
        raise ArchiveUnavailable(28, "the storage is full")

    with monkeypatch.context() as full:
        for name in ("take_out_locked", "replace_locked"):
            full.setattr(process.archive, name, refuse)
        with pytest.raises(ArchiveUnavailable):
            process.drive(running)
    check(config, before)


@pytest.mark.parametrize("change", AFTERWARDS, ids=lambda one: one.__name__)
def test_a_change_that_is_torn_costs_nothing_else(
    new_config: Callable[..., CacheConfig], change: Callable[[Process], Flow[Any]]
) -> None:
    config = new_config()
    process = Process(config)
    cold(process)
    (path,) = Path(config.archive_dir).glob("*.huff")
    whole = path.read_bytes()
    process.drive(change(process))
    changed = path.read_bytes()
    assert changed.startswith(whole)
    for end in range(len(whole) + 1, len(changed)):
        path.write_bytes(changed[:end])
        for damaged in path.parent.glob("*.damaged-*"):
            damaged.unlink()
        forget_redis(config, process)
        late = Process(config)
        assert late.full() == list("abc")
        late.add("d")
        check(config, list("abcd"))


@pytest.mark.parametrize("policy", ["archive", "raise"])
def test_a_message_that_redis_was_not_told_of_is_gone_all_the_same(
    new_config: Callable[..., CacheConfig], policy: str
) -> None:
    config = new_config(on_redis_error=policy)
    process, witness = Process(config), Process(config)
    both(process)
    assert witness.full() == list("abcde")
    running = pop(process)
    step = process.run_until(running, scripts.TAKE_OUT)
    left = running.throw(RedisUnavailable("no answer in time", maybe_done=True, timed_out=True))
    with pytest.raises(StopIteration) as stop:
        while True:
            left = process.step(running, left)
    # It is in the archive, so it is done.
    assert contents([stop.value.value]) == ["e"]
    assert process.context() == list("abcd")
    assert witness.drive(changes.pop_last(witness.session)).body["content"] == "d"
    process.add("f")
    # And carried out late it takes nothing else away.
    process.drive._perform(step)
    check(config, list("abcf"))


def test_what_is_taken_out_late_has_its_nonce(new_config: Callable[..., CacheConfig]) -> None:
    config = new_config()
    process = Process(config)
    both(process)
    running = pop(process)
    step = process.run_until(running, scripts.TAKE_OUT)
    running.close()
    window = process.store.hot.keys.window("s")
    ((last, (_, kept)),) = process.ask("XREVRANGE", window, "+", "-", "COUNT", 1)
    process.ask("UNLINK", window)
    # A server that took over gives the id to another message.
    process.ask("XADD", window, last, "m", kept[:1] + b"\0other" + kept[7:])
    process.drive._perform(step)
    assert process.hot() == 1


def test_what_was_read_before_a_deletion_is_not_put_back(new_config: Callable[..., CacheConfig]) -> None:
    config = new_config()
    process, reader = Process(config), Process(config)
    cold(process)
    running = read.get_context(reader.session)
    step = reader.run_until(running, scripts.REHYDRATE)
    with contextlib.suppress(StopIteration):
        running.throw(RedisUnavailable("no answer in time", maybe_done=True, timed_out=True))
    process.drive(delete_last(process))
    process.drive._perform(step)
    check(config, ["a", "b"])


@pytest.mark.parametrize("forgets", [False, True])
def test_a_late_copy_of_a_deleted_message_does_not_bring_it_back(
    new_config: Callable[..., CacheConfig], forgets: bool
) -> None:
    config = new_config()
    process = Process(config)
    hot(process)
    running = process.adding("d")
    step = process.run_until(running, scripts.ADD)
    # The connection broke before the add was carried out; it is sent again, and archived as contested.
    again = running.throw(RedisUnavailable("connection lost", maybe_done=True))
    with contextlib.suppress(StopIteration):
        while True:
            again = process.step(running, again)
    assert process.full() == list("abcd")
    process.drive(pop(process))
    if forgets:
        process.flush()
        process.ask("UNLINK", process.store.hot.keys.refused("s"))
    process.drive._perform(step)
    assert process.full() == list("abc")
    check(config, list("abc"))


def test_without_redis_changes_go_to_the_archive(new_config: Callable[..., CacheConfig]) -> None:
    config = new_config(durability="disk")
    process = Process(config)
    both(process)
    ids = [turn.id for turn in process.drive(read.get_full(process.session))]
    away = Process(nowhere(config, redis_retry_seconds=60))
    assert away.drive(changes.pop_last(away.session)).body["content"] == "e"
    assert away.drive(changes.delete_message(away.session, ids[1]))
    away.drive(changes.edit(away.session, ids[0], lambda t: Turn(t.id, {**t.body, "content": "A"})))
    with pytest.raises(RedisUnavailable):
        away.drive(changes.delete_message(away.session, MessageId(ids[-1].ms + 9, 0)))
    with pytest.raises(RedisUnavailable):
        away.drive(replace_all(away))
    assert away.full() == ["A", "c", "d"]
    assert process.archive.pending_sessions() == ["s"]
    check(config, ["A", "c", "d"])
    refusing = Process(nowhere(config, on_redis_error="raise"))
    with pytest.raises(RedisUnavailable):
        refusing.drive(changes.pop_last(refusing.session))
    empty = Process(nowhere(config), "none")
    with pytest.raises(RedisUnavailable):
        empty.drive(changes.pop_last(empty.session))


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("change", AFTERWARDS, ids=lambda one: one.__name__)
def test_a_redis_that_goes_back_does_not_undo_a_change(
    tmp_path: Path, change: Callable[[Process], Flow[Any]], situation: Callable[[Process], None]
) -> None:
    with RedisServer() as server:
        config = server.config(
            archive_dir=tmp_path / "archive",
            hot_window_size=4,
            archive_batch_turns=2,
            redis_retry_seconds=0,
            evictor_enabled=False,
        )
        process = Process(config)
        situation(process)
        process.drive.client.save()
        expected = AFTERWARDS[change](process.full())
        process.drive(change(process))
        assert process.full() == expected
        server.kill()
        server.start()
        for one in (process, Process(config)):
            assert one.context() == expected[-4:]
            assert one.full() == expected
        process.drive.client.save()
        check(config, expected)


def test_taking_off_the_last_message_does_not_look_like_a_redis_that_went_back(
    new_config: Callable[..., CacheConfig],
) -> None:
    config = new_config()
    process, witness = Process(config), Process(config)
    rehydrated(process)
    witness.context()
    for _ in range(3):
        process.drive(pop(process))
        assert witness.context() == witness.full()[-4:]
    witness.flush()
    witness.context()
    late = Process(config)
    late.add("g")
    for one in (process, witness, late):
        one.context()
        assert one.store.counters["rolled_back"] == 0


def test_nothing_of_a_message_is_left_after_compaction(new_config: Callable[..., CacheConfig]) -> None:
    config = new_config(archive_codec="stored")
    process = Process(config)
    process.add("a secret")
    process.add("b")
    process.flush()
    process.drive(delete_first(process))
    process.store.archive.compact(idle_seconds=0)
    for name in os.listdir(config.archive_dir):
        path = os.path.join(config.archive_dir, name)
        assert not os.path.isfile(path) or b"secret" not in Path(path).read_bytes()
    check(config, ["b"])
