"""The gateway's bench beside peers, with scripted ones: what is left out is said, the rest is measured."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("_bench_peers")


class Scripted(BaseHTTPRequestHandler):
    """Ours, the peers and the provider in one: a request says by `x-act` which, and how many it may ask."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        name, _, allowed = self.headers.get("x-act", "any 1000000").partition(" ")
        self.asked[name] += 1
        body = b"{}"
        self.send_response(200 if self.asked[name] <= int(allowed) else 500)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-lix-cache", "hit-l1-exact")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Connections of who is left out break off."""


@pytest.fixture
def port() -> Iterator[int]:
    Scripted.asked.clear()
    with Server(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


LASTING = python("import time; time.sleep(600)")
HIT = b"\r\nx-lix-cache: hit"


def test_peers_that_fail_are_said_and_left_out_and_the_others_measured(
    bench: Any, port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = [
        bench.Gateway(f"lix_cache, {place}", LASTING, hit=HIT, port=port) for place in ("memory", "Redis")
    ]
    peers = [
        bench.Gateway("well, Redis", LASTING, hit=HIT, port=port),
        bench.Gateway("plain", LASTING, config={"for": "its file"}, port=port),
        bench.Gateway("breaks", LASTING, head=b"x-act: breaks 5\r\n", hit=HIT, port=port),
        bench.Gateway("ends", python("exit('no such module')"), head=b"x-act: ends 0\r\n", port=port),
        bench.Gateway("absent", [str(SCRIPTS / "no such program")], port=port),
    ]
    found = asyncio.run(bench.beside(ours, peers, port, rounds=2, count=2))
    measured = {name for name in found if not name.endswith(" / ours")}
    assert measured == {"lix_cache, memory", "lix_cache, Redis", "well, Redis", "plain"}
    assert found["well, Redis"].keys() == found["lix_cache, Redis"].keys()
    assert found["plain"].keys() == {"miss_added_p50_ms", "miss_cpu_us", "pss_idle_mb", "pss_mb"}
    said = capfd.readouterr().err
    assert said.count("left out: ") == 3
    assert "left out: breaks: RuntimeError" in said
    assert "left out: ends: it does not answer" in said
    assert "no such module" in said
    assert "left out: absent: [Errno 2]" in said
    for peer in [*ours, *peers]:
        if peer.pid:
            with pytest.raises(ProcessLookupError):
                os.kill(peer.pid, 0)


@pytest.mark.parametrize("allowed", [0, 5])
def test_trouble_of_ours_is_an_error(bench: Any, port: int, allowed: int) -> None:
    code = python("exit('trouble')") if allowed == 0 else LASTING
    ours = [bench.Gateway("lix_cache, memory", code, head=b"x-act: ours %d\r\n" % allowed, port=port)]
    with pytest.raises(RuntimeError, match="trouble" if allowed == 0 else "unexpected answer"):
        asyncio.run(bench.beside(ours, [], port, rounds=1, count=2))


def test_a_peer_is_set_against_ours_of_the_same_round_and_place(bench: Any) -> None:
    table = bench._with_ratios(
        {
            "lix_cache, memory": [{"miss": 1.0, "hit": 0.1}, {"miss": 2.0, "hit": 0.1}],
            "lix_cache, Redis": [{"miss": 2.0, "hit": 1.0}, {"miss": -1.0, "hit": 1.0}],
            "litellm, Redis": [{"miss": 8.0, "hit": 3.0}, {"miss": 9.0, "hit": 9.0}],
            "portkey": [{"miss": 3.0}, {"miss": 10.0}],
        }
    )
    assert table["lix_cache, memory"] == {"miss": 1.5, "hit": 0.1}
    assert "lix_cache, Redis / ours" not in table
    # The second round says nothing: what ours added was lost in the noise.
    assert table["litellm, Redis / ours"] == {"miss": 4.0, "hit": 3.0}
    assert table["portkey / ours"] == {"miss": 4.0}


def test_what_is_not_installed_is_said(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.installed(1, "unix:///s", tmp_path) == []
    said = capsys.readouterr().err
    assert "left out: litellm" in said
    assert "left out: portkey" in said


def test_peers_ask_the_scripted_provider_and_keep_answers_where_ours_does(bench: Any, tmp_path: Path) -> None:
    for name in ("litellm", "portkey"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".installed").touch()
    memory, shared, portkey = bench.installed(8123, "unix:///s", tmp_path)
    caches = [one.config["litellm_settings"]["cache_params"] for one in (memory, shared)]
    assert caches == [{"type": "local"}, {"type": "redis", "url": "unix:///s"}]
    assert memory.config["model_list"][0]["litellm_params"]["api_base"] == "http://127.0.0.1:8123/v1"
    assert memory.env["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    assert b"x-portkey-custom-host: http://127.0.0.1:8123/v1\r\n" in portkey.head
    assert not portkey.hit
