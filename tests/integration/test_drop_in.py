"""What ran on lix-open-cache runs on lix_cache with only the import changed.

The blocks are the statements of the old package's documentation (releases 2.1.4 and 2.1.6, which
document 0.1.0 too). They run as programs of their own, once with each package; only the port of the
server is filled in.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import lix_cache
from lix_cache import huffman_codec
from lix_cache.config import CacheConfig
from tests.support import RedisServer

ROOT = Path(__file__).resolve().parents[2]
NEW, OLD = "lix_cache", "lix_open_cache"

# The old package calls what redis-py has since come to discourage, and takes the warning,
# where it is an error, for a failure to be hidden.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture(scope="module")
def old() -> Any:
    """The old package, kept quiet and without its eviction thread, which cannot be stopped."""
    package = pytest.importorskip(OLD, reason="lix-open-cache is not installed")
    from loguru import logger

    logger.disable(OLD)
    sys.modules[f"{OLD}.hybrid_cache"]._eviction_thread_started = True  # type: ignore[attr-defined]
    return package


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server whose databases are as empty as a reader's: the blocks name their own prefixes."""
    with RedisServer() as running:
        yield running


# -- the documented programs ---------------------------------------------------------------


@dataclasses.dataclass
class Block:
    """A documented program, and what must hold at its end."""

    source: str
    checks: str
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


BLOCKS = {
    "quick start": Block(
        """
from PACKAGE import CacheConfig, CacheCoordinator

config = CacheConfig(redis_host="localhost", redis_port=6379)
cache = CacheCoordinator(session_id="user-abc", config=config)

cache.add_message_to_context("user", "What's the weather in Tokyo?")
cache.add_message_to_context("assistant", "22C and sunny.")
history = cache.get_context_messages()

import numpy as np
embedding = np.random.rand(384).astype(np.float32)
cached = cache.get_semantic_response("https://weather.com", embedding)
""",
        """
assert [m["role"] for m in history] == ["user", "assistant"]
assert [m["content"] for m in history] == ["What's the weather in Tokyo?", "22C and sunny."]
assert cached is None
""",
    ),
    "all layers": Block(
        """
from PACKAGE import CacheConfig, CacheCoordinator

config = CacheConfig(
    redis_host="localhost",
    redis_port=6379,
    redis_key_prefix="mychat",
    archive_dir="./data/conversations",
)

cache = CacheCoordinator(session_id="user-abc", config=config)

cache.add_message_to_context("user", "What's the weather in Tokyo?")
cache.add_message_to_context("assistant", "It's 22°C and sunny.")

history = cache.get_context_messages()

import numpy as np
query_embedding = np.random.rand(384).astype(np.float32)
cached = cache.get_semantic_response("https://weather.com", query_embedding)
if cached:
    print("Cache hit — skip LLM")
else:
    response = {"answer": "22°C and sunny", "sources": ["..."]}
    cache.cache_semantic_response("https://weather.com", query_embedding, response)
""",
        """
assert [m["content"] for m in history] == ["What's the weather in Tokyo?", "It's 22°C and sunny."]
assert all(set(m) == {"role", "content", "timestamp", "metadata"} for m in history)
assert cached is None
assert cache.get_semantic_response("https://weather.com", query_embedding) == response
assert cache.get_semantic_response("https://weather.com", -query_embedding) is None
""",
    ),
    "session memory": Block(
        """
from PACKAGE import HybridConversationCache, CacheConfig

config = CacheConfig(redis_host="localhost", redis_port=6379)
cache = HybridConversationCache("session-123", config=config)

cache.add_message("user", "hello")
cache.add_message("assistant", "hey there!")

messages = cache.get_context()

context = cache.smart_context(
    query="what did we talk about yesterday?",
    query_embedding=your_embedding,
    recent_k=10,
    disk_k=5,
)
""",
        """
assert [m["content"] for m in messages] == ["hello", "hey there!"]
assert context == {"recent": messages, "relevant": []}
""",
    ),
    "disk only": Block(
        """
from PACKAGE import ConversationArchive

archive = ConversationArchive("./data/chats", session_ttl_days=30)

archive.append_turn("sess-1", {"role": "user", "content": "hello"})
archive.append_turn("sess-1", {"role": "assistant", "content": "hi!"})

turns = archive.load_all("sess-1")
recent = archive.load_recent("sess-1", 5)
results = archive.search_by_text("sess-1", "hello", top_k=3)

archive.cleanup_expired()
""",
        """
assert turns == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi!"}]
assert recent == turns
assert results == turns[:1]
assert archive.load_all("sess-1") == turns
import os
assert os.path.exists("data/chats/sess-1.huff")
""",
    ),
    "codec": Block(
        """
from PACKAGE import HuffmanCodec
from PACKAGE.huffman_codec import encode_str, decode_bytes

text = "The quick brown fox jumps over the lazy dog" * 100
compressed = encode_str(text)
restored = decode_bytes(compressed)
assert restored == text
print(f"{len(text)}B → {len(compressed)}B ({len(compressed)/len(text)*100:.0f}%)")
""",
        """
assert HuffmanCodec.decode(compressed) == text.encode()
assert HuffmanCodec.encode(text.encode()) == compressed
""",
    ),
    "configuration": Block(
        """
from PACKAGE import CacheConfig

config = CacheConfig(
    redis_host="redis.internal",
    redis_port=6379,
    redis_password="secret",
    redis_key_prefix="mychat",
    redis_pool_size=50,
    session_redis_db=2,
    session_ttl_seconds=86400,
    hot_window_size=20,
    session_max_tokens=None,
    semantic_redis_db=0,
    semantic_ttl_seconds=300,
    semantic_similarity_threshold=0.90,
    semantic_max_items_per_url=50,
    url_cache_redis_db=1,
    url_cache_ttl_seconds=86400,
    archive_dir="./data/conversations",
    disk_ttl_days=14,
    evict_after_minutes=120,
)
given = config
config = CacheConfig.from_env("MYAPP")
""",
        """
assert (given.redis_host, given.redis_password) == ("redis.internal", "secret")
assert (given.redis_key_prefix, given.evict_after_minutes) == ("mychat", 120)
assert (config.redis_host, config.redis_password, config.semantic_ttl_seconds) == ("cache", None, 7)
assert (config.semantic_similarity_threshold, config.redis_key_prefix) == (0.8, "lix")
""",
        {
            "MYAPP_REDIS_HOST": "cache",
            "MYAPP_REDIS_PASSWORD": "",
            "MYAPP_SEMANTIC_TTL_SECONDS": "7",
            "MYAPP_SEMANTIC_SIMILARITY_THRESHOLD": "0.8",
        },
    ),
    "client": Block(
        """
from PACKAGE import create_redis_client, CacheConfig

config = CacheConfig(redis_host="localhost", redis_port=6379)

client = create_redis_client(host="localhost", port=6379, db=2, config=config)

first = client
client = create_redis_client(host="localhost", port=6379, db=2, config=config)
""",
        """
assert client.ping()
assert client.connection_pool is first.connection_pool
client.set("key", b"value")
assert first.get("key") == b"value"
assert first.connection_pool.connection_kwargs["db"] == 2
""",
    ),
}


