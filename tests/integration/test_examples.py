"""Every example runs offline with one command, twice, and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from lix_cache.config import CacheConfig
from tests.support import RedisServer
from tests.support.redis_server import free_port, wait_until

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
    script: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    before = keys_of(redis_server)
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
    left = keys_of(redis_server) - before
    assert {name for _, name in left if not _MAY_STAY.search(name)} == set()


#: Notes without content: a store's layout, its archive and its latest id; which daemon was at work; what was
#: deleted and may not come back; which call had begun, and what was invalidated meanwhile.
_MAY_STAY = re.compile(
    r":\{0\}:(buckets|archive|high|lease|clean-up|(ticket|refused|known|known-before):\S+"
    r"|ans:invalidated|ans:flight:\S+)\Z"
)


def keys_of(server: RedisServer) -> set[tuple[int, str]]:
    """Return every key of every database, with its number."""
    found: set[tuple[int, str]] = set()
    for db in range(16):
        client = redis.Redis(unix_socket_path=str(server.socket_path), db=db)
        try:
            # Other tests' sessions have names of every kind.
            found |= {(db, key.decode(errors="surrogateescape")) for key in client.scan_iter("*")}
        finally:
            client.close()
    return found


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The tutorial's service, with a private Redis of its own."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    # The path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="lix-svc-") as data:
        for name, value in (
            ("LIX_CACHE_DATA_DIR", data),
            ("LIX_CACHE_REDIS_PORT", str(free_port())),
            ("LIX_CACHE_REDIS_RETRY_SECONDS", "0"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("LIX_CACHE_REDIS_URL", raising=False)
        service = Service(tmp_path, data)
        yield service
        service.end(signal.SIGKILL)
        if pid := service.redis():
            os.kill(pid, signal.SIGKILL)


class Service:
    """``uvicorn fastapi_chat:app`` in a folder."""

    def __init__(self, folder: Path, data: str) -> None:
        self.folder, self.data, self.port = folder, Path(data), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, folder: Path | None = None) -> None:
        command = ["uvicorn", "--app-dir", str(EXAMPLES), "fastapi_chat:app", "--port", str(self.port)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=folder or self.folder, stdout=log, stderr=log
            )
        wait_until(lambda: self.ask("GET", "/health")[0] == 200, what="the service")

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method, path, json.dumps(body), {"content-type": "application/json"})
            answer = line.getresponse()
            return answer.status, json.loads(answer.read())
        except ConnectionError:
            return 0, None
        finally:
            line.close()

    def redis(self) -> int | None:
        """Return the process of the private server, if it runs."""
        try:
            pid = int((self.data / "redis" / "redis.pid").read_text())
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return None
        return pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_private_server_of_the_service_ends_with_it_and_keeps_what_was_said(
    service: Service, number: int
) -> None:
    service.begin()
    assert service.ask("POST", "/chat/ann", {"text": "My name is Ann."})[0] == 200
    assert service.redis()
    service.end(number)
    assert service.redis() is None
    service.begin()
    assert len(service.ask("GET", "/chat/ann")[1]) == 2


@pytest.mark.promise("no-false-empty")
def test_without_redis_the_service_says_try_again_to_users_old_and_new(service: Service) -> None:
    service.begin()
    assert service.ask("POST", "/chat/ann", {"text": "My name is Ann."})[0] == 200
    os.kill(service.redis() or 0, signal.SIGKILL)
    wait_until(lambda: service.redis() is None)
    for user in ("ann", "new"):
        status, said = service.ask("POST", f"/chat/{user}", {"text": "Hello"})
        assert (status, list(said)) == (503, ["error"])
    assert service.ask("GET", "/health")[1] == {"sessions": "degraded", "cache": "down", "hits": {}}
    service.end(signal.SIGTERM)
    service.begin()
    assert service.ask("GET", "/chat/ann")[1][0]["content"] == "My name is Ann."


def test_the_service_says_that_its_sessions_are_down_where_another_archive_is_theirs(
    service: Service, tmp_path: Path
) -> None:
    service.begin()
    assert service.ask("POST", "/chat/ann", {"text": "Hello"})[0] == 200
    service.end(signal.SIGTERM)
    (tmp_path / "elsewhere").mkdir()
    service.begin(tmp_path / "elsewhere")
    assert service.ask("GET", "/health")[1]["sessions"] == "down"


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
