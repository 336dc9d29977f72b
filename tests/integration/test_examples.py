"""Every example runs offline with one command, twice, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from lix_cache.config import CacheConfig
from tests.support import RedisServer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: The tutorial's end is run by test_readme.py, with what the page says that it prints.
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "fastapi_chat.py")


@pytest.fixture
def user(
    redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIX_CACHE_REDIS_URL", f"unix://{quote(str(redis_server.socket_path))}")
    monkeypatch.setenv("LIX_CACHE_REDIS_KEY_PREFIX", redis_config.redis_key_prefix)
    # No other machine is to be reached.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_and_runs_again_and_leaves_nothing(
    script: str, redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path
) -> None:
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", EXAMPLES / script],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    # Sizes on disk differ by some bytes: times are a part of them.
    assert re.sub(r"\d+", "N", said[0]) == re.sub(r"\d+", "N", said[1])
    assert said[0].strip()
    assert list(tmp_path.rglob("*.huff")) == []
    assert keys_of(redis_server, f"{redis_config.redis_key_prefix}:*session*") == []


def keys_of(server: RedisServer, pattern: str) -> list[object]:
    client = redis.Redis(unix_socket_path=str(server.socket_path), db=2)
    try:
        return list(client.scan_iter(pattern))
    finally:
        client.close()


@pytest.mark.usefixtures("user")
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package)
    # In a process of its own, for the kernel's client starts an event loop.
    done = subprocess.run(
        [sys.executable, "-c", _EXECUTE, EXAMPLES / "notebook.ipynb"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("(20, 30)", "semantic", "guard", "'month': 'May'"):
        assert word in done.stdout
    assert list(tmp_path.rglob("*.huff")) == []


_EXECUTE = """
import sys, nbclient, nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
assert not any(cell.get("outputs") for cell in notebook.cells), "it is stored without outputs"
nbclient.NotebookClient(notebook, timeout=300).execute()
print([output for cell in notebook.cells for output in cell.get("outputs", [])])
"""
