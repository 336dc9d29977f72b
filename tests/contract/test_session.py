"""Session memory, in both variants: one suite."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache.config import CacheConfig
from lix_cache.errors import (
    ConfigError,
    DimensionMismatch,
    InvalidInput,
    InvalidMessage,
    InvalidSessionId,
    InvalidVector,
    RedisCommandError,
    RedisUnavailable,
)
from lix_cache.hot.keys import Keys
from lix_cache.messages.packing import pack_hot
from lix_cache.messages.turn import MessageId, with_id
from lix_cache.session import add, whole
from lix_cache.session.base import Session
from tests.support import RedisServer
from tests.support.lab import Process
from tests.support.sessions import said
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-loss")

AN_HOUR_MS = 3_600_000

HOSTILE_IDS = [
    "../evil",
    "/etc/passwd",
    "a/b/../../c",
    ".",
    "..",
    ".hidden",
    "nul\0byte",
    "line\nbreak\r\n",
    "glob*?[a-z]",
    "{0}:win:other",
    "}{",
    "tag}:active",
    " ",
    "-rf",
    "CON",
    "ends.huff",
    "%2e%2e%2f",
    "~0123456789abcdef",
    "ünïcødé 漢字 🙂",
    "العربية",
    "x" * 10_000,
    "漢" * 5_000,
    "*",
    "KEYS *\r\n",
]


def say(cache: Any, *texts: Any) -> None:
    for text in texts:
        cache.add_message("user", text)


def numbered(count: int) -> list[str]:
    return [f"message {i}" for i in range(count)]


def waiting_in_redis(cache: Any) -> int:
    stats = cache.get_stats()
    return int(stats["hot_messages"] + stats["waiting_for_disk"])


# -- adding and reading --------------------------------------------------------------------


def test_a_unused_session_is_empty(cache: Any) -> None:
    assert cache.get_context() == []
    assert cache.get_full() == []
    assert cache.get_formatted_context() == ""
    assert cache.smart_context("anything") == {"recent": [], "relevant": []}


def test_a_message_comes_back_as_it_went_in(cache: Any) -> None:
    before = time.time()
    cache.add_message("user", "hello", {"lang": "en"})
    (message,) = cache.get_context()
    assert set(message) == {"role", "content", "timestamp", "metadata"}
    assert (message["role"], message["content"]) == ("user", "hello")
    assert message["metadata"] == {"lang": "en"}
    assert isinstance(message["timestamp"], float)
    assert before - 1 <= message["timestamp"] <= time.time() + 1


def test_add_returns_the_messages_now_in_the_window(cache: Any) -> None:
    counts = [cache.add_message("user", text) for text in numbered(7)]
    assert counts == [1, 2, 3, 4, 4, 4, 4]


def test_the_context_is_the_newest_messages_oldest_first(cache: Any) -> None:
    texts = numbered(11)
    for i, text in enumerate(texts, start=1):
        say(cache, text)
        assert said(cache.get_context()) == texts[max(0, i - 4) : i]


def test_forty_messages_in_a_burst_are_forty(cache: Any) -> None:
    texts = numbered(40)
    say(cache, *texts)
    assert said(cache.get_full()) == texts


def test_the_whole_history_is_there_once_wherever_it_is(cache: Any) -> None:
    texts = numbered(30)
    for i, text in enumerate(texts):
        say(cache, text)
        if i % 7 == 3:
            cache.evictor.run_once()
        if i % 11 == 5:
            cache.flush_to_disk()
        if i % 13 == 6:
            cache.get_context()
        assert said(cache.get_full()) == texts[: i + 1]
    assert cache.get_stats()["disk_turns"] > 0


def test_two_caches_of_a_session_see_each_others_messages_at_once(open_cache: Callable[..., Any]) -> None:
    one, two = open_cache(), open_cache()
    say(one, "a")
    say(two, "b")
    say(one, "c")
    assert said(one.get_context()) == said(two.get_context()) == ["a", "b", "c"]


def test_processes_with_and_without_code_words_read_each_other(
    open_cache: Callable[..., Any],
) -> None:
    plain, coded = open_cache(hot_codec="stored"), open_cache(hot_codec="huffman")
    texts = [f"What would you like to know about the weather of tomorrow, number {i}?" for i in range(12)]
    for i, text in enumerate(texts):
        say((plain, coded)[i % 2], text)
    assert said(plain.get_context()) == said(coded.get_context()) == texts[-4:]
    assert said(plain.get_full()) == said(coded.get_full()) == texts
    coded.flush_to_disk()
    # Brought back under this setting, and read under the other.
    assert said(coded.get_context()) == said(plain.get_context()) == texts[-4:]
    assert said(plain.get_full()) == texts


def test_sessions_are_kept_apart(open_cache: Callable[..., Any]) -> None:
    one, two = open_cache("one"), open_cache("two")
    say(one, "of one")
    say(two, "of two")
    one.flush_to_disk()
    assert said(one.get_full()) == ["of one"]
    assert said(two.get_full()) == ["of two"]


@pytest.mark.parametrize("timestamp", [0, 1.5, 1_700_000_000.123456, -5.25, 10**12])
def test_a_timestamp_that_was_given_is_kept(cache: Any, timestamp: float) -> None:
    cache.add_message("user", "then", timestamp=timestamp)
    assert cache.get_context()[0]["timestamp"] == timestamp
    cache.flush_to_disk()
    assert cache.get_full()[0]["timestamp"] == timestamp


def test_a_time_of_its_own_is_the_same_hot_and_cold(cache: Any) -> None:
    say(cache, "now")
    hot = cache.get_full()
    cache.flush_to_disk()
    assert cache.get_full() == hot
    assert cache.get_context() == hot


# -- contents ------------------------------------------------------------------------------

CONTENTS: list[Any] = [
    "",
    " \n\t",
    "x" * 300_000,
    "漢字 🙂 العربية",
    "nul \0 and \ud800 alone",
    None,
    True,
    0,
    -1.5,
    10**40,
    [],
    {},
    [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}],
    [1, [2, [3, {"deep": [None, False]}]]],
    {"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]},
]


def test_every_kind_of_content_survives_both_tiers(open_cache: Callable[..., Any]) -> None:
    cache = open_cache(hot_window_size=50)
    for content in CONTENTS:
        cache.add_message("user", content)
    assert said(cache.get_context()) == CONTENTS
    hot = cache.get_full()
    cache.flush_to_disk()
    assert cache.get_full() == hot
    assert cache.get_context() == hot
    # Not only equal: True is no 1.
    assert [type(content) for content in said(cache.get_full())] == [type(c) for c in CONTENTS]


def test_tool_calls_and_their_results_survive_both_tiers(cache: Any) -> None:
    calls = {"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]}
    cache.add_message("assistant", None, calls)
    cache.add_message("tool", "12:00", {"tool_call_id": "c1"})
    cache.add_message("a role of our own", "fine", {"ünï": {"nested": [1, 2.5, None]}})
    hot = cache.get_full()
    assert [m["role"] for m in hot] == ["assistant", "tool", "a role of our own"]
    assert hot[0]["metadata"] == calls
    cache.flush_to_disk()
    assert cache.get_full() == hot


@pytest.mark.parametrize(
    "content",
    [float("nan"), float("inf"), [1, float("-inf")], b"bytes", {1: "a"}, {"k": object()}, {1, 2}],
    ids=["nan", "infinite", "infinite inside", "bytes", "a key that is a number", "an object", "a set"],
)
def test_content_that_json_would_change_is_refused_and_nothing_is_stored(cache: Any, content: Any) -> None:
    with pytest.raises(InvalidMessage):
        cache.add_message("user", content)
    with pytest.raises(InvalidMessage):
        cache.add_message("user", "fine", {"metadata": content})
    assert cache.get_full() == []


@pytest.mark.parametrize(
    ("role", "metadata", "timestamp"),
    [(None, None, None), (7, None, None), ("user", ["no"], None), ("user", None, float("nan"))],
)
def test_a_message_of_another_form_is_refused(cache: Any, role: Any, metadata: Any, timestamp: Any) -> None:
    with pytest.raises(InvalidMessage):
        cache.add_message(role, "text", metadata, timestamp=timestamp)
    assert cache.get_full() == []


# -- embeddings ----------------------------------------------------------------------------


def vector(i: int, dim: int = 8) -> np.ndarray:
    return np.eye(dim, dtype=np.float32)[i]


def test_an_embedding_comes_back_exactly_from_both_tiers(cache: Any) -> None:
    rng = np.random.default_rng(1)
    single = rng.normal(size=16).astype(np.float32)
    double = rng.normal(size=16)
    cache.add_message("user", "single", embedding=single)
    cache.add_message("user", "double", embedding=double)
    cache.add_message("user", "none")
    for _ in range(2):
        one, two, three = cache.get_full()
        np.testing.assert_array_equal(one["embedding"], single)
        np.testing.assert_array_equal(two["embedding"], double)
        assert "embedding" not in three
        cache.flush_to_disk()


@pytest.mark.parametrize("bad", [[], [[1, 2], [3, 4]], [float("nan")], ["text"], 5], ids=repr)
def test_what_is_no_vector_is_refused_and_nothing_is_stored(cache: Any, bad: Any) -> None:
    with pytest.raises(InvalidVector):
        cache.add_message("user", "text", embedding=bad)
    assert cache.get_full() == []


def test_smart_context_finds_old_messages_by_their_vectors(cache: Any) -> None:
    for i in range(8):
        cache.add_message("user", f"about {i}", embedding=vector(i))
    cache.flush_to_disk()
    found = cache.smart_context("no such word", vector(2), recent_k=3, disk_k=1)
    assert said(found["recent"]) == ["about 5", "about 6", "about 7"]
    assert said(found["relevant"]) == ["about 2"]


def test_smart_context_refuses_a_vector_of_another_dimension(cache: Any) -> None:
    cache.add_message("user", "old", embedding=vector(0))
    cache.flush_to_disk()
    with pytest.raises(DimensionMismatch):
        cache.smart_context("old", vector(0, dim=3), recent_k=0)


def test_messages_with_vectors_of_two_models_are_all_found(cache: Any) -> None:
    for number in range(3):
        cache.add_message("user", f"the old order {number}", embedding=vector(number, dim=3))
        cache.add_message("user", f"the new order {number}", embedding=vector(number))
    found = said(cache.smart_context("which order", vector(1), recent_k=0, disk_k=50)["relevant"])
    assert found[:1] == ["the new order 1"]
    assert sorted(found) == sorted(said(cache.get_full()))
    assert len(cache.smart_context("which order", vector(1), recent_k=0, disk_k=2)["relevant"]) == 2
    with pytest.raises(DimensionMismatch):
        cache.smart_context("which order", vector(1, dim=5), recent_k=0)


def test_an_embedding_of_another_dimension_than_the_setting_is_refused_and_stores_nothing(
    config: CacheConfig, twins: Twins
) -> None:
    cache = twins.make("HybridConversationCache", "dims", config.replace(embedding_dim=4))
    cache.add_message("user", "right", embedding=vector(0, dim=4))
    with pytest.raises(DimensionMismatch, match="dimension 4, but got one of dimension 3"):
        cache.add_message("user", "wrong", embedding=vector(0, dim=3))
    assert said(cache.get_full()) == ["right"]


@pytest.mark.parametrize("recent_k", [3, 5, 20, 1000])
def test_smart_context_serves_as_many_recent_messages_as_were_asked_for(cache: Any, recent_k: int) -> None:
    texts = numbered(30)
    say(cache, *texts[:25])
    cache.flush_to_disk()
    say(cache, *texts[25:])
    found = cache.smart_context("message", recent_k=recent_k, disk_k=100)
    assert said(found["recent"]) == texts[-recent_k:]
    assert sorted(said(found["recent"] + found["relevant"])) == sorted(texts)


def test_what_was_cleared_is_not_recent(cache: Any) -> None:
    say(cache, *numbered(10))
    cache.clear()
    say(cache, "after")
    found = cache.smart_context("message", recent_k=50, disk_k=50)
    assert said(found["recent"]) == ["after"]
    assert len(found["relevant"]) == 10


def test_smart_context_compares_words_where_there_are_no_vectors(cache: Any) -> None:
    say(cache, "the capital of France is Paris", "bananas are yellow", *numbered(6))
    cache.flush_to_disk()
    found = cache.smart_context("which city is the capital of France", vector(0), recent_k=2, disk_k=1)
    assert said(found["recent"]) == ["message 4", "message 5"]
    assert said(found["relevant"]) == ["the capital of France is Paris"]


def test_what_asks_for_nothing_is_refused_by_name(cache: Any) -> None:
    say(cache, *numbered(3))
    for query in (None, b"x", 5, ["x"]):
        with pytest.raises(InvalidInput, match=r"the query must be a str, got"):
            cache.smart_context(query)
    for wrong in ("3", None, 3.0, True, [3]):
        with pytest.raises(ConfigError, match=r"recent_k must be a whole number"):
            cache.smart_context("x", recent_k=wrong)
        with pytest.raises(ConfigError, match=r"disk_k must be a whole number"):
            cache.smart_context("x", disk_k=wrong)
        with pytest.raises(ConfigError, match=r"max_lines must be a whole number"):
            cache.get_formatted_context(wrong)
    assert len(cache.smart_context("x", recent_k=np.int64(2))["recent"]) == 2


def test_no_message_is_both_recent_and_relevant_and_none_is_neither(cache: Any) -> None:
    texts = numbered(9)
    say(cache, *texts[:6])
    cache.flush_to_disk()
    say(cache, *texts[6:])
    for recent_k in range(6):
        found = cache.smart_context("message", recent_k=recent_k, disk_k=50)
        recent, relevant = said(found["recent"]), said(found["relevant"])
        assert recent == texts[len(texts) - min(recent_k, len(texts)) :]
        assert sorted(recent + relevant) == texts


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize("embedding", [None, [1.0, 0.0]], ids=["by words", "by vector"])
@pytest.mark.parametrize("situation", ["waiting", "late", "half moved", "cold", "outage", "cleared"])
def test_smart_context_finds_a_message_wherever_it_is(
    open_cache: Callable[..., Any], config: CacheConfig, embedding: list[float] | None, situation: str
) -> None:
    cache = open_cache()
    first = situation == "outage"
    if not first:
        cache.add_message("user", "My order number is 4711.", embedding=embedding)
    # One batch is two messages: waiting is a window that is one too long, and late several batches.
    say(cache, *numbered({"waiting": 4, "late": 9, "half moved": 9}.get(situation, 6)))
    if situation == "half moved":
        cache.evictor.run_once()
        say(cache, "later")
    elif situation == "cold":
        cache.flush_to_disk()
    elif situation == "cleared":
        cache.flush_to_disk()
        cache.clear()
        say(cache, "after")
    elif first:
        cache.evictor.store.breaker_of(cache.session_id).met(RedisUnavailable("away"))
        cache.add_message("user", "My order number is 4711.", embedding=embedding)
        cache.evictor.store.breaker_of(cache.session_id).reset()
        say(cache, *numbered(5))
    found = cache.smart_context("which order number", embedding, recent_k=2, disk_k=1)
    assert said(found["relevant"]) == ["My order number is 4711."]
    assert len(found["recent"]) == (1 if situation == "cleared" else 2)
    everything = cache.smart_context("message order number later after", recent_k=2, disk_k=50)
    assert sorted(said(everything["recent"] + everything["relevant"])) == sorted(said(cache.get_full()))


def test_smart_context_with_the_settings_as_they_are_finds_what_left_the_window(
    twins: Twins, redis_config: CacheConfig
) -> None:
    cache = twins.make("HybridConversationCache", "s", redis_config)
    say(cache, "My order number is 4711.", *numbered(24))
    cache.evictor.run_once()
    assert said(cache.smart_context("order number")["relevant"]) == ["My order number is 4711."]


def test_smart_context_refuses_a_negative_number(cache: Any) -> None:
    with pytest.raises(ConfigError):
        cache.smart_context("query", recent_k=-1)


# -- formatted -----------------------------------------------------------------------------


def test_the_formatted_context_is_a_line_for_each_message(cache: Any) -> None:
    cache.add_message("user", "hello")
    cache.add_message("assistant", [{"type": "text", "text": "parts"}, {"type": "image"}])
    cache.add_message("user", "y" * 500)
    assert cache.get_formatted_context().split("\n") == [
        "User: hello",
        "Assistant: parts",
        f"User: {'y' * 200}",
    ]
    assert cache.get_formatted_context(max_lines=1) == f"User: {'y' * 200}"
    assert cache.get_formatted_context(max_lines=0) == ""


# -- moving to disk and back ---------------------------------------------------------------


def test_a_flush_moves_everything_once(cache: Any) -> None:
    texts = numbered(9)
    say(cache, *texts)
    assert cache.flush_to_disk() is True
    assert waiting_in_redis(cache) == 0
    assert cache.get_stats()["disk_turns"] == 9
    assert cache.flush_to_disk() is True
    assert cache.get_stats()["disk_turns"] == 9
    assert said(cache.get_full()) == texts


def test_a_cold_session_is_brought_back_by_the_first_look(cache: Any) -> None:
    texts = numbered(9)
    say(cache, *texts)
    cache.flush_to_disk()
    assert said(cache.get_context()) == texts[-4:]
    assert waiting_in_redis(cache) == 4
    assert said(cache.get_context()) == texts[-4:]
    say(cache, "new")
    assert said(cache.get_context()) == [*texts[-3:], "new"]
    assert said(cache.get_full()) == [*texts, "new"]
    cache.flush_to_disk()
    assert cache.get_stats()["disk_turns"] == 10
    assert said(cache.get_full()) == [*texts, "new"]


def test_an_add_to_a_unread_cold_session_goes_on_where_it_ended(
    open_cache: Callable[..., Any],
) -> None:
    texts = numbered(9)
    say(open_cache(), *texts)
    open_cache().flush_to_disk()
    late = open_cache()
    say(late, "new")
    assert said(late.get_context()) == [*texts[-3:], "new"]
    assert said(late.get_full()) == [*texts, "new"]


def test_an_idle_session_is_moved_whole_and_found_again(open_cache: Callable[..., Any]) -> None:
    cache = open_cache(evict_after_minutes=0.0)
    texts = numbered(5)
    say(cache, *texts)
    assert cache.evictor.run_once().messages == 5
    assert waiting_in_redis(cache) == 0
    assert said(cache.get_full()) == texts
    assert said(cache.get_context()) == texts[-4:]


# -- clearing and deleting -----------------------------------------------------------------


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 3, 9, 25])
def test_clearing_empties_the_context_and_keeps_all_messages_whatever_the_daemon_did(
    cache: Any, count: int, rounds: int
) -> None:
    texts = numbered(count)
    say(cache, *texts)
    for _ in range(rounds):
        cache.evictor.run_once()
    assert cache.clear() is True
    assert cache.get_context() == []
    assert said(cache.get_full()) == texts
    say(cache, "new")
    assert said(cache.get_context()) == ["new"]
    cache.flush_to_disk()
    assert said(cache.get_context()) == ["new"]
    assert said(cache.get_full()) == [*texts, "new"]


def test_clearing_again_or_nothing_does_no_harm(cache: Any) -> None:
    assert cache.clear() is True
    say(cache, "a")
    cache.flush_to_disk()
    cache.clear()
    cache.clear()
    assert said(cache.get_full()) == ["a"]


def test_a_deleted_session_is_gone_from_both_tiers(cache: Any) -> None:
    say(cache, *numbered(9))
    cache.evictor.run_once()
    assert cache.delete_session() is True
    assert cache.get_full() == []
    assert cache.get_context() == []
    assert cache.get_stats()["disk_turns"] == 0
    assert cache.delete_session() is False
    cache.evictor.run_once()
    assert cache.get_full() == []


def test_a_session_may_begin_anew_after_its_deletion(cache: Any) -> None:
    say(cache, *numbered(9))
    cache.flush_to_disk()
    cache.delete_session()
    say(cache, "new")
    assert said(cache.get_full()) == ["new"]
    cache.flush_to_disk()
    assert said(cache.get_full()) == ["new"]


# -- window sizes and tokens ---------------------------------------------------------------


def test_caches_of_different_sizes_each_get_their_own_window(open_cache: Callable[..., Any]) -> None:
    small, large = open_cache(hot_window_size=3), open_cache(hot_window_size=10)
    texts = numbered(60)
    for i, text in enumerate(texts):
        (small if i % 2 else large).add_message("user", text)
        if i % 5 == 4:
            small.evictor.run_once()
        upto = texts[: i + 1]
        assert said(small.get_context()) == upto[-3:]
        assert said(large.get_context()) == upto[-10:]
    assert said(large.get_full()) == texts


def test_a_window_that_was_brought_back_small_is_filled_up_for_a_larger_cache(
    open_cache: Callable[..., Any],
) -> None:
    texts = numbered(12)
    small, large = open_cache(hot_window_size=2), open_cache(hot_window_size=8)
    say(small, *texts)
    small.flush_to_disk()
    assert said(small.get_context()) == texts[-2:]
    assert said(large.get_context()) == texts[-8:]


def test_the_window_forgets_its_oldest_until_the_tokens_fit(twins: Twins, config: CacheConfig) -> None:
    window = twins.make(
        "SessionContextWindow", "s", config, max_tokens=10, token_counter=lambda m: len(m["content"])
    )
    for text in ("aaaa", "bbbb", "cccc", "dd"):
        window.add_message("user", text)
    assert said(window.get_context()) == ["bbbb", "cccc", "dd"]
    assert window.get_formatted_context() == "User: bbbb\nUser: cccc\nUser: dd"
    window.add_message("user", "e" * 50)
    # The newest stays, whatever it costs.
    assert said(window.get_context()) == ["e" * 50]
    assert said(window.get_full_history()) == ["aaaa", "bbbb", "cccc", "dd", "e" * 50]


def tool_call(*ids: str) -> dict[str, Any]:
    return {"tool_calls": [{"id": i, "function": {"name": "f", "arguments": "{}"}} for i in ids]}


READERS: dict[str, Callable[[Any], list[str]]] = {
    "context": lambda cache: [m["role"] for m in cache.get_context()],
    "recent": lambda cache: [m["role"] for m in cache.smart_context("x", recent_k=99)["recent"]],
    "formatted": lambda cache: [
        line.split(":")[0].lower() for line in cache.get_formatted_context().split("\n")
    ],
}


@pytest.fixture(params=["HybridConversationCache", "SessionContextWindow", "CacheCoordinator"])
def open_limited(request: pytest.FixtureRequest, twins: Twins, config: CacheConfig) -> Callable[..., Any]:
    """Makes each of the classes that give a context, with the limit from the settings."""

    def make(**settings: Any) -> Any:
        made = twins.make(request.param, "s", config.replace(**settings))
        return made.context_window if request.param == "CacheCoordinator" else made

    return make


@pytest.mark.parametrize("reader", READERS)
def test_every_context_heeds_the_token_limit_and_keeps_the_system_message(
    open_limited: Callable[..., Any], reader: str
) -> None:
    cache = open_limited(session_max_tokens=60, hot_window_size=20)
    cache.add_message("system", "be kind")
    for _ in range(6):
        cache.add_message("user", "u" * 40)
        cache.add_message("assistant", "a" * 40)
    # About 6 tokens for the system message, and 14 for each of the others.
    assert READERS[reader](cache) == ["system", "assistant", "user", "assistant"]
    cache.flush_to_disk()
    assert READERS[reader](cache) == ["system", "assistant", "user", "assistant"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("settings", [{"session_max_tokens": 40}, {"hot_window_size": 3}], ids=str)
def test_no_context_begins_with_a_result_without_its_call(
    open_limited: Callable[..., Any], reader: str, settings: dict[str, Any]
) -> None:
    cache = open_limited(**{"hot_window_size": 20, **settings})
    cache.add_message("user", "what is the weather?")
    cache.add_message("assistant", "x" * 40, tool_call("a", "b"))
    cache.add_message("tool", "y" * 40, {"tool_call_id": "a"})
    cache.add_message("tool", "z" * 40, {"tool_call_id": "b"})
    everything = ["assistant", "tool", "tool"]
    # The newest result keeps its call, and the result beside it.
    assert READERS[reader](cache)[-3:] == everything
    for upto in (["user"], ["user", "assistant"], ["user", "assistant", "user"]):
        cache.add_message(upto[-1], "more")
        found = READERS[reader](cache)
        assert found[0] != "tool"
        assert found[-len(upto) :] == upto


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize("moved", ["nowhere", "part", "all"])
def test_a_call_with_more_results_than_the_window_has_room_for_stays_whole(
    open_cache: Callable[..., Any], moved: str
) -> None:
    cache = open_cache(hot_window_size=4)
    ids = [f"c{i}" for i in range(6)]
    cache.add_message("user", "q")
    cache.add_message("assistant", None, tool_call(*ids))
    for i in ids:
        cache.add_message("tool", i, {"tool_call_id": i})
    if moved == "part":
        cache.evictor.run_once()
    elif moved == "all":
        cache.flush_to_disk()
    assert said(cache.get_context()) == [None, *ids]
    assert said(cache.smart_context("x", recent_k=2)["recent"]) == [None, *ids]
    cache.add_message("assistant", "done")
    assert said(cache.get_context()) == ["done"]
    assert len(cache.get_full()) == 9


@pytest.mark.promise("no-false-empty")
def test_results_without_any_call_are_better_than_a_context_that_looks_empty(cache: Any) -> None:
    cache.add_message("tool", "18 degrees")
    assert said(cache.get_context()) == ["18 degrees"]
    cache.add_message("user", "thanks")
    assert said(cache.get_context()) == ["thanks"]


def test_the_counter_that_was_given_counts(twins: Twins, config: CacheConfig) -> None:
    cache = twins.make(
        "HybridConversationCache",
        "s",
        config.replace(session_max_tokens=3),
        token_counter=lambda m: 1,
    )
    say(cache, *numbered(9))
    assert said(cache.get_context()) == numbered(9)[-3:]


def test_lines_do_not_begin_with_a_result_whose_call_was_cut_off(open_cache: Callable[..., Any]) -> None:
    cache = open_cache(hot_window_size=20)
    cache.add_message("user", "q")
    cache.add_message("assistant", "let me see", tool_call("a"))
    cache.add_message("tool", "18", {"tool_call_id": "a"})
    cache.add_message("assistant", "18 degrees")
    assert cache.get_formatted_context(max_lines=2) == "Assistant: 18 degrees"
    assert cache.get_formatted_context(max_lines=3).startswith("Assistant: let me see\nTool: 18\n")


def test_a_window_is_bounded_in_messages_and_passes_the_rest_on(twins: Twins, config: CacheConfig) -> None:
    window = twins.make("SessionContextWindow", "s", config, window_size=3, ttl_seconds=60)
    texts = numbered(7)
    counts = [window.add_message("user", text) for text in texts]
    assert counts == [1, 2, 3, 3, 3, 3, 3]
    assert said(window.get_context()) == texts[-3:]
    window.flush_to_disk()
    assert said(window.get_context()) == texts[-3:]
    stats = window.get_stats()
    assert (stats["ttl_seconds"], stats["max_tokens"], stats["hot_window_size"]) == (60, None, 3)
    assert stats["disk_turns"] == 7
    found = window.smart_context("message", recent_k=2, disk_k=50)
    assert sorted(said(found["recent"]) + said(found["relevant"])) == texts
    window.clear()
    assert window.get_context() == []
    assert said(window.get_full_history()) == texts


# -- numbers -------------------------------------------------------------------------------


def test_the_stats_say_what_is_where(cache: Any) -> None:
    stats = cache.get_stats()
    assert stats["session_id"] == "s"
    assert (stats["hot_messages"], stats["disk_turns"], stats["disk_size_bytes"]) == (0, 0, 0)
    say(cache, *numbered(7))
    stats = cache.get_stats()
    assert (stats["hot_messages"], stats["waiting_for_disk"], stats["hot_window_size"]) == (4, 3, 4)
    cache.evictor.run_once()
    stats = cache.get_stats()
    assert (stats["hot_messages"], stats["waiting_for_disk"], stats["disk_turns"]) == (4, 0, 3)
    assert stats["disk_size_bytes"] > 0
    assert stats["redis"] == "ok"
    assert stats["evictor"]["spilled_messages"] == 3


# -- ids -----------------------------------------------------------------------------------


def test_any_text_can_be_a_session_and_none_reaches_another(
    open_cache: Callable[..., Any], config: CacheConfig, tmp_path: Path
) -> None:
    for session_id in HOSTILE_IDS:
        say(open_cache(session_id), f"hot of {session_id[:40]!r}")
    for session_id in HOSTILE_IDS:
        cache = open_cache(session_id)
        assert said(cache.get_full()) == [f"hot of {session_id[:40]!r}"]
        cache.flush_to_disk()
        say(cache, "more")
    for session_id in HOSTILE_IDS:
        cache = open_cache(session_id)
        assert said(cache.get_full()) == [f"hot of {session_id[:40]!r}", "more"]
        assert said(cache.get_context()) == [f"hot of {session_id[:40]!r}", "more"]
    # All of it stays in the archive folder, each in a file of its own.
    assert os.listdir(tmp_path) == ["archive"]
    files = [name for name in os.listdir(config.archive_dir) if not name.startswith(".")]
    assert len(files) == len(HOSTILE_IDS)
    for session_id in HOSTILE_IDS:
        assert open_cache(session_id).delete_session() is True
    assert [name for name in os.listdir(config.archive_dir) if not name.startswith(".")] == []


@pytest.mark.parametrize("session_id", ["", None, 7, b"bytes", "\ud800", "x" * 65_537], ids=ascii)
def test_what_cannot_be_a_session_id_is_refused(open_cache: Callable[..., Any], session_id: Any) -> None:
    with pytest.raises(InvalidSessionId):
        open_cache(session_id)
    assert issubclass(InvalidSessionId, InvalidInput)


def test_a_key_of_another_kind_is_an_error_and_not_an_empty_session(
    cache: Any, config: CacheConfig, redis_server: RedisServer
) -> None:
    key = Keys(config.redis_key_prefix, config.redis.buckets).window("s")
    with redis_server.client(db=config.session_redis_db) as client:
        client.set(key, "not ours")
        for call in (
            lambda: cache.add_message("user", "x"),
            cache.get_context,
            cache.get_full,
            cache.flush_to_disk,
        ):
            with pytest.raises(RedisCommandError):
                call()
        assert client.get(key) == b"not ours"
    assert cache.get_stats()["redis"].startswith("RedisCommandError")


# -- clocks --------------------------------------------------------------------------------


def future_turns(process: Process, texts: list[str]) -> list[Any]:
    ms = int(time.time() * 1000) + AN_HOUR_MS
    return [with_id(process.turn(text), MessageId(ms, i)) for i, text in enumerate(texts)]


def archive_from_the_future(config: CacheConfig, texts: list[str]) -> None:
    """As if the clock had been an hour ahead when these were added and moved to disk."""
    archive = Process(config).archive
    with archive.lock("s"):
        archive.append_locked("s", future_turns(Process(config), texts))


def window_from_the_future(config: CacheConfig, server: RedisServer, texts: list[str]) -> None:
    """As if the server's clock had been an hour ahead when these were added."""
    process = Process(config)
    with server.client(db=config.session_redis_db) as client:
        for turn in future_turns(process, texts):
            client.xadd(process.store.hot.keys.window("s"), {"m": pack_hot(turn)}, id=str(turn.id))


