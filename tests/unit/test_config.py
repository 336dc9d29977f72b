"""Settings are checked where they are made, and nothing is guessed."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache import (
    AsyncCacheCoordinator,
    AsyncConversationArchive,
    AsyncHybridConversationCache,
    AsyncSemanticCacheRedis,
    AsyncSessionContextWindow,
    AsyncURLEmbeddingCache,
    CacheCoordinator,
    ConversationArchive,
    EmbeddedRedis,
    HybridConversationCache,
    SemanticCacheRedis,
    SessionContextWindow,
    StoreAdmin,
    URLEmbeddingCache,
    create_async_redis_client,
    create_redis_client,
    ensure_redis,
)
from lix_cache.archive import codecs
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
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
        ("archive_url", "bucket/prefix"),
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


@pytest.mark.promise("no-leak")
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
@pytest.mark.promise("no-leak")
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
        if name.endswith("_codec")
        else "rediss+cluster://h"
        if name == "redis_url"
        else "s3://bucket/prefix"
        if name == "archive_url"
        else not field.default
        if field.type == "bool"
        else 1
        if name in NUMBERS or name in ("redis_buckets", "session_max_tokens", "embedding_dim")
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


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MYAPP_REDIS_HOTS", "MYAPP_REDIS_HOST"),
        ("MYAPP_REDIS_PROT", "MYAPP_REDIS_PORT"),
        ("MYAPP_REDIS_ULR", "MYAPP_REDIS_URL"),
        ("MYAPP_REDIS_PASWORD", "MYAPP_REDIS_PASSWORD"),
        ("MYAPP_REDISHOST", "MYAPP_REDIS_HOST"),
        ("MYAPP__REDIS_HOST", "MYAPP_REDIS_HOST"),
        ("MYAPP_redis_host", "MYAPP_REDIS_HOST"),
        ("myapp_redis_host", "MYAPP_REDIS_HOST"),
        ("MYAPP_ARCHIVE_DIRS", "MYAPP_ARCHIVE_DIR"),
        ("MYAPP_DURABILTY", "MYAPP_DURABILITY"),
        ("MYAPP_EVICT_AFTER_MINS", "MYAPP_EVICT_AFTER_MINUTES"),
        ("MYAPP_SEMANTIC_SIMILARTY_TRESHOLD", "MYAPP_SEMANTIC_SIMILARITY_THRESHOLD"),
    ],
)
def test_a_variable_that_nearly_is_a_setting_is_an_error_that_says_which(variable: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is not a setting; did you mean {meant}\\?") as caught:
        CacheConfig.from_env("MYAPP", {variable: SECRET, "MYAPP_DEBUG": "1"})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "variable", "meant"),
    [
        ("MYAPP", "MYAPP_REDIS_PASS", "MYAPP_REDIS_PASSWORD"),
        ("MYAPP", "MYAPP_REDIS_PWD", "MYAPP_REDIS_PASSWORD"),
        ("MYAPP", "MYAPP_REDIS_USER", "MYAPP_REDIS_USERNAME"),
        ("MYAPP", "MYAPP_ARCH_DIR", "MYAPP_ARCHIVE_DIR"),
        ("MYAPP", "myapp_arch_dir", "MYAPP_ARCHIVE_DIR"),
        ("MYAPP", "MYAPP_HOT_WIN_SIZE", "MYAPP_HOT_WINDOW_SIZE"),
        ("MYAPP", "MY_APP_REDIS_HOST", "MYAPP_REDIS_HOST"),
        ("MYAPP", "MYAPP-REDIS-HOST", "MYAPP_REDIS_HOST"),
        *(
            ("LIX_CACHE", variable, f"LIX_CACHE_{meant}")
            for variable, meant in [
                *((f"LIX_CACHE_{own}", meant) for own, meant in [
                    ("URL", "REDIS_URL"), ("HOST", "REDIS_HOST"), ("PASSWORD", "REDIS_PASSWORD"),
                    ("DIR", "ARCHIVE_DIR"), ("ARCHIVE", "ARCHIVE_DIR"), ("ARCH", "ARCHIVE_DIR"),
                    ("PREFIX", "REDIS_KEY_PREFIX"), ("WINDOW", "HOT_WINDOW_SIZE"), ("dir", "ARCHIVE_DIR"),
                    ("SEMANTIC_TTL", "SEMANTIC_TTL_SECONDS"), ("SIMILARITY", "SEMANTIC_SIMILARITY_THRESHOLD"),
                    ("SSL_CA", "REDIS_SSL_CA_CERTS"), ("LIX_CACHE_REDIS_URL", "REDIS_URL"),
                ]),
                ("LIXCACHE_REDIS_URL", "REDIS_URL"),
                ("LIX_REDIS_URL", "REDIS_URL"),
                ("lixcache_redis_url", "REDIS_URL"),
                ("lix_cache_url", "REDIS_URL"),
            ]
        ),
    ],
)  # fmt: skip
def test_a_short_form_of_a_setting_is_an_error_that_says_which(
    prefix: str, variable: str, meant: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{variable} is not a setting; did you mean .*\b{meant}\b"):
        CacheConfig.from_env(prefix, {variable: SECRET})


@pytest.mark.parametrize("name", FIELDS)
def test_a_slip_in_any_setting_is_found(name: str) -> None:
    upper = name.upper()
    middle = len(upper) // 2
    slips = (upper[:-1], upper[:middle] + upper[middle + 1 :], upper + "S", upper.replace("_", "__", 1))
    for slip in slips:
        if slip.lower() not in FIELDS:
            with pytest.raises(ConfigError, match=f"APP_{slip} is not a setting"):
                CacheConfig.from_env("APP", {f"APP_{slip}": "x"})


def test_variables_of_the_application_are_none_of_our_business() -> None:
    own = (
        *("DEBUG", "LOG_LEVEL", "SECRET_KEY", "DATABASE_URL", "REDIS_DB", "REDIS_TTL", "REDIS_DATABASE"),
        *("REDIS_NODES", "SESSION_SECRET", "SESSION_COOKIE_NAME", "SESSION_TTL", "ARCHIVE"),
        *("EMBEDDER", "EMBEDDING_MODEL", "DISK_PATH", "TENANT_REDIS_HOST", "HOST", "PORT"),
    )
    assert CacheConfig.from_env("MYAPP", {f"MYAPP_{name}": "x" for name in own}) == CacheConfig()
    # A neighbour of a variable that is there is no slip of it.
    both = {"MYAPP_REDIS_HOST": "a", "MYAPP_REDIS_HOSTS": "a,b", "OTHER_REDIS_HOTS": "c"}
    assert CacheConfig.from_env("MYAPP", both) == CacheConfig(redis_host="a")
    # Without a prefix the whole environment would be looked at.
    assert CacheConfig.from_env("", {"REDIS_HOSTS": "a,b"}) == CacheConfig()


def test_the_variables_of_this_project_are_no_slips_of_settings() -> None:
    named = set()
    for folder in ("lix_cache", "tests", "scripts", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".sh"):
                named |= set(re.findall(r"\bLIX_CACHE_[A-Z0-9_]*[A-Z0-9]", path.read_text("utf-8")))
    named |= set(re.findall(r"\bLIX_CACHE_[A-Z0-9_]*[A-Z0-9]", (ROOT / ".ci" / "run").read_text("utf-8")))
    own = {name for name in named if name.removeprefix("LIX_CACHE_").lower() not in FIELDS}
    assert CacheConfig.from_env("LIX_CACHE", dict.fromkeys(own, "x")) == CacheConfig()


def test_a_prefix_may_end_with_an_underscore() -> None:
    assert CacheConfig.from_env("MYAPP_", {"MYAPP_REDIS_HOST": "h"}).redis_host == "h"


def test_what_from_env_is_given_is_checked() -> None:
    read: Any = CacheConfig.from_env
    for arguments in ((None,), (5,), ("A", "MYAPP_REDIS_HOST=x"), ("A", [("A_REDIS_HOST", "x")])):
        with pytest.raises(ConfigError, match="from_env takes a prefix of type str and a mapping"):
            read(*arguments)
    with pytest.raises(ConfigError, match="A_REDIS_SSL must be str, got a bool"):
        read("A", {"A_REDIS_SSL": True})


def test_a_setting_that_is_changed_later_is_checked_as_well() -> None:
    config: Any = CacheConfig(redis_host="a")
    with pytest.raises(ConfigError, match=r"^redis_port must be int, got a str$"):
        config.redis_port = "x"
    with pytest.raises(ConfigError, match=r"^redis_key_prefix must not contain braces"):
        config.redis_key_prefix = "a{b"
    with pytest.raises(ConfigError, match="unknown setting 'redis_hots'; did you mean 'redis_host'"):
        config.redis_hots = "b"
    config.archive_dir = Path("/a/b")
    config.redis_port = 7000
    assert config == CacheConfig(redis_host="a", redis_port=7000, archive_dir="/a/b")


# -- what other constructors are given -----------------------------------------------------


CLASSES = {
    "HybridConversationCache": (HybridConversationCache, AsyncHybridConversationCache),
    "SessionContextWindow": (SessionContextWindow, AsyncSessionContextWindow),
    "CacheCoordinator": (CacheCoordinator, AsyncCacheCoordinator),
    "SemanticCacheRedis": (SemanticCacheRedis, AsyncSemanticCacheRedis),
    "URLEmbeddingCache": (URLEmbeddingCache, AsyncURLEmbeddingCache),
    "ConversationArchive": (ConversationArchive, AsyncConversationArchive),
}
#: For each class every argument of a plain type, with values that are of another or out of range.
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "HybridConversationCache": {
        "hot_window_size": ("20", 1.5, True, 0, -1, [20]),
        "redis_ttl": ("60", True, 0, -1, math.inf),
        "redis_host": (5, b"h", ["h"]),
        "redis_port": ("6379", 6379.0, True, 0, -1, 65536),
        "redis_db": ("2", 2.0, True, -1),
        "evict_after_minutes": ("5", True, -1, math.nan),
    },
    "SessionContextWindow": {
        "window_size": ("20", 1.5, True, 0, -1),
        "ttl_seconds": ("60", True, 0, -1),
        "max_tokens": ("100", True, 0, -1),
        "redis_host": (5, b"h"),
        "redis_port": ("6379", True, 0, 65536),
        "redis_db": ("2", True, -1),
        "token_counter": (5, "len"),
    },
    "CacheCoordinator": {
        "redis_host": (5, b"h"),
        "redis_port": ("many", 6379.5, True, 0, 65536),
        "redis_password": (5, b"p"),
    },
    "SemanticCacheRedis": {
        "ttl_seconds": ("60", 0, -1, math.inf),
        "similarity_threshold": ("0.9", True, 1.1, math.nan),
        "max_items_per_url": ("5", True, 0),
        "redis_host": (5,),
        "redis_port": ("6379", True, 0),
        "redis_db": ("0", True, -1),
    },
    "URLEmbeddingCache": {
        "ttl_seconds": ("60", 0, -1, math.inf),
        "batch_size": ("5", True, 0),
        "redis_host": (5,),
        "redis_port": ("6379", True, 0),
        "redis_db": ("0", True, -1),
    },
    "ConversationArchive": {
        "session_ttl_days": ("30", True, 0, -1, math.nan, math.inf, None),
        "codec": (5, ["huffman"], "zip", None),
        "dictionary": (5, b"t", ""),
        "on_damage": ("ignore", 5, None, ["raise"]),
        "lock_timeout_seconds": ("30", True, 0, -1, math.nan, None),
    },
}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        (name, argument, value)
        for name, all_ in WRONG.items()
        for argument, values in all_.items()
        for value in values
    ],
)
def test_an_argument_of_the_wrong_type_is_a_config_error_that_names_it(
    name: str, argument: str, value: Any, tmp_path: Path
) -> None:
    first = str(tmp_path) if name == "ConversationArchive" else "session"
    for kind in CLASSES[name]:
        make: Any = kind
        with pytest.raises(ConfigError, match=f"^{argument} must ") as caught:
            make(first, **{argument: value})
        if argument != "redis_password":
            assert repr(value) in str(caught.value) or type(value).__name__ in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [f"redis://:{SECRET}@localhost", {"redis_host": "h"}, 5, CacheConfig, object(), b"x", "", 0, False],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_config_is_refused_by_every_class_that_takes_one(given: Any) -> None:
    makers: list[Any] = [
        kind for name, both in CLASSES.items() if name != "ConversationArchive" for kind in both
    ]
    calls = [
        *(lambda make=make: make("session", given) for make in makers),
        lambda: StoreAdmin(given),
        lambda: ensure_redis(given),
        lambda: create_redis_client(config=given),
        lambda: asyncio.run(create_async_redis_client(config=given)),
        lambda: EmbeddedRedis(existing=given),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"^config must be a CacheConfig or None, got ") as caught:
            call()
        assert SECRET not in str(caught.value)


def test_an_address_in_place_of_a_config_is_told_where_it_goes() -> None:
    make: Any = HybridConversationCache
    with pytest.raises(ConfigError, match=r"got a str; an address goes into CacheConfig\(redis_url=\.\.\.\)"):
        make("x", "redis://localhost")


def test_folders_clients_and_private_servers_check_what_they_are_given(tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = [
        *(("archive_dir", lambda v=v: ConversationArchive(v)) for v in (None, 5, b"x", "", "a\0b", ["x"])),
        *(("data_dir", lambda v=v: EmbeddedRedis(v)) for v in (5, b"x", "", "a\0b")),
        *(
            ("start_timeout_seconds", lambda v=v: EmbeddedRedis(tmp_path, start_timeout_seconds=v))
            for v in ("3", 0, True, math.nan)
        ),
        ("binary", lambda: EmbeddedRedis(tmp_path, binary="redis-server")),  # type: ignore[arg-type]
        *(("redis_host", lambda v=v: create_redis_client(v)) for v in (5, b"h")),
        *(("redis_port", lambda v=v: create_redis_client("h", v)) for v in ("6379", 0, True)),
        *(("redis_db", lambda v=v: create_redis_client("h", 1, v)) for v in ("0", -1, True, 1.5)),
    ]
    for name, call in calls:
        with pytest.raises(ConfigError, match=f"^{name} must "):
            call()


@pytest.mark.parametrize("make", [CacheConfig.replace, lambda config, **given: CacheConfig(**given)])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("archive_max_frame_mb", 1025),
        ("archive_max_frame_mb", 0),
        ("archive_codec", "gzip"),
        ("archive_codec", ""),
        ("redis_host", ""),
        ("redis_host", " "),
        ("redis_port", 65536),
    ],
)
def test_what_no_server_and_no_archive_could_use_is_refused_at_once(make: Any, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must "):
        make(CacheConfig(), **{name: value})
    with pytest.raises(ConfigError, match=f"APP_{name.upper()}"):
        CacheConfig.from_env("APP", {f"APP_{name.upper()}": str(value)})


@pytest.mark.parametrize("make", [ConversationArchive, AsyncConversationArchive])
def test_an_archive_refuses_what_its_settings_would(make: Any, tmp_path: Path) -> None:
    for name, value in (("max_frame_mb", 1025), ("max_frame_mb", 5000), ("codec", "gzip")):
        with pytest.raises(ConfigError, match=f"^{name} must "):
            make(tmp_path, **{name: value})
    make(tmp_path, max_frame_mb=1024, codec="stored")


@pytest.mark.parametrize("make", [CacheCoordinator, AsyncCacheCoordinator, HybridConversationCache])
@pytest.mark.parametrize("port", ["x", "0", "70000", 70000, 6379.0, True])
def test_a_port_that_is_none_is_refused_at_once(make: Any, port: Any) -> None:
    with pytest.raises(ConfigError, match=r"^redis_port must "):
        make("a", CacheConfig(evictor_enabled=False), redis_port=port)


def test_a_config_takes_every_codec_of_the_archive() -> None:
    for name in codecs._BY_NAME:
        assert CacheConfig(archive_codec=name).archive_codec == name
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(codecs._BY_NAME)}, got"):
        CacheConfig(archive_codec="gzip")


def test_a_tilde_from_the_environment_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/someone")
    read = CacheConfig.from_env("APP", {"APP_ARCHIVE_DIR": "~/chats", "APP_ARCHIVE_DICTIONARY": "~/own.lixt"})
    assert (read.archive_dir, read.archive_dictionary) == (
        "/home/of/someone/chats",
        "/home/of/someone/own.lixt",
    )
    assert CacheConfig.from_env("APP", {"APP_REDIS_PASSWORD": "~"}).redis_password == "~"
    assert CacheConfig(archive_dir="~/chats").archive_dir == "~/chats"


def test_a_port_as_text_is_still_taken_where_the_old_package_took_it() -> None:
    make: Any = CacheCoordinator
    assert (
        make("s", CacheConfig(evictor_enabled=False), redis_port="7000").semantic_cache._endpoint.port == 7000
    )


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
    assert config.hot_ttl_seconds >= days * 86400
    assert config.hot_ttl_seconds >= seconds


@given(st.floats(0, 10**6), st.integers(1, 10**8))
def test_a_session_is_idle_after_the_shorter_of_both_times(minutes: float, seconds: int) -> None:
    config = CacheConfig(evict_after_minutes=minutes, session_ttl_seconds=seconds)
    assert config.idle_seconds == min(minutes * 60, seconds)


@pytest.mark.promise("no-leak")
def test_a_choice_that_was_nearly_right_is_named_and_no_other_text_is() -> None:
    with pytest.raises(ConfigError, match=r"'replica', 'disk', got another text; did you mean 'disk'\?"):
        CacheConfig(durability="dsk")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"got another text$") as refused:
        CacheConfig(durability="hunter2")  # type: ignore[arg-type]
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="got None"):
        CacheConfig(durability=None)  # type: ignore[arg-type]
