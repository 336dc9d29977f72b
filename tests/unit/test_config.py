"""Settings are checked where they are made, and nothing is guessed."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache._log import logger
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError

FIELDS = {field.name: field for field in dataclasses.fields(CacheConfig)}
NUMBERS = [name for name, field in FIELDS.items() if field.type in ("int", "float")]

#: The fields of lix-open-cache 0.1.0, in its order.
OLD_DEFAULTS: dict[str, Any] = {
    "redis_host": "localhost",
    "redis_port": 6379,
    "redis_password": None,
    "redis_key_prefix": "lix",
    "redis_socket_connect_timeout": 5,
    "redis_socket_keepalive": True,
    "redis_pool_size": 50,
    "session_redis_db": 2,
    "session_ttl_seconds": 86400,
    "hot_window_size": 20,
    "session_max_tokens": None,
    "semantic_redis_db": 0,
    "semantic_ttl_seconds": 300,
    "semantic_similarity_threshold": 0.90,
    "semantic_max_items_per_url": 50,
    "url_cache_redis_db": 1,
    "url_cache_ttl_seconds": 86400,
    "url_cache_batch_size": 100,
    "archive_dir": "./data/conversations",
    "disk_ttl_days": 14,
    "evict_after_minutes": 120,
}


def made(*args: Any, **values: Any) -> CacheConfig:
    """Make a config of values that a type checker would not let pass."""
    return CacheConfig(*args, **values)


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("lix_cache")
    sink = logger.add(lambda message: lines.append(str(message)), format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("lix_cache")


def test_the_fields_and_defaults_of_the_old_package_are_kept_in_their_order() -> None:
    config = CacheConfig()
    assert {name: getattr(config, name) for name in OLD_DEFAULTS} == OLD_DEFAULTS
    assert list(FIELDS)[: len(OLD_DEFAULTS)] == list(OLD_DEFAULTS)


def test_every_field_is_described() -> None:
    described = inspect.cleandoc(CacheConfig.__doc__ or "")  # Python 3.13 does it by itself
    assert [name for name in FIELDS if f"\n    {name}: " not in described] == []


def test_an_unknown_setting_is_an_error_that_says_which_was_meant() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'redis_hots'; did you mean 'redis_host'"):
        made(redis_hots="x")


def test_an_unknown_setting_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"known settings: .*redis_host"):
        made(zzz=1)


def test_too_many_values_are_an_error() -> None:
    with pytest.raises(ConfigError, match="takes at most"):
        made(*range(len(FIELDS) + 1))


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_setting(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        made(**{name: [1, 2]})


@pytest.mark.parametrize("name", NUMBERS)
def test_yes_is_not_a_number(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        made(**{name: True})


def test_a_number_is_not_a_yes() -> None:
    with pytest.raises(ConfigError, match=r"^redis_ssl must be bool"):
        made(redis_ssl=1)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        made(**{name: value})


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "semantic_similarity_threshold"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must "):
        made(**{name: -1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_port", 0),
        ("redis_port", 65536),
        ("hot_window_size", 0),
        ("session_ttl_seconds", 0),
        ("session_max_tokens", 0),
        ("disk_ttl_days", 0),
        ("redis_pool_size", 0),
        ("semantic_similarity_threshold", 1.01),
        ("semantic_similarity_threshold", -1.01),
        ("redis_key_prefix", ""),
        ("redis_key_prefix", "a{b"),
        ("redis_key_prefix", "a}b"),
        ("archive_dir", ""),
        ("archive_dir", "a\0b"),
        ("on_redis_error", "ignore"),
        ("on_archive_damage", "ignore"),
        ("durability", "none"),
        ("redis_url", "http://localhost"),
        ("redis_url", "localhost:6379"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_setting(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must "):
        made(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_port", 1),
        ("redis_port", 65535),
        ("semantic_similarity_threshold", -1),
        ("semantic_similarity_threshold", 1.0),
        ("evict_after_minutes", 0),
        ("evict_after_minutes", 0.5),
        ("session_redis_db", 0),
        ("session_max_tokens", 1),
        ("redis_url", "redis://h"),
        ("redis_url", "rediss://h"),
        ("redis_url", "unix:///s"),
        ("on_redis_error", "raise"),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_accepted(name: str, value: Any) -> None:
    assert getattr(made(**{name: value}), name) == value


def test_a_path_object_names_the_archive_as_well_as_text() -> None:
    assert made(archive_dir=Path("/a/b")).archive_dir == "/a/b"


SECRET = "hunter2-s3cret"


def test_a_secret_is_not_in_the_repr() -> None:
    shown = repr(CacheConfig(redis_password=SECRET, redis_url=f"redis://:{SECRET}@h"))
    assert SECRET not in shown


@pytest.mark.parametrize(
    "values",
    [
        {"redis_password": SECRET.encode()},
        {"redis_url": SECRET.encode()},
        {"redis_url": f":{SECRET}@localhost:6379"},
        {"redis_url": f"{SECRET}://localhost"},
        {"redis_url": SECRET},
    ],
)
def test_a_secret_is_not_in_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        CacheConfig(**values)
    assert SECRET[:7] not in str(caught.value)


def test_every_field_is_read_from_a_variable_of_its_own() -> None:
    values: dict[str, Any] = {
        name: "raise"
        if name.startswith("on_")
        else "disk"
        if name == "durability"
        else "huffman"
        if name == "hot_codec"
        else "unix:///run/r.sock"
        if name == "redis_url"
        else not field.default
        if field.type == "bool"
        else 1
        if name in NUMBERS or name in ("session_max_tokens", "embedding_dim")
        else f"text of {name}"
        for name, field in FIELDS.items()
    }
    environ = {f"MYAPP_{name.upper()}": str(value) for name, value in values.items()}
    assert CacheConfig.from_env("MYAPP", environ) == CacheConfig(**values)


def test_without_a_prefix_the_variables_are_the_fields_names() -> None:
    assert CacheConfig.from_env(environ={"REDIS_HOST": "h", "MYAPP_REDIS_HOST": "other"}).redis_host == "h"


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYAPP_REDIS_PORT", "7000")
    assert CacheConfig.from_env("myapp").redis_port == 7000


def test_no_variables_give_the_defaults() -> None:
    assert CacheConfig.from_env("MYAPP", {}) == CacheConfig()


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_yes_in_many_words(text: str) -> None:
    assert CacheConfig.from_env("", {"REDIS_SSL": text}).redis_ssl is True


@pytest.mark.parametrize("text", ["0", "false", "No", "off"])
def test_no_in_many_words(text: str) -> None:
    assert CacheConfig.from_env("", {"EVICTOR_ENABLED": text}).evictor_enabled is False


def test_an_empty_variable_is_none_where_the_setting_may_be_none() -> None:
    assert CacheConfig.from_env("A", {"A_REDIS_PASSWORD": ""}).redis_password is None
    assert CacheConfig.from_env("A", {"A_SESSION_MAX_TOKENS": ""}).session_max_tokens is None


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MYAPP_REDIS_PORT", "many"),
        ("MYAPP_REDIS_PORT", ""),
        ("MYAPP_REDIS_PORT", "0"),
        ("MYAPP_REDIS_SSL", "perhaps"),
        ("MYAPP_EVICT_AFTER_MINUTES", "soon"),
        ("MYAPP_HOT_WINDOW_SIZE", "-1"),
        ("MYAPP_DURABILITY", "none"),
        ("MYAPP_REDIS_URL", "http://h"),
    ],
)
def test_a_variable_that_is_wrong_is_an_error_that_names_it(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        CacheConfig.from_env("MYAPP", {variable: text})


def test_a_misspelt_variable_is_warned_about(log_lines: list[str]) -> None:
    CacheConfig.from_env("MYAPP", {"MYAPP_REDIS_HOTS": "h", "MYAPP_DEBUG": "1"})
    assert len(log_lines) == 1
    assert "did you mean MYAPP_REDIS_HOST?" in log_lines[0]


def test_replace_returns_a_checked_copy_and_leaves_the_original() -> None:
    config = CacheConfig(redis_host="a")
    assert config.replace(redis_port=7000) == CacheConfig(redis_host="a", redis_port=7000)
    assert config == CacheConfig(redis_host="a")
    with pytest.raises(ConfigError, match=r"^redis_port "):
        config.replace(redis_port=0)
    with pytest.raises(ConfigError, match="unknown setting 'port'"):
        config.replace(port=1)


def test_a_config_survives_copying_and_pickling() -> None:
    config = CacheConfig(redis_host="a", redis_password="b")
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, redis_port=1) == config.replace(redis_port=1)


@given(st.integers(1, 10_000), st.integers(1, 10**8))
def test_redis_never_forgets_before_the_archive_would(days: int, seconds: int) -> None:
    config = CacheConfig(disk_ttl_days=days, session_ttl_seconds=seconds)
    assert config.hot_life_seconds >= days * 86400
    assert config.hot_life_seconds >= seconds


@given(st.floats(0, 10**6), st.integers(1, 10**8))
def test_a_session_is_idle_after_the_shorter_of_both_times(minutes: float, seconds: int) -> None:
    config = CacheConfig(evict_after_minutes=minutes, session_ttl_seconds=seconds)
    assert config.idle_seconds == min(minutes * 60, seconds)