#: The old package loses one of two messages of one millisecond; so that the checks hold for it
#: too, its clock goes on by one at every look.
SLOW_CLOCK = """
import itertools, time
time.time = map(time.time().__add__, itertools.count()).__next__
"""


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("package", [NEW, OLD])
def test_every_documented_program_runs_with_only_the_import_changed(
    server: RedisServer, tmp_path: Path, block: Block, package: str
) -> None:
    if package == OLD:
        pytest.importorskip(OLD, reason="lix-open-cache is not installed")
    with server.client() as admin:
        admin.flushall()
    source = block.source.replace("PACKAGE", package).replace("6379", str(server.port))
    source = source.replace("your_embedding", "[0.25] * 384")
    program = tmp_path / "program.py"
    program.write_text((SLOW_CLOCK if package == OLD else "") + source + block.checks, "utf-8")
    environment = {**os.environ, **block.environment, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *(["-W", "error"] if package == NEW else []), str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if package == NEW:
        # Silent unless asked, and nothing outside the folders that were named.
        assert done.stderr == ""
        assert {path.name for path in tmp_path.iterdir()} <= {"program.py", "data"}


# -- the surface ---------------------------------------------------------------------------

#: Public in name only: they did nothing, and were in no documentation.
NEVER_DOCUMENTED = {("SemanticCacheRedis", "load_for_request"), ("SemanticCacheRedis", "save_for_request")}

#: What the old classes took out of their **kwargs.
KEYWORDS = {
    "SemanticCacheRedis": [
        "ttl_seconds",
        "similarity_threshold",
        "max_items_per_url",
        "redis_host",
        "redis_port",
        "redis_db",
    ],
    "URLEmbeddingCache": ["ttl_seconds", "batch_size", "redis_host", "redis_port", "redis_db"],
    "HybridConversationCache": [
        "hot_window_size",
        "redis_ttl",
        "redis_host",
        "redis_port",
        "redis_db",
        "evict_after_minutes",
    ],
    "SessionContextWindow": [
        "window_size",
        "ttl_seconds",
        "max_tokens",
        "redis_host",
        "redis_port",
        "redis_db",
    ],
    "CacheCoordinator": ["redis_host", "redis_port", "redis_password"],
}


def signature(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def assert_callable_as_before(new: Any, before: Any, name: str) -> None:
    """Every call that the old signature allows, the new one takes the same way."""
    named = [p for p in signature(before) if p.kind is p.POSITIONAL_OR_KEYWORD]
    ours = signature(new)
    assert [p.name for p in ours[: len(named)]] == [p.name for p in named], name
    for ours_p, old_p in zip(ours, named, strict=False):
        assert ours_p.kind is old_p.kind, (name, old_p.name)
        assert ours_p.default == old_p.default, (name, old_p.name)
    for added in ours[len(named) :]:
        assert added.default is not inspect.Parameter.empty or added.kind in (
            added.VAR_KEYWORD,
            added.VAR_POSITIONAL,
        ), (name, added.name)


def test_every_old_public_name_is_exported(old: Any) -> None:
    assert set(old.__all__) <= set(lix_cache.__all__)


def test_every_old_method_is_there_with_the_old_parameters(old: Any) -> None:
    checked = []
    for kind in [name for name in old.__all__ if inspect.isclass(getattr(old, name))]:
        before, now = getattr(old, kind), getattr(lix_cache, kind)
        if "__init__" in vars(before):
            assert_callable_as_before(now.__init__, before.__init__, kind)
        for name, method in vars(before).items():
            if name.startswith("_") or (kind, name) in NEVER_DOCUMENTED:
                continue
            if isinstance(method, (types.FunctionType, staticmethod, classmethod)):
                assert_callable_as_before(getattr(now, name), getattr(before, name), f"{kind}.{name}")
                checked.append(name)
    assert len(checked) >= 50
    assert_callable_as_before(lix_cache.create_redis_client, old.create_redis_client, "create_redis_client")
    for name in ("encode_str", "decode_bytes"):
        before = getattr(sys.modules[f"{OLD}.huffman_codec"], name)
        assert_callable_as_before(getattr(huffman_codec, name), before, name)


@pytest.mark.parametrize("kind", KEYWORDS)
def test_every_keyword_the_old_classes_looked_for_is_a_parameter(kind: str) -> None:
    parameters = {p.name: p for p in signature(getattr(lix_cache, kind).__init__)}
    for name in KEYWORDS[kind]:
        assert parameters[name].default is None


def test_the_settings_have_the_old_names_order_and_defaults(old: Any) -> None:
    before = [(f.name, f.default) for f in dataclasses.fields(old.CacheConfig)]
    assert len(before) == 21
    now = [(f.name, f.default) for f in dataclasses.fields(CacheConfig)][: len(before)]
    assert now == before
    for name, value in before:
        assert getattr(CacheConfig(), name) == getattr(old.CacheConfig(), name) == value


def test_the_environment_means_what_it_meant(old: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "REDIS_HOST": "cache.internal",
        "REDIS_PORT": "7000",
        "REDIS_PASSWORD": "secret",
        "REDIS_KEY_PREFIX": "mine",
        "REDIS_POOL_SIZE": "5",
        "SESSION_REDIS_DB": "3",
        "SESSION_TTL_SECONDS": "60",
        "HOT_WINDOW_SIZE": "7",
        "SEMANTIC_REDIS_DB": "4",
        "SEMANTIC_TTL_SECONDS": "30",
        "SEMANTIC_SIMILARITY_THRESHOLD": "0.75",
        "URL_CACHE_REDIS_DB": "5",
        "URL_CACHE_TTL_SECONDS": "40",
        "ARCHIVE_DIR": "elsewhere",
        "DISK_TTL_DAYS": "2",
        "EVICT_AFTER_MINUTES": "9",
    }
    for prefix in ("MYAPP", "myapp", ""):
        for name, value in values.items():
            monkeypatch.setenv(f"{prefix.upper()}_{name}" if prefix else name, value)
        before, now = old.CacheConfig.from_env(prefix), CacheConfig.from_env(prefix)
        for field in dataclasses.fields(before):
            assert getattr(now, field.name) == getattr(before, field.name), field.name
        assert now.redis_host == "cache.internal"


# -- bytes ---------------------------------------------------------------------------------

TEXTS = st.text(alphabet='etaoin shrdlu\n"{}:,天気🙂', max_size=300)


@given(st.one_of(st.binary(max_size=600), TEXTS.map(str.encode), st.binary(max_size=4).map(lambda b: b * 99)))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(b"")
@example(b"x")
@example(b"x" * 1000)
@example(bytes(range(256)))
@example(b"".join(bytes([i]) * count for i, count in enumerate([1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])))
def test_either_package_reads_what_the_others_codec_writes(old: Any, data: bytes) -> None:
    assert lix_cache.HuffmanCodec.decode(old.HuffmanCodec.encode(data)) == data
    assert old.HuffmanCodec.decode(lix_cache.HuffmanCodec.encode(data, format=1)) == data
    assert len(lix_cache.HuffmanCodec.encode(data, format=1)) == len(old.HuffmanCodec.encode(data))


@given(TEXTS)
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_either_package_reads_the_others_texts(old: Any, text: str) -> None:
    theirs = sys.modules[f"{OLD}.huffman_codec"]
    assert huffman_codec.decode_bytes(theirs.encode_str(text)) == text  # type: ignore[attr-defined]
    assert theirs.decode_bytes(huffman_codec.encode_str(text, format=1)) == text  # type: ignore[attr-defined]


def test_a_stream_that_is_none_is_the_error_it_was(old: Any) -> None:
    for package in (old, lix_cache):
        with pytest.raises(ValueError):
            package.HuffmanCodec.decode(b"XXXX0000")
        assert package.HuffmanCodec.decode(b"") == b""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
    max_leaves=6,
)
TURNS = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]), "content": TEXTS},
        optional={
            "timestamp": st.floats(1e9, 2e9),
            "metadata": st.dictionaries(TEXTS, JSON, max_size=2),
            "embedding": st.lists(st.floats(-1, 1), min_size=2, max_size=2),
        },
    ),
    st.dictionaries(TEXTS, JSON, max_size=3),
)