def test_a_clock_that_was_set_back_does_not_put_new_messages_before_archived_ones(
    open_cache: Callable[..., Any], config: CacheConfig
) -> None:
    archive_from_the_future(config, ["f1", "f2"])
    cache = open_cache()
    say(cache, "new 1", "new 2")
    assert said(cache.get_full()) == ["f1", "f2", "new 1", "new 2"]
    cache.flush_to_disk()
    say(open_cache(), "new 3")
    say(cache, "new 4")
    assert said(cache.get_full()) == ["f1", "f2", "new 1", "new 2", "new 3", "new 4"]
    assert said(cache.get_context()) == ["new 1", "new 2", "new 3", "new 4"]


def test_a_window_from_before_the_clock_was_set_back_goes_on_in_order(
    open_cache: Callable[..., Any], config: CacheConfig, redis_server: RedisServer
) -> None:
    window_from_the_future(config, redis_server, ["f1", "f2"])
    cache = open_cache()
    say(cache, "new 1")
    cache.flush_to_disk()
    say(cache, "new 2")
    cache.flush_to_disk()
    say(cache, "new 3")
    assert said(cache.get_full()) == ["f1", "f2", "new 1", "new 2", "new 3"]


def test_clearing_and_deleting_remember_ids_the_clock_has_not_reached(
    open_cache: Callable[..., Any], config: CacheConfig, redis_server: RedisServer
) -> None:
    window_from_the_future(config, redis_server, ["f1", "f2"])
    cache = open_cache()
    say(cache, "f3")
    cache.flush_to_disk()
    cache.get_context()
    cache.clear()
    say(cache, "new 1")
    cache.flush_to_disk()
    assert said(cache.get_context()) == ["new 1"]
    assert said(cache.get_full()) == ["f1", "f2", "f3", "new 1"]
    cache.delete_session()
    say(cache, "new 2")
    cache.flush_to_disk()
    assert said(cache.get_full()) == ["new 2"]


