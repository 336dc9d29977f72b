"""Strange arguments of public methods, in both variants: an answer, or a typed error that names them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lix_cache
from lix_cache import LixCacheError
from lix_cache.config import CacheConfig
from lix_cache.errors import (
    ConfigError,
    DimensionMismatch,
    InvalidMessage,
    InvalidSessionId,
    InvalidType,
    KeyReused,
    MessageNotFound,
    RevisionMismatch,
)
from tests.support.twins import Twins


class Strange:
    def __init__(self, *_: Any) -> None:
        """Do nothing."""


#: Nothing of what an argument should be, for all arguments but very few.
STRANGE: list[Any] = [
    *(
        None,
        5,
        -1,
        1.5,
        math.nan,
        math.inf,
        True,
        10**30,
        10**5000,
        b"x",
        "",
        "x",
        "\ud800",
        "a\0b",
        "é" * 300,
    ),
    *([], {}, [1], (1, 2), [None], ["\ud800"], {"a": object()}, {1: 2}, {"b", "a"}, [[]], [(1,)], ["xy"]),
    *(object(), lambda *_: 1, iter([]), Strange, range(3)),
]
MESSAGE = {"role": "user", "content": "x"}
#: What an argument that must be given can be, by its name.
GOOD: dict[str, Any] = {
    "content": "x",
    "embedding": [0.1, 0.2],
    "entries": [("u", [0.1, 0.2], "r")],
    "hook": print,
    "message_id": "1-1",
    "messages": [MESSAGE],
    "n": 1,
    "namespace": "space",
    "queries": [("u", [0.1, 0.2])],
    "query": "x",
    "query_embedding": [0.1, 0.2],
    "response": "r",
    "role": "user",
    "session_id": "s",
    "turn": MESSAGE,
    "turns": [MESSAGE],
    "url": "u",
    "url_embeddings": {"u": [0.1, 0.2]},
    "urls": ["u"],
    "entry_id": "e",
    "function": print,
}
#: Errors that speak of the state and not of an argument.
OF_STATE = (DimensionMismatch, KeyReused, MessageNotFound, RevisionMismatch)


def makers(config: CacheConfig) -> dict[str, tuple[Any, ...]]:
    return {
        "HybridConversationCache": ("s", config),
        "SessionContextWindow": ("s", config),
        "CacheCoordinator": ("s", config),
        "SemanticCacheRedis": ("s", config),
        "URLEmbeddingCache": ("s", config),
        "StoreAdmin": (config,),
        "ConversationArchive": (config.archive_dir,),
        "SemanticCache": (lix_cache.HashingEmbedder(), config),
    }


def methods() -> Iterator[tuple[str, str]]:
    for kind in makers(CacheConfig()):
        for name, found in inspect.getmembers(getattr(lix_cache, kind), inspect.isfunction):
            if not name.startswith("_") and len(inspect.signature(found).parameters) > 1:
                yield kind, name


def outcome(call: Callable[[], Any]) -> BaseException | None:
    try:
        found = call()
        if inspect.isgenerator(found):
            list(found)
    except Exception as error:
        return error
    return None


#: What an argument holds, where an error speaks of that.
HOLDS = {
    "turn": ("the message",),
    "turns": ("the message",),
    "messages": ("the embedding",),
    "url_embeddings": ("the embedding",),
}


def names_it(error: BaseException, argument: str) -> bool:
    """Whether an error's text names an argument: itself, or in words, or what it holds."""
    one = argument.removesuffix("s")
    names = (one, one.replace("_", " "), *HOLDS.get(argument, ()))
    return any(name in str(error).lower() for name in names)


@pytest.fixture
def config(redis_config: CacheConfig) -> CacheConfig:
    return redis_config.replace(evictor_enabled=False)


@pytest.mark.parametrize(("kind", "name"), list(methods()))
def test_a_strange_argument_of_a_method_is_a_typed_error_that_names_it(
    twins: Twins, config: CacheConfig, kind: str, name: str
) -> None:
    twins.make("ConversationArchive", config.archive_dir).append_turn("s", MESSAGE)
    method = getattr(twins.make(kind, *makers(config)[kind]), name)
    parameters = list(inspect.signature(getattr(getattr(lix_cache, kind), name)).parameters.values())[1:]
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    good = {one.name: GOOD[one.name] for one in named if one.default is one.empty}
    if name == "invalidate":
        good["context"] = {}
    bad = []
    for number, value in enumerate(STRANGE):
        for one in named:
            if name == "begin":
                # A query that another call has begun would be waited for.
                good["query"] = f"{number} {one.name}"
            error = outcome(lambda: method(**{**good, one.name: value}))  # noqa: B023 - called at once
            if error is None or isinstance(error, OF_STATE):
                continue
            if not isinstance(error, LixCacheError) or not names_it(error, one.name):
                bad.append((one.name, number, type(value).__name__, type(error).__name__, str(error)[:90]))
    assert bad == []


