"""Batches, keys and pages of a session, in both variants: one suite."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache import KeyReused
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveUnavailable, ConfigError, InvalidInput, InvalidMessage
from lix_cache.hot import scripts
from lix_cache.messages.keyed import nonce_of, tag_of
from tests.support import RedisServer
from tests.support.redis_server import nowhere
from tests.support.sessions import batch, said
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-loss")


def ids(messages: Any) -> list[str]:
    return [one.id for one in messages]


def forget_redis(server: RedisServer, config: CacheConfig) -> None:
    client = server.client(db=config.session_redis_db)
    for key in client.scan_iter(f"{config.redis_key_prefix}:*"):
        client.delete(key)


def test_a_batch_is_added_in_order_and_under_ids_that_follow_each_other(cache: Any) -> None:
    added = cache.add_messages(
        [{"role": "user", "content": "a", "metadata": {"n": 1}}, {"role": "assistant", "content": ["b"]}]
    )
    assert added.added == 2
    assert added.in_window == 2
    first, second = (tuple(map(int, one.split("-"))) for one in added.ids)
    assert second == (first[0], first[1] + 1)
    assert said(cache.get_full()) == ["a", ["b"]]
    assert cache.get_full()[0]["metadata"] == {"n": 1}
    assert ids(cache.get_last(2)) == list(added.ids)


def test_an_empty_batch_adds_nothing(cache: Any) -> None:
    cache.add_message("user", "there")
    added = cache.add_messages([])
    assert (added.ids, added.added, added.in_window) == ((), 0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": "x", "name": "y"}],
        [{"role": 1, "content": "x"}],
        [{"role": "user", "content": float("nan")}],
        ["text"],
        "text",
        {"role": "user", "content": "x"},
    ],
    ids=repr,
)
def test_one_bad_message_refuses_the_batch(cache: Any, bad: Any) -> None:
    messages = [*batch("good"), *bad] if isinstance(bad, list) else bad
    with pytest.raises(InvalidMessage):
        cache.add_messages(messages)
    assert cache.get_full() == []


def test_more_messages_than_one_call_may_hold_are_refused(cache: Any) -> None:
    with pytest.raises(InvalidInput, match="at most 1000"):
        cache.add_messages(batch(*range(1001)))
    assert cache.add_messages(batch(*range(1000))).added == 1000
    assert said(cache.get_full()) == list(range(1000))


@pytest.mark.parametrize("keys", [["a"], ["a", "a"], ["a", ""], ["a", 1], "ab"], ids=repr)
def test_keys_that_cannot_name_the_messages_are_refused(cache: Any, keys: Any) -> None:
    with pytest.raises(InvalidInput):
        cache.add_messages(batch("x", "y"), keys=keys)
    assert cache.get_full() == []


def test_a_retry_with_the_same_keys_adds_nothing_and_returns_the_same_ids(cache: Any) -> None:
    first = cache.add_messages(batch("a", "b"), keys=["1", "2"])
    again = cache.add_messages(batch("a", "b"), keys=["1", "2"])
    assert again.ids == first.ids
    assert (first.added, again.added) == (2, 0)
    more = cache.add_messages(batch("a", "c", "b", "d"), keys=["1", "3", "2", "4"])
    assert (more.ids[0], more.ids[2], more.added) == (*first.ids, 2)
    assert said(cache.get_full()) == ["a", "b", "c", "d"]
    assert ids(cache.get_last(4))[2:] == [more.ids[1], more.ids[3]]


def test_the_order_of_an_objects_keys_is_no_other_content(cache: Any) -> None:
    one = [{"role": "user", "content": {"a": 1, "b": 2}, "metadata": {"x": 1, "y": 2}}]
    other = [{"role": "user", "content": {"b": 2, "a": 1}, "metadata": {"y": 2, "x": 1}}]
    assert cache.add_messages(one, keys=["k"]).ids == cache.add_messages(other, keys=["k"]).ids


@pytest.mark.parametrize(
    "other",
    [
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "user", "content": "b", "metadata": {"n": 1}},
        {"role": "user", "content": "b", "timestamp": 5.0},
        {"role": "user", "content": "b", "embedding": [1.0, 2.0]},
    ],
    ids=str,
)
def test_a_key_with_another_content_is_an_error_and_nothing_is_added(cache: Any, other: Any) -> None:
    cache.add_messages(batch("a", "b"), keys=["1", "2"])
    with pytest.raises(KeyReused) as caught:
        cache.add_messages([*batch("new"), other], keys=["3", "2"])
    assert caught.value.position == 1
    assert said(cache.get_full()) == ["a", "b"]


def test_keys_of_other_sessions_do_not_matter(open_cache: Callable[..., Any]) -> None:
    open_cache("one").add_messages(batch("a"), keys=["1"])
    open_cache("two").add_messages(batch("b"), keys=["1"])
    assert said(open_cache("two").get_full()) == ["b"]


def test_a_retry_after_the_messages_moved_to_disk_adds_nothing(cache: Any) -> None:
    first = cache.add_messages(batch("a", "b"), keys=["1", "2"])
    cache.flush_to_disk()
    assert cache.add_messages(batch("a", "b"), keys=["1", "2"]).ids == first.ids
    assert said(cache.get_full()) == ["a", "b"]


def test_a_retry_after_redis_lost_its_memory_adds_nothing_that_is_on_disk(
    cache: Any, redis_server: RedisServer, config: CacheConfig
) -> None:
    first = cache.add_messages(batch("a", "b"), keys=["1", "2"])
    third = cache.add_messages(batch("c"), keys=["3"])
    cache.flush_to_disk()
    forget_redis(redis_server, config)
    again = cache.add_messages(batch("a", "b", "d"), keys=["1", "2", "4"])
    assert (again.ids[:2], again.added) == (first.ids, 1)
    # Something is known of keys again, and still not of this one.
    assert cache.add_messages(batch("c"), keys=["3"]).ids == third.ids
    assert said(cache.get_full()) == ["a", "b", "c", "d"]
    assert said(cache.archive.load_all("s")) == ["a", "b", "c"]


def test_a_deleted_session_has_no_keys(cache: Any) -> None:
    cache.add_messages(batch("a"), keys=["1"])
    cache.delete_session()
    assert cache.add_messages(batch("other"), keys=["1"]).added == 1
    assert said(cache.get_full()) == ["other"]


def test_with_disk_durability_a_batch_and_its_retry_are_on_disk(open_cache: Callable[..., Any]) -> None:
    cache = open_cache(durability="disk")
    first = cache.add_messages(batch("a", "b"), keys=["1", "2"])
    assert said(cache.archive.load_all("s")) == ["a", "b"]
    assert cache.add_messages(batch("a", "b"), keys=["1", "2"]).ids == first.ids
    assert said(cache.archive.load_all("s")) == ["a", "b"]


def test_a_retry_puts_on_disk_what_the_first_call_did_not(open_cache: Callable[..., Any]) -> None:
    first = open_cache().add_messages(batch("a", "b"), keys=["1", "2"])
    again = open_cache(durability="disk").add_messages(batch("a", "b", "c"), keys=["1", "2", "3"])
    assert again.ids[:2] == first.ids
    assert said(open_cache().archive.load_all("s")) == ["a", "b", "c"]


def test_a_batch_that_the_disk_refuses_is_taken_back_whole_with_its_keys(
    open_cache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(durability="disk")
    cache.add_messages(batch("before"), keys=["0"])

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ArchiveUnavailable(28, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(cache.archive.store, "append_locked", refuse)
        with pytest.raises(ArchiveUnavailable):
            cache.add_messages(batch("a", "b"), keys=["1", "2"])
    assert said(cache.get_full()) == ["before"]
    assert cache.add_messages(batch("a", "b"), keys=["1", "2"]).added == 2
    assert said(cache.get_full()) == ["before", "a", "b"]


@pytest.mark.parametrize("keyed", [False, True])
def test_without_redis_a_batch_goes_to_the_archive_once(
    twins: Twins, config: CacheConfig, open_cache: Callable[..., Any], keyed: bool
) -> None:
    away = twins.make("HybridConversationCache", "s", nowhere(config))
    keys = ["1", "2"] if keyed else None
    first = away.add_messages(batch("a", "b"), keys=keys)
    assert first.added == 2
    if keyed:
        again = away.add_messages(batch("a", "b"), keys=keys)
        assert (again.ids, again.added) == (first.ids, 0)
        # Redis is there for another process, and knows nothing of these keys.
        assert open_cache().add_messages(batch("a", "b"), keys=keys).ids == first.ids
    assert said(open_cache().get_full()) == ["a", "b"]
    assert ids(away.get_last(2)) == list(first.ids)


def test_batches_of_two_callers_do_not_interleave(open_cache: Callable[..., Any]) -> None:
    caches = [open_cache(), open_cache()]
    lock = threading.Barrier(2)

    def run(number: int) -> None:
        lock.wait()
        for i in range(15):
            caches[number].add_messages(batch(*([f"{number}:{i}"] * 5)))

    if hasattr(caches[0], "target"):
        for i in range(15):
            for number, cache in enumerate(caches):
                cache.add_messages(batch(*([f"{number}:{i}"] * 5)))
    else:
        threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    full = said(caches[0].get_full())
    assert len(full) == 150
    assert all(len(set(full[i : i + 5])) == 1 for i in range(0, 150, 5))


# -- pages ---------------------------------------------------------------------------------


def _spread(cache: Any) -> list[str]:
    """Fill both tiers: some on disk, some in both, some in Redis alone."""
    cache.add_messages(batch(*(f"m{i}" for i in range(7))))
    cache.flush_to_disk()
    cache.add_messages(batch(*(f"m{i}" for i in range(7, 12))))
    cache.flush_to_disk()
    cache.get_context()
    cache.add_messages(batch(*(f"m{i}" for i in range(12, 15))))
    return [f"m{i}" for i in range(15)]


@pytest.mark.parametrize("tiers", ["hot", "cold", "both"])
def test_pages_are_parts_of_the_whole_history(cache: Any, tiers: str) -> None:
    if tiers == "hot":
        texts = [f"m{i}" for i in range(9)]
        cache.add_messages(batch(*texts))
    else:
        texts = _spread(cache)
    if tiers == "cold":
        cache.flush_to_disk()
    everything = cache.get_messages(limit=None)
    assert said(everything) == texts == said(cache.get_full())
    names = ids(everything)
    for n in (0, 1, 3, 5, 8, len(texts), 99):
        assert said(cache.get_last(n)) == texts[max(0, len(texts) - n) :]
    for i, name in enumerate(names):
        for limit in (1, 3, 50):
            assert said(cache.get_messages(limit, before=name)) == texts[max(0, i - limit) : i]
            assert said(cache.get_messages(limit, after=name)) == texts[i + 1 : i + 1 + limit]
    assert said(cache.get_messages(2, after=names[1], before=names[4])) == texts[2:4]
    assert cache.get_messages(0) == []


def test_what_was_cleared_is_in_the_history(cache: Any) -> None:
    texts = _spread(cache)
    cache.clear()
    assert said(cache.get_last(3)) == texts[-3:]
    cache.add_message("user", "new")
    assert said(cache.get_last(3)) == [*texts[-2:], "new"]


def test_a_window_of_another_process_that_was_moved_is_read_from_disk(open_cache: Callable[..., Any]) -> None:
    one, other = open_cache(), open_cache(hot_window_size=9)
    one.add_messages(batch(*range(9)))
    assert said(other.get_last(6)) == list(range(3, 9))
    one.flush_to_disk()
    assert said(other.get_last(6)) == list(range(3, 9))
    assert said(other.get_messages(2, before=other.get_last(1)[0].id)) == [6, 7]


@pytest.mark.parametrize("bad", ["", "x", "1", "1-", "-1-0", "1-0\n", "99999999999999999999-0", 5])
def test_what_is_no_id_is_refused(cache: Any, bad: Any) -> None:
    for name in ("before", "after"):
        with pytest.raises(InvalidInput, match=name):
            cache.get_messages(**{name: bad})


def test_counts_that_make_no_sense_are_refused(cache: Any) -> None:
    for bad in (-1, 1.5, "1"):
        with pytest.raises(ConfigError):
            cache.get_last(bad)
        with pytest.raises(ConfigError):
            cache.get_messages(limit=bad)


@pytest.fixture
def few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Redis remember ten keys in each of its two hashes."""
    add = scripts.Script("session/add")
    few = re.sub(r"(MOST_KEYS = \d+, )\d+", r"\g<1>10", add.source)
    assert few != add.source
    add.__dict__["source"] = few
    monkeypatch.setattr(scripts, "ADD", add)


