"""``lix-cache serve`` as a user starts it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from lix_cache import CacheConfig
from lix_cache.gateway import workers
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import ask, chat_body, post


def command(*arguments: str, **env: str) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
    clean["LIX_CACHE_GATEWAY_REDIS_SECONDS"] = "20"  # a slow machine is no Redis that hangs
    return {
        "args": [sys.executable, "-m", "lix_cache.cli", *arguments],
        "env": {**clean, **env},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def run(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(*arguments, **env), input=stdin, text=True, timeout=120, check=False)


@contextmanager
def serving(*arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    process = subprocess.Popen(**command("serve", "--port", str(port), *arguments, **env))
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            return ask(url, "GET", "/healthz").status == 200
        except OSError:
            return False

    try:
        wait_until(is_up, 60, "the gateway")
        yield process, url
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_demo_hits_without_a_key_and_without_redis() -> None:
    with serving("--demo", LIX_CACHE_REDIS_URL=f"redis://127.0.0.1:{free_port()}") as (process, url):
        assert post(url, chat_body()).state == "miss"
        assert post(url, chat_body(stream=True)).text.startswith("Scripted answer")
        assert post(url, chat_body()).state == "hit-l1-exact"
        assert ask(url, "GET", "/ready").json["redis"] == "away"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["cache"] for line in lines] == ["miss", "miss", "hit-l1-exact"] or len(lines) == 3


def test_the_demo_makes_a_key_for_its_page_and_leaves_nothing(
    redis_config: CacheConfig, tmp_path: Path
) -> None:
    env = {
        "LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{redis_config.redis_port}",
        "LIX_CACHE_REDIS_KEY_PREFIX": redis_config.redis_key_prefix,
        "TMPDIR": str(tmp_path),
    }
    with serving("--demo", **env) as (process, url):
        assert post(url, chat_body(), x_session_id="s").status == 200
        assert process.stderr is not None
        said = b""
        while b"its key:" not in said:
            said += process.stderr.readline()
        assert f"page: {url}/ui".encode() in said
        key = said.split(b"its key:")[1].split()[0].decode()
        found = ask(url, "GET", "/admin/view/overview", headers={"authorization": f"Bearer {key}"})
        assert (found.status, found.json["is_demo"]) == (200, True)
        assert list(tmp_path.glob("lix-cache-demo-*"))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert not list(tmp_path.glob("lix-cache-demo-*")), "conversations of the demo go with it"


def test_workers_share_what_is_in_redis(redis_config: CacheConfig) -> None:
    env = {
        "LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{redis_config.redis_port}",
        "LIX_CACHE_REDIS_KEY_PREFIX": redis_config.redis_key_prefix,
        "LIX_CACHE_GATEWAY_ADMIN_KEY": digest_of_key("the page's key 0123"),
    }
    with Provider() as provider, serving("--upstream", provider.url, "--workers", "2", **env) as (_, url):
        replies = [post(url, chat_body()) for _ in range(12)]
        assert {reply.status for reply in replies} == {200}
        assert len(provider.calls) <= 2, "at most one before it was stored"

        def are_counted() -> bool:
            headers = {"authorization": "Bearer the page's key 0123"}
            found = ask(url, "GET", "/admin/view/overview", headers=headers).json
            return sum(one["requests"] for one in found["bins"]) == 12

        wait_until(are_counted, 60, "whichever worker answers, it knows of all requests")


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["one process", "two"])
def test_it_drains_and_ends_when_idle(more: tuple[str, ...]) -> None:
    with Provider() as provider:
        provider.seconds = 1.0
        env = {"LIX_CACHE_GATEWAY_REDIS": "no", "LIX_CACHE_GATEWAY_IDLE_SECONDS": "6"}
        with serving("--upstream", provider.url, *more, **env) as (process, url):
            reply = post(url, chat_body())
            assert reply.status == 200
            assert process.wait(60) == 0, "nobody asked any more"


def test_check_says_what_is_wrong_with_each_part(redis_config: CacheConfig) -> None:
    redis = {"LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{redis_config.redis_port}"}
    with Provider() as provider:
        port = str(free_port())
        fine = run(
            *("serve", "--check", "--json", "--port", port),
            *("--upstream", provider.url, "--embedder", "lexical"),
            **redis,
        )
        assert fine.returncode == 0, fine.stderr
        assert set(json.loads(fine.stdout)["parts"].values()) == {"ok"}
        plan = " / ".join(json.loads(fine.stdout)["plan"])
        for said in (
            f"listen at 127.0.0.1:{port}",
            "memory, Redis, meaning (lexical)",
            provider.url,
            "no /admin",
        ):
            assert said in plan
    broken = run("serve", "--check", "--upstream", "ftp://x", LIX_CACHE_GATEWAY_TENANTS='[{"name": "/"}]')
    assert broken.returncode == 1
    assert "!!  upstreams[0]: the url" in broken.stdout
    assert "!!  tenants[0]: the name" in broken.stdout
    away = f"http://127.0.0.1:{free_port()}"
    wrong = run(
        *("serve", "--check", "--port", str(free_port()), "--upstream", away),
        LIX_CACHE_REDIS_URL=f"redis://127.0.0.1:{free_port()}",
    )
    assert wrong.returncode == 1
    assert wrong.stdout.count("!!") == 2


@pytest.mark.parametrize("more", [(), ("--workers", "2"), ("--check",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_said_before_anything_else(host: str, more: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            *("serve", "--upstream", "http://127.0.0.1:9", "--host", host, "--port", str(port), *more),
            LIX_CACHE_GATEWAY_REDIS="no",
        )
    assert done.returncode == 1
    said = " ".join((done.stdout + done.stderr).split())
    assert f"port {port} is in use" in said
    assert "lix-cache gateway on" not in said
    assert more == ("--check",) or not done.stdout, "an error goes to the standard error"


@pytest.mark.promise("isolation")
def test_a_demo_shares_no_keys_with_a_gateway(redis_config: CacheConfig) -> None:
    env = {
        "LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{redis_config.redis_port}",
        "LIX_CACHE_REDIS_KEY_PREFIX": redis_config.redis_key_prefix,
    }
    with Redis(port=redis_config.redis_port) as redis, serving("--demo", **env) as (_, url):
        assert post(url, chat_body(), x_session_id="s").status == 200
        start = redis_config.redis_key_prefix

        def found() -> list[bytes]:
            return [key for key in redis.scan_iter(f"{start}*") if key.startswith(start.encode())]

        wait_until(lambda: bool(found()), 30, "what the demo keeps")
        assert all(key.startswith(f"{start}:demo:".encode()) for key in found())


def test_a_check_of_the_demo_says_what_the_demo_has() -> None:
    env = {"LIX_CACHE_GATEWAY_REDIS": "no", "LIX_CACHE_GATEWAY_SNAPSHOT": "/nowhere"}
    done = run("serve", "--demo", "--check", "--port", str(free_port()), **env)
    assert done.returncode == 0, done.stdout
    assert "/nowhere" not in done.stdout, "a demo replaces no snapshot"
    assert "serve /admin behind its key" in done.stdout
    assert "keep sessions" in done.stdout


def test_the_private_redis_ends_with_the_last_gateway(tmp_path: Path) -> None:
    env = {"LIX_CACHE_DATA_DIR": str(tmp_path / "data")}
    env["LIX_CACHE_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    port = free_port()
    with Provider() as provider:
        arguments = ("--embedded", "serve", "--upstream", provider.url, "--port", str(port))
        process = subprocess.Popen(**command(*arguments, **env))
        url = f"http://127.0.0.1:{port}"

        def is_up() -> bool:
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                return bool(ask(url, "GET", "/ready").json["redis"] == "ok")
            except OSError:
                return False

        wait_until(is_up, 60, "the gateway")
        servers = [Redis(unix_socket_path=str(path)) for path in tmp_path.rglob("*.sock")]
        assert [server.ping() for server in servers] == [True]
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    with pytest.raises(RedisConnectionError):
        servers[0].ping()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "--upstream URL"),
        (["serve", "--upstream", "ftp://x"], "must begin with http"),
        (["serve", "--upstream", "http://x", "--host", "0.0.0.0"], "without tenants"),
        (["serve", "--upstream", "http://x", "--volatile", "dates"], "did you mean 'date'"),
        (["serve", "--config", "none.yaml"], "cannot be read"),
        (["serve", "--demo", "--upstream", "http://x"], "--demo brings its own provider"),
        (["serve", "--demo", "--check", "--local", "m.gguf"], "--demo brings its own provider"),
        (["serve", "--hash-key"], "16 characters"),
        (["serve", "--embedded"], "--embedded stands before the command: lix-cache --embedded ... serve"),
        (["serve", "--redis-url", "redis://x"], "--redis-url stands before the command"),
        (["stats", "--prefix", "x"], "--prefix stands before the command: lix-cache --prefix ... stats"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_a_key_becomes_a_digest() -> None:
    assert run("serve", "--hash-key", stdin="a-key-of-sixteen-letters\n").stdout.strip() == digest_of_key(
        "a-key-of-sixteen-letters"
    )


@pytest.mark.promise("no-stall")
def test_a_log_that_is_not_read_stops_no_request_and_no_end() -> None:
    with Provider() as provider, serving("--upstream", provider.url, LIX_CACHE_GATEWAY_REDIS="no") as served:
        process, url = served
        assert process.stdout is not None
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        # Of so many bytes that no pipe holds them.
        model = {**chat_body(), "model": "m" * 100}
        for _ in range(400):
            assert post(url, model).status == 200
        process.terminate()
        assert process.wait(60) == 0


def test_the_help_says_where_redis_is_named() -> None:
    said = " ".join(run("serve", "--help").stdout.split())
    for word in ("Redis", "--redis-url", "--embedded", "LIX_CACHE_REDIS_URL"):
        assert word in said


def test_a_user_of_the_command_line_is_told_of_its_option_and_not_of_a_function() -> None:
    away = {"LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    for arguments in (("stats",), ("serve", "--check", "--upstream", "http://127.0.0.1:9", "--port", "0")):
        done = run(*arguments, **away)
        assert done.returncode == 1
        said = " ".join((done.stdout + done.stderr).split())
        assert "'lix-cache --embedded' starts a private one" in said
        assert "ensure_redis" not in said


def test_a_purge_that_redis_did_not_hear_of_names_its_trouble_once() -> None:
    config = CacheConfig(redis_url=f"redis://127.0.0.1:{free_port()}")
    key = "an-admin-key-of-the-tests"
    with Provider() as provider, RunningGateway(provider, config, admin_key=digest_of_key(key)) as gateway:
        headers = {"authorization": f"Bearer {key}"}
        reply = ask(gateway.url, "POST", "/admin/purge", b'{"tenant": "local"}', headers)
    assert reply.status == 503
    assert reply.json["error"]["message"].count("RedisUnavailable") == 1


def test_a_worker_that_is_told_to_end_while_it_starts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the signal meets it: what a weak reference calls raises nothing."""

    def start(*_: object) -> None:
        def told(_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass

        class Thing:
            pass

        one = Thing()
        _kept = weakref.ref(one, told)
        del one
        os._exit(7)

    monkeypatch.setattr(workers, "run", start)
    handlers: Any = {signal.SIGTERM: lambda *_: sys.exit(0)}
    gateway: Any = SimpleNamespace(has_begun=False)
    child = workers._forked(gateway, [], handlers)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
