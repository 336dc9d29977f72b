"""What a session holds is changed: the last message taken off, one deleted or edited, all replaced.

In both variants: one suite.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache import MessageNotFound, RevisionMismatch
from lix_cache.archive import decoding
from lix_cache.archive.facts import CompactedSession
from lix_cache.config import CacheConfig
from lix_cache.effects import RedisCall
from lix_cache.errors import InvalidInput, InvalidMessage
from lix_cache.hot import scripts
from lix_cache.session import changes
from tests.support import RedisServer
from tests.support.lab import Process
from tests.support.redis_server import nowhere
from tests.support.sessions import batch, said
from tests.support.twins import ManualClock, Twins

pytestmark = pytest.mark.promise("no-loss")


def fill(cache: Any, where: str) -> tuple[str, ...]:
    """Add six messages, and have them lie hot, cold, or on both sides."""
    first = cache.add_messages(batch("a", "b", "c"))
    if where != "hot":
        cache.flush_to_disk()
    second = cache.add_messages(batch("d", "e", "f"))
    if where in ("cold", "rehydrated"):
        cache.flush_to_disk()
    if where == "rehydrated":
        cache.get_context()
    return tuple(first.ids + second.ids)


PLACES = ["hot", "half", "cold", "rehydrated"]


def assert_holds(cache: Any, later: Any, *texts: Any) -> None:
    """Every way to read gives these messages, to this object and another, hot and cold."""
    for _ in range(2):
        for one in (cache, later):
            assert said(one.get_full()) == [*texts]
            assert said(one.get_messages(None)) == [*texts]
            assert said(one.get_last(3)) == [*texts][-3:]
            assert said(one.get_context()) == [*texts][-4:]
            relevant = one.smart_context("c", recent_k=2, disk_k=99)
            assert said(relevant["recent"]) == [*texts][-2:]
            assert set(said(relevant["relevant"])) <= set(texts)
        cache.flush_to_disk()
        assert cache.get_stats()["disk_turns"] == len(texts)
        assert said(cache.archive.load_all("s") or []) == [*texts]
        report = cache.archive.verify("s")
        assert report is not None
        assert report.problems == ()
        assert report.turns == len(texts)


@pytest.mark.parametrize("where", PLACES)
def test_the_last_message_is_taken_off_wherever_it_lies(
    cache: Any, open_cache: Callable[..., Any], where: str
) -> None:
    ids = fill(cache, where)
    popped = cache.pop_last()
    assert (popped.id, popped.message["content"]) == (ids[-1], "f")
    assert_holds(cache, open_cache(), *"abcde")
    assert said([open_cache().pop_last() for _ in range(5)]) == list("edcba")
    assert cache.pop_last() is None
    assert_holds(cache, open_cache())
    cache.add_message("user", "again")
    assert_holds(cache, open_cache(), "again")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("number", [0, 2, 3, 5])
def test_a_message_is_deleted_wherever_it_lies(
    cache: Any, open_cache: Callable[..., Any], where: str, number: int
) -> None:
    ids = fill(cache, where)
    assert cache.delete_message(ids[number])
    left = [text for i, text in enumerate("abcdef") if i != number]
    assert not cache.delete_message(ids[number])
    assert not open_cache().delete_message(ids[number])
    cache.add_message("user", "g")
    assert_holds(cache, open_cache(), *left, "g")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("number", [0, 3, 5])
def test_an_edited_message_keeps_its_place(
    cache: Any, open_cache: Callable[..., Any], where: str, number: int
) -> None:
    ids = fill(cache, where)
    before = cache.get_messages(None)[number]
    edited = cache.edit(ids[number], "new", metadata={"by": "me"})
    assert edited.id == ids[number]
    assert edited.message == {**before.message, "content": "new", "metadata": {"by": "me"}}
    texts = ["new" if i == number else text for i, text in enumerate("abcdef")]
    other = open_cache()
    assert_holds(cache, other, *texts)
    other.edit(ids[number], ["newer"], role="assistant", embedding=[1.0, 0.0])
    texts[number] = ["newer"]
    assert cache.get_messages(None)[number].message["embedding"] == [1.0, 0.0]
    cache.add_message("user", "g")
    assert said(cache.get_full()) == [*texts, "g"]
    assert cache.delete_message(ids[number])
    assert_holds(cache, other, *(t for i, t in enumerate(texts) if i != number), "g")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("texts", [[], ["x"], list("uvwxyz")])
def test_all_messages_are_replaced_at_once(
    cache: Any, open_cache: Callable[..., Any], where: str, texts: list[str]
) -> None:
    fill(cache, where)
    other = open_cache()
    revision = other.get_revision()
    assert revision == cache.get_revision()
    done = cache.replace_all(batch(*texts), expected=revision)
    assert (done.added, done.in_window) == (len(texts), min(4, len(texts)))
    assert [one.id for one in other.get_messages(None)] == list(done.ids)
    assert_holds(cache, open_cache(), *texts)
    other.add_message("user", "later")
    assert_holds(cache, other, *texts, "later")


def test_what_was_changed_since_is_not_replaced(cache: Any, open_cache: Callable[..., Any]) -> None:
    other = open_cache()
    changes: list[Callable[[], Any]] = [
        lambda: other.add_message("user", "x"),
        lambda: other.pop_last(),
        lambda: other.edit(other.get_last(1)[0].id, "y"),
        lambda: other.delete_message(other.get_messages(1)[0].id),
        lambda: other.replace_all(batch("p", "q")),
        lambda: other.delete_session(),
    ]
    cache.add_messages(batch("a", "b", "c"))
    for change in changes:
        revision = cache.get_revision()
        change()
        before = other.get_full()
        with pytest.raises(RevisionMismatch) as refused:
            cache.replace_all(batch("z"), expected=revision)
        assert refused.value.expected == revision
        assert refused.value.found == cache.get_revision()
        assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
        assert other.get_full() == before


def test_what_names_no_message_is_refused(cache: Any) -> None:
    cache.add_message("user", "a")
    for wrong in ("", "x", "1", None, 3, "1-2-3"):
        with pytest.raises(InvalidInput):
            cache.delete_message(wrong)
        with pytest.raises(InvalidInput):
            cache.edit(wrong, "b")
    for unknown in ("0-0", "1-0", f"{2**63}-0", f"{2**64 - 1}-{2**64 - 1}"):
        assert not cache.delete_message(unknown)
        with pytest.raises(MessageNotFound):
            cache.edit(unknown, "b")
    with pytest.raises(InvalidMessage):
        cache.edit(cache.get_last(1)[0].id, object())
    with pytest.raises(InvalidMessage):
        cache.replace_all([{"content": "no role"}])
    with pytest.raises(InvalidInput):
        cache.replace_all([], expected=7)
    assert said(cache.get_full()) == ["a"]


def test_a_message_that_was_deleted_is_not_added_again_by_its_key(
    cache: Any, redis_server: RedisServer, config: CacheConfig
) -> None:
    added = cache.add_messages(batch("a", "b"), keys=["k1", "k2"])
    cache.pop_last()
    again = cache.add_messages(batch("b"), keys=["k2"])
    assert (again.added, again.ids) == (0, added.ids[1:])
    client = redis_server.client(db=config.session_redis_db)
    cache.flush_to_disk()
    for key in client.scan_iter(f"{config.redis_key_prefix}:*"):
        client.delete(key)
    again = cache.add_messages(batch("b"), keys=["k2"])
    assert (again.added, again.ids) == (0, added.ids[1:])
    assert said(cache.get_full()) == ["a"]


@pytest.mark.parametrize("left", [[], ["in short"]])
@pytest.mark.parametrize("where", ["here", "in another process"])
def test_a_message_that_was_replaced_is_not_added_again_by_its_key(
    open_cache: Callable[..., Any], left: list[str], where: str
) -> None:
    cache = open_cache()
    added = cache.add_messages(batch("a", "b"), keys=["k1", "k2"])
    cache.replace_all(batch(*left))
    retrying = cache if where == "here" else open_cache()
    again = retrying.add_messages(batch("a", "b"), keys=["k1", "k2"])
    assert (again.added, again.ids) == (0, added.ids)
    new = retrying.add_messages(batch("b", "c"), keys=["k2", "k3"])
    assert new.added == 1
    assert said(cache.get_full()) == [*left, "c"]


@pytest.mark.parametrize("how", ["pop", "delete", "edit", "delete session"])
@pytest.mark.parametrize("kept", ["in Redis", "on disk too", "on disk, Redis away"])
def test_a_message_that_comes_again_when_its_key_is_forgotten_is_a_new_one(
    twins: Twins, config: CacheConfig, redis_server: RedisServer, kept: str, how: str
) -> None:
    clock = ManualClock(time.time())
    config = config.replace(durability="disk" if kept == "on disk too" else "redis")
    cache = twins.make("HybridConversationCache", "s", config, clock=clock)
    added = cache.add_messages(batch("first", "ok"), keys=["k1", "k2"])
    changed = {
        "pop": cache.pop_last,
        "delete": lambda: cache.delete_message(added.ids[1]),
        "edit": lambda: cache.edit(added.ids[1], "edited"),
        "delete session": cache.delete_session,
    }
    changed[how]()
    # Days later, and after so many other keys, Redis knows none of them.
    clock.advance(3 * 86_400)
    client = redis_server.client(db=config.session_redis_db)
    for key in client.scan_iter(f"{config.redis_key_prefix}:*known*"):
        client.delete(key)
    adding = cache
    if kept.endswith("away"):
        adding = twins.make("HybridConversationCache", "s", nowhere(config), clock=clock)
    again = adding.add_messages(batch("ok"), keys=["k2"])
    assert again.added == 1
    for reader in (cache, twins.make("HybridConversationCache", "s", config)):
        assert said(reader.get_full())[-1] == "ok"
        assert said(reader.get_context())[-1] == "ok"
    if kept == "in Redis":
        cache.flush_to_disk()
    for key in client.scan_iter(f"{config.redis_key_prefix}:*"):
        client.delete(key)
    assert said(twins.make("HybridConversationCache", "s", config).get_full())[-1] == "ok"


def test_a_deleted_sessions_keys_may_be_used_again(cache: Any) -> None:
    added = cache.add_messages(batch("a", "b"), keys=["k1", "k2"])
    cache.delete_message(added.ids[1])
    cache.delete_session()
    again = cache.add_messages(batch("a", "b"), keys=["k1", "k2"])
    assert again.added == 2
    assert said(cache.get_full()) == ["a", "b"]


def test_what_is_added_after_a_replacement_comes_after_it_however_clocks_differ(
    twins: Twins, config: CacheConfig
) -> None:
    ahead = twins.make("HybridConversationCache", "s", config, clock=ManualClock(time.time() + 3600))
    other = twins.make("HybridConversationCache", "s", config)
    assert other.get_context() == []
    ahead.replace_all(batch("summary"))
    other.add_message("user", "next")
    for reader in (ahead, other):
        assert said(reader.get_full()) == said(reader.get_context()) == ["summary", "next"]
    assert other.get_stats()["counters"].get("rolled_back", 0) == 0


def test_reading_what_came_in_the_place_of_all_does_not_read_what_was_replaced(
    open_cache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    for number in range(12):
        cache.add_messages(batch(*(f"{number}-{i}" for i in range(8))))
        cache.flush_to_disk()
    cache.replace_all(batch("summary"))
    decoded: list[int] = []
    decode = decoding.decode

    def counting(data: bytes, *args: Any) -> Any:
        decoded.append(len(data))
        return decode(data, *args)

    monkeypatch.setattr(decoding, "decode", counting)
    assert said(open_cache().get_context()) == ["summary"]
    assert said(cache.get_last(4)) == ["summary"]
    assert len(decoded) <= 4


def test_changes_outlive_a_redis_that_lost_its_memory(
    cache: Any, open_cache: Callable[..., Any], redis_server: RedisServer, config: CacheConfig
) -> None:
    client = redis_server.client(db=config.session_redis_db)
    ids = fill(cache, "half")
    cache.delete_message(ids[1])
    cache.edit(ids[0], "A")
    for key in client.scan_iter(f"{config.redis_key_prefix}:*"):
        client.delete(key)
    assert_holds(cache, open_cache(), "A", "c", "d", "e", "f")


def test_what_compaction_leaves_is_what_readers_had(cache: Any, open_cache: Callable[..., Any]) -> None:
    ids = fill(cache, "cold")
    cache.edit(ids[2], "a secret that is no more")
    cache.edit(ids[2], "C")
    cache.delete_message(ids[4])
    cache.archive.compact(["s"], idle_seconds=0)
    assert_holds(cache, open_cache(), "a", "b", "C", "d", "f")
    cache.replace_all([])
    revision = cache.get_revision()
    cache.archive.compact(["s"], idle_seconds=0)
    assert cache.get_revision() == revision
    assert_holds(cache, open_cache())
    cache.add_message("user", "again")
    assert_holds(cache, open_cache(), "again")


def test_the_window_and_the_coordinator_offer_the_same(twins: Twins, config: CacheConfig) -> None:
    window = twins.make("SessionContextWindow", "s", config)
    window.add_messages(batch("a", "b", "c"))
    assert said([window.pop_last()]) == ["c"]
    window.edit(window.get_last(1)[0].id, "B")
    assert said(window.get_context()) == ["a", "B"]
    coordinator = twins.make("CacheCoordinator", "s", config)
    assert coordinator.get_context_revision() == window.get_revision()
    first = window.get_messages(1)[0].id
    assert coordinator.delete_message(first)
    assert coordinator.edit_message(window.get_last(1)[0].id, "b").message["content"] == "b"
    assert said([coordinator.pop_last_message()]) == ["b"]
    coordinator.replace_all_messages(batch("x"), coordinator.get_context_revision())
    assert said(coordinator.get_context_messages()) == ["x"]
    assert window.delete_message(window.get_last(1)[0].id)
    assert window.replace_all(batch("y"), window.get_revision()).added == 1


# -- what was taken out is not missed -------------------------------------------------------


def compact(process: Process) -> None:
    [(_, done)] = process.archive.compact_many(["s"], idle_seconds=0)
    assert isinstance(done, CompactedSession)


STEPS: dict[str, Callable[[Process, Process], Any]] = {
    "pop": lambda one, other: one.drive(changes.pop_last(one.session)),
    "the other pops": lambda one, other: other.drive(changes.pop_last(other.session)),
    "flush": lambda one, other: one.flush(),
    "read": lambda one, other: one.context(),
    "the other reads": lambda one, other: other.context(),
    "add": lambda one, other: one.add("more"),
    "compact": lambda one, other: compact(one),
}


@pytest.mark.parametrize("first", ["pop", "the other pops"])
@pytest.mark.parametrize("second", ["pop", "flush", "compact"])
@pytest.mark.parametrize("third", ["pop", "flush", "read", "the other reads", "add"])
def test_a_message_that_was_taken_out_before_it_was_archived_is_no_sign_of_a_rollback(
    redis_config: CacheConfig, first: str, second: str, third: str
) -> None:
    one, other = Process(redis_config), Process(redis_config)
    for text in "xyz":
        one.add(text)
    assert other.context() == one.context() == [*"xyz"]
    for step in (first, second, third, "flush", "read", "the other reads"):
        STEPS[step](one, other)
    assert one.context() == other.context() == Process(redis_config).context()
    assert one.store.counters["rolled_back"] == other.store.counters["rolled_back"] == 0


def test_a_change_of_which_redis_was_not_told_is_no_sign_of_a_rollback(redis_config: CacheConfig) -> None:
    one = Process(redis_config)
    for text in "xyz":
        one.add(text)
    popping = changes.pop_last(one.session)
    step = popping.send(None)
    while not (isinstance(step, RedisCall) and getattr(step.command, "script", None) is scripts.TAKE_OUT):
        step = one.step(popping, step)
    popping.close()  # killed
    other = Process(redis_config)
    for _ in range(2):
        assert other.context() == [*"xy"]
    assert other.store.counters["rolled_back"] == 0