REFUSED: list[tuple[str, str, dict[str, Any], type[LixCacheError], str]] = [
    (
        "HybridConversationCache",
        "add_messages",
        {"messages": [MESSAGE], "keys": 5},
        InvalidType,
        "keys must be",
    ),
    (
        "HybridConversationCache",
        "add_messages",
        {"messages": [MESSAGE], "keys": {"a"}},
        InvalidType,
        "got a set",
    ),
    (
        "HybridConversationCache",
        "add_messages",
        {"messages": [MESSAGE], "keys": "a"},
        InvalidType,
        "got a str",
    ),
    (
        "HybridConversationCache",
        "add_messages",
        {"messages": [MESSAGE], "keys": iter("a")},
        InvalidType,
        "keys",
    ),
    (
        "CacheCoordinator",
        "add_messages_to_context",
        {"messages": [MESSAGE], "keys": 5},
        InvalidType,
        "keys must be",
    ),
    (
        "HybridConversationCache",
        "add_messages",
        {"messages": [{"role": "user", "content": 10**5000}], "keys": ["k"]},
        InvalidMessage,
        "the content is an integer",
    ),
    ("StoreAdmin", "sessions", {"limit": 1.5}, ConfigError, "limit must be"),
    ("StoreAdmin", "sessions", {"limit": True}, ConfigError, "limit must be"),
    ("StoreAdmin", "offload", {"session_ids": "s1"}, InvalidType, "session_ids must be a list"),
    (
        "StoreAdmin",
        "offload",
        {"session_ids": lix_cache.SessionKey("n", "s")},
        InvalidType,
        "session_ids must be",
    ),
    ("StoreAdmin", "offload", {"session_ids": ["s", 5]}, InvalidSessionId, "session_ids[1]"),
    ("StoreAdmin", "offload", {"idle_seconds": -5}, ConfigError, "idle_seconds must be"),
    ("StoreAdmin", "offload", {"idle_seconds": math.nan}, ConfigError, "idle_seconds must be"),
    ("StoreAdmin", "offload", {"idle_seconds": "x", "session_ids": []}, ConfigError, "idle_seconds must be"),
    ("StoreAdmin", "offload", {"on_progress": None}, ConfigError, "on_progress must be"),
    ("StoreAdmin", "compact", {"idle_seconds": "x"}, ConfigError, "idle_seconds must be"),
    ("StoreAdmin", "compact", {"session_ids": "s1"}, InvalidType, "session_ids must be"),
    ("StoreAdmin", "migrate", {"dry_run": "no"}, ConfigError, "dry_run must be"),
    ("ConversationArchive", "compact", {"on_progress": 0}, ConfigError, "on_progress must be"),
    ("ConversationArchive", "append_turns", {"session_id": "s", "turns": 5}, InvalidType, "turns must be"),
    ("ConversationArchive", "append_turns", {"session_id": "s", "turns": ""}, InvalidType, "turns must be"),
    ("ConversationArchive", "expired_sessions", {"now": 0}, InvalidType, "now must be"),
    (
        "SemanticCacheRedis",
        "batch_get",
        {"queries": ["uv"]},
        InvalidType,
        "queries[0] must be (url, query_embedding)",
    ),
    ("SemanticCacheRedis", "batch_set", {"entries": [("u", [1.0])]}, InvalidType, "entries[0] must be (url,"),
    ("URLEmbeddingCache", "batch_get", {"urls": "http"}, InvalidType, "urls must be a list"),
    (
        "URLEmbeddingCache",
        "batch_set",
        {"url_embeddings": [("u", [1.0])]},
        InvalidType,
        "url_embeddings must be",
    ),
]


@pytest.mark.parametrize(("kind", "name", "arguments", "expected", "text"), REFUSED)
def test_what_makes_no_sense_is_refused_and_nothing_is_done(
    twins: Twins,
    config: CacheConfig,
    kind: str,
    name: str,
    arguments: dict[str, Any],
    expected: type[LixCacheError],
    text: str,
) -> None:
    admin = lix_cache.StoreAdmin(config)
    # As true of a store where nothing is as of one with sessions.
    for stored in ("", "s"):
        if stored:
            lix_cache.HybridConversationCache(stored, config).add_message("user", "x")
        before = admin.sessions()
        error = outcome(lambda: getattr(twins.make(kind, *makers(config)[kind]), name)(**arguments))
        assert isinstance(error, expected), error
        assert text in str(error)
        # It was a TypeError before, where it was one.
        assert isinstance(error, TypeError) or expected is not InvalidType
        assert admin.sessions() == before


def test_a_limit_below_one_lists_no_session(twins: Twins, config: CacheConfig) -> None:
    for number in range(3):
        lix_cache.HybridConversationCache(f"s{number}", config).add_message("user", "x")
    admin = twins.make("StoreAdmin", config)
    assert [len(admin.sessions(limit)) for limit in (None, 2, 10**5000, 0, -1)] == [3, 2, 3, 0, 0]


def test_what_did_not_move_is_not_reported_as_moved(twins: Twins, config: CacheConfig) -> None:
    lix_cache.HybridConversationCache("s", config).add_message("user", "x")
    admin = twins.make("StoreAdmin", config)
    told: list[tuple[int, int]] = []
    moved = admin.offload(session_ids=["nope", "s", "s"], on_progress=lambda *done: told.append(done))
    assert (moved.sessions, moved.messages, told) == (1, 1, [(0, 1), (1, 1)])
    again = admin.offload(session_ids=("nope", "s"))
    assert (again.sessions, again.messages) == (0, 0)


@pytest.mark.parametrize("argument", ["archive_dir", "dictionary"])
def test_a_path_that_no_file_system_holds_is_refused(config: CacheConfig, argument: str) -> None:
    arguments = {"archive_dir": config.archive_dir, argument: "\ud800"}
    with pytest.raises(ConfigError, match=argument):
        lix_cache.ConversationArchive(**arguments)