def test_what_is_added_after_a_clear_is_in_the_context_whatever_was_archived_meanwhile(
    open_cache: Callable[..., Any], config: CacheConfig
) -> None:
    cache = open_cache()
    say(cache, "old")
    cache.flush_to_disk()
    # Another machine, whose clock is ahead, archived these while it could not reach Redis.
    archive_from_the_future(config, ["f1", "f2"])
    cache.clear()
    say(cache, "new")
    assert said(cache.get_context()) == ["new"]
    cache.flush_to_disk()
    assert said(cache.get_context()) == ["new"]
    assert said(cache.get_full()) == ["old", "f1", "f2", "new"]


def test_an_add_that_failed_at_first_still_looks_where_the_archive_ends(
    open_cache: Callable[..., Any], config: CacheConfig, redis_server: RedisServer
) -> None:
    archive_from_the_future(config, ["f1", "f2"])
    process = Process(config.replace(on_redis_error="raise"))
    # Redis remembers an emptying, so a window that is missing looks harmless to it.
    process.drive(whole.delete(Session(process.store, "another", 4)))
    running = add.add(process.session, process.turn("first try"))
    step = running.send(None)
    while not type(step).__name__.startswith("Redis"):
        step = process.step(running, step)
    with pytest.raises(ConnectionError):
        running.throw(ConnectionError("gone"))
    process.add("second try")
    assert process.full() == ["f1", "f2", "second try"]