@given(st.lists(TURNS, min_size=1, max_size=6), TURNS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_an_archive_the_old_package_wrote_opens_and_goes_on(
    old: Any, tmp_path_factory: pytest.TempPathFactory, turns: list[Any], more: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    theirs = old.ConversationArchive(str(folder))
    assert theirs.append_turns("sess-1", turns)
    archive = lix_cache.ConversationArchive(folder)
    assert archive.session_exists("sess-1")
    assert archive.get_metadata("sess-1") == theirs.get_metadata("sess-1")
    assert archive.list_sessions() == theirs.list_sessions()
    assert archive.load_all("sess-1") == theirs.load_all("sess-1") == turns
    assert archive.load_recent("sess-1", 2) == theirs.load_recent("sess-1", 2)
    created = archive.get_metadata("sess-1")["created_at"]

    assert archive.append_turn("sess-1", more)

    assert archive.load_all("sess-1") == [*turns, more]
    assert archive.get_metadata("sess-1")["created_at"] == created
    assert archive.get_metadata("sess-1")["num_turns"] == len(turns) + 1
    assert [path.name for path in folder.glob("*.huff*")] == ["sess-1.huff"]


@pytest.mark.parametrize("session", ["user abc", "a.b-c_d", "100%", "größe", "会話", "%41", "~x", ".hidden"])
def test_an_archive_of_any_old_file_name_is_found(old: Any, tmp_path: Path, session: str) -> None:
    old.ConversationArchive(str(tmp_path)).append_turn(session, {"role": "user", "content": session})
    archive = lix_cache.ConversationArchive(tmp_path)
    assert archive.load_all(session) == [{"role": "user", "content": session}]
    archive.append_turn(session, {"role": "assistant", "content": "more"})
    assert [turn["content"] for turn in archive.load_all(session) or []] == [session, "more"]
    assert [meta["session_id"] for meta in archive.list_sessions()] == [session]


# -- side by side --------------------------------------------------------------------------


def test_the_archives_answer_the_same_to_the_same_calls(old: Any, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "the weather in Tokyo", "embedding": [1.0, 0.0]},
        {"role": "assistant", "content": "Sunny, 22 degrees.", "embedding": [0.6, 0.8]},
        {"role": "user", "content": "and the weather in Oslo tomorrow?", "embedding": [0.8, -0.6]},
        {"role": "assistant", "content": "Rain."},
    ]

    def session(archive: Any) -> list[Any]:
        def names() -> list[str]:
            return sorted(meta["session_id"] for meta in archive.list_sessions())

        seen = [
            archive.load_all("s"),
            archive.load_recent("s", 3),
            archive.session_exists("s"),
            archive.get_metadata("s"),
            archive.delete_session("s"),
            archive.search_by_text("s", "weather"),
            archive.search_by_embedding("s", [1.0, 0.0]),
            archive.append_turn("s", turns[0]),
            archive.append_turns("s", turns[1:]),
            archive.append_turns("t", [turns[3]]),
            archive.load_all("s"),
            archive.load_recent("s", 3),
            archive.load_recent("s", 99),
            archive.search_by_text("s", "weather OSLO"),
            archive.search_by_text("s", "the weather", top_k=1),
            archive.search_by_text("s", "nothing of that"),
            archive.search_by_embedding("s", np.array([1.0, 0.1])),
            archive.search_by_embedding("s", [0.0, 1.0], top_k=1),
            names(),
            archive.cleanup_expired(),
            archive.delete_session("s"),
            archive.session_exists("s"),
            names(),
        ]
        metadata = archive.get_metadata("t")
        return [*seen, metadata["session_id"], metadata["num_turns"], sorted(metadata)]

    theirs = session(old.ConversationArchive(str(tmp_path / "old")))
    ours = session(lix_cache.ConversationArchive(str(tmp_path / "new")))
    assert ours == theirs


@pytest.fixture
def configs(old: Any, redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path) -> dict[Any, Any]:
    """For each package a configuration of its own, with keys and folder of its own."""
    shared = {"redis_host": "127.0.0.1", "redis_port": redis_server.port}
    return {
        old: old.CacheConfig(
            **shared,
            redis_key_prefix=redis_config.redis_key_prefix + "old",
            archive_dir=str(tmp_path / "old"),
        ),
        lix_cache: redis_config,
    }


def test_the_semantic_caches_answer_the_same(configs: dict[Any, Any]) -> None:
    caches = [
        package.SemanticCacheRedis("s", config=config, similarity_threshold=0.6, max_items_per_url=20)
        for package, config in configs.items()
    ]
    rng = np.random.default_rng(11)
    answers: list[list[Any]] = [[], []]
    for step in range(120):
        url, vector = f"u{step % 3}", rng.standard_normal(6)
        for cache, seen in zip(caches, answers, strict=True):
            seen.append(cache.get(url, vector))
            seen.append(cache.set(url, vector.tolist() if step % 2 else vector, {"step": step}))
    assert answers[0] == answers[1]
    hits = sum(answer is not None for answer in answers[0])
    assert 20 < hits < 100
    stats = [cache.get_stats() for cache in caches]
    assert stats[0].items() <= stats[1].items()
    assert [cache.clear_session() for cache in caches] == [True, True]
    assert [cache.get_stats()["cached_urls"] for cache in caches] == [0, 0]


def test_the_url_caches_answer_the_same(configs: dict[Any, Any]) -> None:
    vectors = {f"u{i}": np.random.default_rng(i).standard_normal(384) for i in range(5)}

    def use(cache: Any) -> list[Any]:
        seen: list[Any] = [cache.get("u0"), cache.set("u0", vectors["u0"]), cache.batch_set(vectors)]
        for url in vectors:
            found = cache.get(url)
            seen.append((found.dtype, found.shape, found.tobytes()))
        names = {"backend", "session_id", "redis_memory_used", "ttl_seconds"}
        seen.append(sorted(cache.get_stats().keys() & names))
        return seen

    theirs, ours = (use(package.URLEmbeddingCache("s", config)) for package, config in configs.items())
    assert ours == theirs


def test_the_session_caches_answer_the_same(configs: dict[Any, Any]) -> None:
    def plain(messages: list[dict[str, Any]]) -> list[Any]:
        assert all(isinstance(m["timestamp"], float) for m in messages)
        return [{k: v for k, v in m.items() if k != "timestamp"} for m in messages]

    def use(package: Any, config: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        hybrid = package.HybridConversationCache("h", config=config)
        seen["counts"] = [
            hybrid.add_message("user", "x" * 250, {"lang": "en"}),
            hybrid.add_message(role="assistant", content="hello", metadata=None),
        ]
        seen["context"] = plain(hybrid.get_context())
        seen["formatted"] = hybrid.get_formatted_context(max_lines=50)
        seen["last line"] = hybrid.get_formatted_context(1)
        seen["smart"] = {k: plain(v) for k, v in hybrid.smart_context("hello", recent_k=1).items()}
        stats = hybrid.get_stats()
        seen["stats"] = [
            stats[name] for name in ("session_id", "hot_messages", "hot_window_size", "disk_turns")
        ]
        seen["cleared"] = [hybrid.clear(), hybrid.get_context(), hybrid.delete_session()]
        window = package.SessionContextWindow("w", config, window_size=3)
        seen["window"] = [window.add_message("user", "one"), window.add_message("user", "two")]
        seen["history"] = plain(window.get_full_history())
        seen["attributes"] = [window.session_id, window.window_size, window.ttl_seconds, window.max_tokens]
        seen["empty"] = package.SessionContextWindow("never used", config).get_context()
        return seen

    # A burst in one millisecond loses messages there, so theirs are a moment apart.
    with pytest.MonkeyPatch.context() as patch:
        ticks = iter(range(1_700_000_000, 1_800_000_000))
        hybrid_module = sys.modules[f"{OLD}.hybrid_cache"]
        patch.setattr(hybrid_module, "time", types.SimpleNamespace(time=lambda: float(next(ticks))))
        (old, old_config), (new, new_config) = configs.items()
        theirs, ours = use(old, old_config), use(new, new_config)
    # There a clear drops what is not on disk yet; here every message stays in the history.
    assert (theirs.pop("cleared"), ours.pop("cleared")) == ([True, [], False], [True, [], True])
    assert ours == theirs


def test_the_coordinators_have_the_same_parts(configs: dict[Any, Any]) -> None:
    layers = ("context_window", "semantic_cache", "url_embedding_cache")

    def use(package: Any, config: Any) -> Any:
        cache = package.CacheCoordinator(session_id="c", config=config)
        cache.cache_semantic_response(url="u", query_embedding=np.eye(4)[0], response={"a": [1, None]})
        assert cache.cache_url_embedding(url="u", embedding=np.eye(4)[0]) is True
        assert cache.batch_cache_url_embeddings({"v": np.eye(4)[1]}) == {"v": True}
        assert cache.add_message_to_context("user", "x", metadata={"k": 1}) == 1
        stats = cache.get_stats()
        return {
            "response": cache.get_semantic_response("u", [1, 0, 0, 0]),
            "embedding": cache.get_url_embedding("u").tolist(),
            "text": cache.get_formatted_context(),
            "layers": [type(getattr(cache, layer)).__name__ for layer in layers],
            "stats": {n: sorted(v) if isinstance(v, dict) else type(v) for n, v in stats.items()},
            "cleared": [cache.clear_context(), cache.clear_session_cache(), cache.get_context_messages()],
        }

    theirs, ours = (use(package, config) for package, config in configs.items())
    for name, keys in theirs.pop("stats").items():
        mine = ours["stats"][name]
        assert mine == keys or set(keys) <= set(mine)
    del ours["stats"]
    assert ours == theirs


def test_a_response_the_old_package_could_store_can_be_stored(configs: dict[Any, Any]) -> None:
    response = {"answer": "22 °C", "list": [1, 2.5, None, True], "nested": {"天気": "晴れ"}, "tuple": (1, 2)}
    found = []
    for package, config in configs.items():
        cache = package.SemanticCacheRedis("s", config)
        cache.set("u", [1.0, 0.0], response)
        found.append(cache.get("u", [1.0, 0.0]))
    assert found[0] == found[1] == json.loads(json.dumps(response))
