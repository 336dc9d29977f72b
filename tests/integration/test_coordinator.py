"""The coordinator, in both variants: every method of the old surface, under the old argument names."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lix_cache
from lix_cache.config import CacheConfig
from lix_cache.errors import (
    ConfigError,
    InvalidMessage,
    InvalidSessionId,
    RedisAuthError,
    RedisUnavailable,
)
from tests.support import CountingProxy, RedisServer
from tests.support.meaning import Meanings, mix
from tests.support.redis_server import free_port
from tests.support.twins import Twins

URL = "https://weather.example"
QUERY = [0.6, 0.0, 0.8]


@pytest.fixture
def cache(twins: Twins, redis_config: CacheConfig) -> Any:
    return twins.make("CacheCoordinator", "user-abc", redis_config)


def contents(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


# -- the session's messages ----------------------------------------------------------------


def test_messages_come_back_oldest_first_in_the_form_they_always_had(cache: Any) -> None:
    before = datetime.now().timestamp()
    assert cache.add_message_to_context(role="user", content="The weather?", metadata={"lang": "en"}) == 1
    assert cache.add_message_to_context("assistant", [{"type": "text", "text": "22 °C"}]) == 2
    first, second = cache.get_context_messages()
    assert before - 1 < first.pop("timestamp") <= second.pop("timestamp")
    assert first == {"role": "user", "content": "The weather?", "metadata": {"lang": "en"}}
    assert second == {"role": "assistant", "content": [{"type": "text", "text": "22 °C"}], "metadata": {}}


def test_the_context_is_the_newest_of_the_window(cache: Any) -> None:
    counts = [cache.add_message_to_context("user", str(i)) for i in range(25)]
    assert counts == [*range(1, 21), *[20] * 5]
    assert contents(cache.get_context_messages()) == [str(i) for i in range(5, 25)]
    assert contents(cache.context_window.get_full_history()) == [str(i) for i in range(25)]


def test_a_formatted_context_has_a_line_a_message_and_at_most_so_many(cache: Any) -> None:
    cache.add_message_to_context("user", "x" * 300)
    cache.add_message_to_context("assistant", "hello")
    cache.add_message_to_context("user", "bye")
    assert cache.get_formatted_context() == f"User: {'x' * 200}\nAssistant: hello\nUser: bye"
    assert cache.get_formatted_context(max_lines=2) == "Assistant: hello\nUser: bye"
    assert cache.get_formatted_context(1) == "User: bye"


def test_a_message_that_would_not_come_back_is_refused(cache: Any) -> None:
    with pytest.raises(InvalidMessage):
        cache.add_message_to_context("user", math.nan)
    assert cache.get_context_messages() == []


# -- the caches ----------------------------------------------------------------------------


def test_a_response_is_found_again_by_url_and_meaning(cache: Any) -> None:
    assert cache.get_semantic_response(url=URL, query_embedding=QUERY) is None
    answer = {"answer": "22 °C", "sources": ["a"]}
    assert cache.cache_semantic_response(url=URL, query_embedding=QUERY, response=answer) is None
    assert cache.get_semantic_response(URL, [0.61, 0.01, 0.8]) == answer
    assert cache.get_semantic_response(URL, [0.0, 1.0, 0.0]) is None
    assert cache.get_semantic_response("https://elsewhere.example", QUERY) is None


def test_a_url_embedding_is_found_again_by_every_session(
    cache: Any, twins: Twins, redis_config: CacheConfig
) -> None:
    assert cache.get_url_embedding(url=URL) is None
    assert cache.cache_url_embedding(url=URL, embedding=QUERY) is True
    found = twins.make("CacheCoordinator", "another", redis_config).get_url_embedding(URL)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(QUERY)
    many = {"a": np.array([1.0]), "b": np.array([2.0])}
    assert cache.batch_cache_url_embeddings(url_embeddings=many) == {"a": True, "b": True}
    assert cache.get_url_embedding("b").tolist() == [2.0]


def test_answers_with_reasons_are_there_where_an_embedder_is(
    twins: Twins, cache: Any, redis_config: CacheConfig
) -> None:
    assert cache.answers is None
    assert "answers" not in cache.get_stats()
    table = {"the weather in Tokyo?": mix(a=1), "Tokyo weather": mix(a=1, b=0.01)}
    mine, other = (
        twins.make("CacheCoordinator", name, redis_config, embedder=Meanings(table))
        for name in ("mine", "other")
    )
    mine.answers.store("the weather in Tokyo?", "22 °C")
    other.answers.store("the weather in Tokyo?", "no idea")
    assert mine.answers.lookup("Tokyo weather", similarity_threshold=0.9).response == "22 °C"
    assert mine.get_stats()["answers"]["hits_by_reason"] == {"semantic": 1}
    assert mine.clear_session_cache() is True
    assert not mine.answers.lookup("the weather in Tokyo?").is_hit
    assert other.answers.lookup("the weather in Tokyo?").response == "no idea"


# -- clearing ------------------------------------------------------------------------------


def filled(twins: Twins, config: CacheConfig, session: str) -> Any:
    cache = twins.make("CacheCoordinator", session, config)
    cache.add_message_to_context("user", session)
    cache.cache_semantic_response(URL, QUERY, session)
    cache.cache_url_embedding(URL, QUERY)
    return cache


def test_clearing_the_context_leaves_the_responses(twins: Twins, redis_config: CacheConfig) -> None:
    mine, other = (filled(twins, redis_config, name) for name in ("mine", "other"))
    assert mine.clear_context() is True
    assert mine.get_context_messages() == []
    assert mine.get_semantic_response(URL, QUERY) == "mine"
    assert contents(other.get_context_messages()) == ["other"]


def test_clearing_the_session_drops_context_and_responses_of_this_session_alone(
    twins: Twins, redis_config: CacheConfig
) -> None:
    mine, other = (filled(twins, redis_config, name) for name in ("m*", "mine"))
    assert mine.clear_session_cache() is True
    assert mine.get_context_messages() == []
    assert mine.get_semantic_response(URL, QUERY) is None
    assert mine.get_url_embedding(URL) is not None
    assert contents(other.get_context_messages()) == ["mine"]
    assert other.get_semantic_response(URL, QUERY) == "mine"


# -- composition ---------------------------------------------------------------------------


def test_the_three_layers_are_there_under_their_old_names(cache: Any, twins: Twins) -> None:
    start = "Async" if twins.variant == "async" else ""
    for attribute, kind in (
        ("context_window", "SessionContextWindow"),
        ("semantic_cache", "SemanticCacheRedis"),
        ("url_embedding_cache", "URLEmbeddingCache"),
    ):
        layer = getattr(getattr(cache, "target", cache), attribute)
        assert type(layer) is getattr(lix_cache, start + kind)
        assert layer.session_id == "user-abc"
    assert cache.session_id == "user-abc"
    cache.semantic_cache.set(URL, QUERY, "by the layer")
    assert cache.get_semantic_response(URL, QUERY) == "by the layer"
    cache.context_window.add_message("user", "by the layer")
    assert contents(cache.get_context_messages()) == ["by the layer"]


def test_each_layer_has_a_database_of_its_own(
    twins: Twins, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    config = redis_config.replace(semantic_redis_db=7, url_cache_redis_db=8, session_redis_db=9)
    filled(twins, config, "s")
    found = {}
    for db in range(16):
        with redis_server.client(db=db) as client:
            keys = client.keys(f"{config.redis_key_prefix}:*")
            found[db] = {key.decode().removeprefix(config.redis_key_prefix).split(":")[-2] for key in keys}
    assert found[7] == {"vectors", "responses", "scopes"}
    assert len(found[8]) == 1
    assert {"win"} < found[9] <= {"win", "{0}"}
    assert not any(keys for db, keys in found.items() if db not in (7, 8, 9))


def test_the_settings_reach_the_layers(twins: Twins, redis_config: CacheConfig) -> None:
    config = redis_config.replace(
        hot_window_size=3, semantic_ttl_seconds=9, semantic_similarity_threshold=0.5, url_cache_ttl_seconds=11
    )
    cache = twins.make("CacheCoordinator", "s", config)
    assert cache.context_window.window_size == 3
    assert cache.semantic_cache.ttl_seconds == 9
    assert cache.semantic_cache.similarity_threshold == 0.5
    assert cache.url_embedding_cache.ttl_seconds == 11


def test_every_call_is_one_round_trip_and_a_hit_two(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = filled(twins, proxy_config, "s")
    cache.get_context_messages()
    calls = [
        (lambda: cache.add_message_to_context("user", "x"), 1),
        (cache.get_context_messages, 1),
        (cache.get_formatted_context, 1),
        (lambda: cache.get_semantic_response(URL, [0.0, 1.0, 0.0]), 1),
        (lambda: cache.get_semantic_response(URL, QUERY), 2),
        (lambda: cache.cache_semantic_response(URL, QUERY, 1), 1),
        (lambda: cache.get_url_embedding(URL), 1),
        (lambda: cache.cache_url_embedding(URL, QUERY), 1),
        (lambda: cache.batch_cache_url_embeddings({str(i): QUERY for i in range(100)}), 1),
    ]
    counted = []
    for call, _ in calls:
        proxy.reset()
        call()
        counted.append(proxy.round_trips)
    assert counted == [expected for _, expected in calls]


@pytest.mark.parametrize(
    "session",
    ["../evil", "a*", "[a-z]", "a:b", "{0}", "a\0b", "a\nb", "с/д", "🙂", "x" * 10_000, " ", "."],
    ids=range(12),
)
def test_any_text_is_a_session_of_its_own(
    twins: Twins, redis_config: CacheConfig, session: str, tmp_path: Path
) -> None:
    cache, other = filled(twins, redis_config, session), filled(twins, redis_config, session + "!")
    assert contents(cache.get_context_messages()) == [session]
    assert cache.get_semantic_response(URL, QUERY) == session
    cache.context_window.flush_to_disk()
    assert contents(cache.get_context_messages()) == [session]
    assert contents(other.get_context_messages()) == [session + "!"]
    outside = [p for p in tmp_path.rglob("*.huff") if tmp_path / "archive" not in p.parents]
    assert outside == []
    assert list(tmp_path.iterdir()) == [tmp_path / "archive"]


@pytest.mark.parametrize("session", ["", None, 7, b"bytes", "\ud800"])
def test_what_cannot_be_a_session_id_is_refused(
    twins: Twins, redis_config: CacheConfig, session: Any
) -> None:
    with pytest.raises(InvalidSessionId):
        twins.make("CacheCoordinator", session, redis_config)


# -- arguments -----------------------------------------------------------------------------


def test_making_one_sends_nothing(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("CacheCoordinator", "s", redis_config.replace(redis_port=free_port()))
    with pytest.raises(RedisUnavailable):
        cache.get_semantic_response(URL, QUERY)


def test_host_and_port_given_here_win_over_the_configuration(twins: Twins, redis_config: CacheConfig) -> None:
    for config in (
        redis_config.replace(redis_host="host.invalid", redis_port=free_port()),
        redis_config.replace(redis_url=f"redis://host.invalid:{free_port()}"),
    ):
        cache = twins.make(
            "CacheCoordinator",
            session_id="s",
            config=config,
            redis_host="127.0.0.1",
            redis_port=redis_config.redis_port,
        )
        filled_here = cache.add_message_to_context("user", "x")
        assert filled_here >= 1
        assert cache.get_stats()["context_window"]["redis"] == "ok"
        assert cache.get_semantic_response(URL, QUERY) is None
        assert cache.get_url_embedding("never seen") is None


def test_a_password_given_here_wins_over_the_configuration(twins: Twins, tmp_path: Path) -> None:
    with RedisServer(requirepass="right") as server:
        config = server.config(archive_dir=tmp_path, evictor_enabled=False, redis_password="wrong")
        with pytest.raises(RedisAuthError):
            twins.make("CacheCoordinator", "s", config).get_url_embedding(URL)
        for settings in (
            config,
            config.replace(redis_url=f"redis://127.0.0.1:{server.port}", redis_port=1),
            config.replace(redis_url=f"redis://:wrong%40@127.0.0.1:{server.port}", redis_port=1),
            config.replace(redis_url=f"redis://default:wrong@127.0.0.1:{server.port}/5", redis_port=1),
            config.replace(redis_url=server.unix_url.replace("unix://", "unix://:wrong@"), redis_port=1),
        ):
            cache = twins.make("CacheCoordinator", "s", settings, redis_password="right")
            cache.add_message_to_context("user", "x")
            assert cache.get_url_embedding(URL) is None
            assert cache.get_stats()["context_window"]["redis"] == "ok"


def test_arguments_that_make_no_sense_are_refused(twins: Twins, redis_config: CacheConfig) -> None:
    with pytest.raises(ConfigError, match="redis_port"):
        twins.make("CacheCoordinator", "s", redis_config, redis_port=70_000)
    with pytest.raises(TypeError, match="redis_prot"):
        twins.make("CacheCoordinator", "s", redis_config, redis_prot=6379)


# -- stats ---------------------------------------------------------------------------------


def test_stats_are_those_of_all_layers_under_both_names(twins: Twins, redis_config: CacheConfig) -> None:
    cache = filled(twins, redis_config, "s")
    cache.get_semantic_response(URL, QUERY)
    for stats in (cache.get_stats(), cache.get_cache_stats()):
        assert set(stats) == {
            "session_id",
            "url_embedding_cache",
            "semantic_cache",
            "context_window",
            "timestamp",
        }
        assert stats["session_id"] == "s"
        assert stats["semantic_cache"]["hits"] == 1
        assert stats["semantic_cache"]["cached_urls"] == 1
        assert stats["url_embedding_cache"]["sets"] == 1
        window = stats["context_window"]
        assert (window["hot_messages"], window["hot_window_size"], window["disk_turns"]) == (1, 20, 0)
        assert window["disk_size_bytes"] == 0
        assert (window["ttl_seconds"], window["max_tokens"]) == (86400, None)
        assert datetime.fromisoformat(stats["timestamp"]).utcoffset() == timedelta(0)
    kind = type(getattr(cache, "target", cache))
    assert kind.get_cache_stats is kind.get_stats


def test_stats_say_that_redis_is_away_and_do_not_raise(twins: Twins, redis_config: CacheConfig) -> None:
    stats = twins.make("CacheCoordinator", "s", redis_config.replace(redis_port=free_port())).get_stats()
    for layer in ("url_embedding_cache", "semantic_cache", "context_window"):
        assert stats[layer]["redis"].startswith("RedisUnavailable: ")
    assert stats["context_window"]["hot_messages"] is None