@pytest.mark.parametrize("where", ["hot", "half", "cold"])
@pytest.mark.usefixtures("few_keys")
def test_a_key_of_the_last_day_is_recognised_however_many_others_came_after_it(
    open_cache: Callable[..., Any], where: str
) -> None:
    cache, other = open_cache(hot_window_size=50), open_cache(hot_window_size=50)
    first = cache.add_messages(batch("first", "second"), keys=["first", "second"])
    if where != "hot":
        cache.flush_to_disk()
    many = [f"{n}" for n in range(44)]
    for start in range(0, len(many), 11):
        cache.add_messages(batch(*many[start : start + 11]), keys=many[start : start + 11])
    if where == "cold":
        cache.flush_to_disk()
    again = other.add_messages(batch("second", "third", "first"), keys=["second", "third", "first"])
    assert (again.added, again.ids[2], again.ids[0]) == (1, *first.ids)
    told = ["first", "second", *many, "third"]
    for one in (cache, other):
        assert said(one.get_full()) == said(one.get_messages(None)) == told
        assert said(one.get_last(3)) == said(one.get_context())[-3:] == told[-3:]
    assert cache.delete_message(again.ids[2])
    assert said(other.get_full()) == told[1:]


@pytest.mark.usefixtures("few_keys")
def test_keys_that_are_not_dropped_within_a_day_are_not_looked_for(
    cache: Any, redis_server: RedisServer
) -> None:
    cache.add_messages(batch("first"), keys=["first"])
    for n in range(11):
        cache.add_messages(batch(n), keys=[f"{n}"])
    redis_server.reset_stats()
    # What was known became what was known before: nothing is lost of it.
    assert cache.add_messages(batch("first"), keys=["first"]).added == 0
    assert cache.add_messages(batch("new"), keys=["new"]).added == 1
    assert redis_server.command_stats().get("evalsha") == 2


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("policy", ["raise", "archive"])
def test_a_key_whose_first_add_was_given_up_and_is_refused_can_be_used_again(
    open_cache: Callable[..., Any], policy: str
) -> None:
    cache, other = open_cache(on_redis_error=policy), open_cache(on_redis_error=policy)
    cache.add_messages(batch("a"), keys=["a"])
    # As after an add that was not answered, and was not carried out.
    turn = cache._new_turns(batch("m"))[0]
    given_up = nonce_of(tag_of("m", turn), "s", cache._store.salt)
    cache._session.seen.leave_unsettled(given_up)
    cache.clear()
    added = other.add_messages(batch("m", "n"), keys=["m", "n"])
    assert added.added == 2
    assert cache.add_messages(batch("m", "n"), keys=["m", "n"]).ids == added.ids
    assert said(cache.get_context()) == ["m", "n"]
    cache.flush_to_disk()
    assert other.add_messages(batch("m"), keys=["m"]).ids == added.ids[:1]
    assert said(other.get_full()) == ["a", "m", "n"]
    assert said([other.pop_last()]) == ["n"]
