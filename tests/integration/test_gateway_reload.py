"""New settings while it runs: all of them or none, without a request that fails; and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.app import Gateway
from lix_cache.gateway.settings import GatewaySettings, TenantSettings, UpstreamSettings, read_settings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import Reply, ask, chat_body, post

ANN, BOB, ADMIN = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef", "admin-key-0123456789abcdef"


def tenant(name: str, key: str, **more: Any) -> TenantSettings:
    return TenantSettings(name, (digest_of_key(key),), **more)


def admin(gateway: RunningGateway, path: str, body: Any = None) -> Reply:
    data = json.dumps(body or {}).encode()
    return ask(gateway.url, "POST", f"/admin/{path}", data, {"authorization": f"Bearer {ADMIN}"})


def rereading(gateway: RunningGateway, reread: Callable[[], GatewaySettings]) -> Gateway:
    gateway.app._reread = reread
    return gateway.app


def test_new_settings_hold_for_the_next_request_and_what_is_stored_stays(
    provider: Provider, redis_config: CacheConfig
) -> None:
    first = (tenant("ann", ANN, tokens_per_day=1000),)
    with (
        RunningGateway(provider, redis_config, tenants=first, admin_key=digest_of_key(ADMIN)) as gateway,
        Provider() as other,
    ):
        post(gateway.url, chat_body(), authorization=ANN)
        assert post(gateway.url, chat_body(), authorization=BOB).status == 401
        upstreams = (UpstreamSettings("default", other.url),)
        both = (*first, tenant("bob", BOB))
        changed = {**vars(gateway.settings), "tenants": both, "upstreams": upstreams, "ttl_seconds": 60.0}
        app = rereading(gateway, lambda: GatewaySettings(**changed))
        before = gateway.app.core
        provider.gate.clear()
        slow: list[Reply] = []
        thread = threading.Thread(
            target=lambda: slow.append(post(gateway.url, chat_body("Slow?"), authorization=ANN))
        )
        thread.start()
        wait_until(lambda: len(provider.calls) == 2, what="the slow request")
        assert admin(gateway, "reload").json == {"reloaded": True}
        assert app.core is not before
        assert post(gateway.url, chat_body(), authorization=ANN).state == "hit-l1-exact"
        assert post(gateway.url, chat_body(), authorization=BOB).status == 200
        assert (len(provider.calls), len(other.calls)) == (2, 1)
        provider.gate.set()
        thread.join(60)
        assert slow[0].status == 200
        assert slow[0].is_whole
        wait_until(lambda: before.routes.routes[0].upstream._session is None, what="the old connections' end")
        assert app.core.tenants.tenants["ann"]._tokens > 0, "what was spent is not forgotten"
        assert post(gateway.url, chat_body("Slow?"), authorization=ANN).state == "hit-l1-exact"


@pytest.mark.promise("no-loss")
def test_a_request_that_runs_outlasts_the_reload_after_the_next(
    provider: Provider, redis_config: CacheConfig
) -> None:
    goes_on = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf,")
            goes_on.wait(60)
            connection.sendall(b" all.")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        slow = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with RunningGateway(slow, redis_config, admin_key=digest_of_key(ADMIN)) as gateway:
            upstream = gateway.core.routes.routes[0].upstream
            replies: list[Reply] = []
            asking = threading.Thread(
                target=lambda: replies.append(ask(gateway.url, "GET", "/v1/files/f/content"))
            )
            asking.start()
            wait_until(lambda: gateway.core.users == 1 and upstream._session is not None, what="the request")
            for url in (slow, provider.url):
                upstreams = (UpstreamSettings("default", url),)
                changed = GatewaySettings(**{**vars(gateway.settings), "upstreams": upstreams})
                rereading(gateway, lambda changed=changed: changed)  # type: ignore[misc]
                assert admin(gateway, "reload").json == {"reloaded": True}
            assert upstream._session is not None, "the first one's request uses what the second one dropped"
            goes_on.set()
            asking.join(60)
            assert [(reply.status, reply.body, reply.is_whole) for reply in replies] == [
                (200, b"half, all.", True)
            ]
            wait_until(lambda: upstream._session is None, what="its end")
            assert post(gateway.url, chat_body()).status == 200


@pytest.mark.promise("isolation")
def test_a_reload_that_names_a_key_which_is_not_set_changes_nothing(provider: Provider) -> None:
    with RunningGateway(provider, None, admin_key=digest_of_key(ADMIN)) as gateway:
        named = UpstreamSettings("default", provider.url, api_key_env="NOT_SET")
        changed = {**vars(gateway.settings), "upstreams": (named,), "ttl_seconds": 60.0}
        app = rereading(gateway, lambda: GatewaySettings(**changed))
        before = app.core
        reply = admin(gateway, "reload")
        assert reply.status >= 400
        assert "the variable 'NOT_SET' with a provider's key is not set" in reply.json["error"]["message"]
        assert app.core is before
        assert before.settings is gateway.settings
        assert before.routes.routes[0].settings.api_key_env == ""


def test_a_file_that_makes_no_sense_changes_nothing_and_is_said(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    with RunningGateway(provider, redis_config, admin_key=digest_of_key(ADMIN)) as gateway:
        app = rereading(
            gateway,
            lambda: read_settings(
                str(file),
                {},
                port=gateway.port,
                admin_key=digest_of_key(ADMIN),
                redis_seconds=gateway.settings.redis_seconds,
                connect_seconds=gateway.settings.connect_seconds,
            ),
        )
        before = app.core
        upstreams = f"upstreams: [{{name: default, url: '{provider.url}'}}]\naccess_log: true\n"
        for text, said in (
            ("{", "not valid YAML"),
            ("ttl_second: 5", "did you mean 'ttl_seconds'"),
            ("tenants: [{name: a/b}]", "tenant"),
            ("ttl_seconds: 5", "needs a provider"),
            (upstreams + "memory_bytes: 5", "memory_bytes cannot change"),
        ):
            file.write_text(text)
            reply = admin(gateway, "reload")
            assert (reply.status, reply.json["error"]["type"]) == (422, "invalid_settings")
            assert said in reply.json["error"]["message"]
            assert app.core is before
        file.write_text(upstreams + "ttl_seconds: 5")
        assert admin(gateway, "reload").json == {"reloaded": True}
        assert app.core.settings.ttl_seconds == 5
        # The same provider: its connections and what is known of it go on.
        assert app.core.routes.routes[0].upstream is before.routes.routes[0].upstream
        assert post(gateway.url, chat_body()).status == 200


@contextmanager
def serving(file: Path, port: int, *more: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
    command = [sys.executable, "-m", "lix_cache.cli", "serve", "--config", str(file), "--port", str(port)]
    with log_of(file).open("wb") as log:
        process = subprocess.Popen(
            [*command, *more], env={**clean, **env}, stdout=subprocess.DEVNULL, stderr=log
        )

    def is_up() -> bool:
        assert process.poll() is None, log_of(file).read_text()
        try:
            return ask(f"http://127.0.0.1:{port}", "GET", "/healthz").status == 200
        except OSError:
            return False

    try:
        wait_until(is_up, 60, "the gateway")
        yield process
    finally:
        process.terminate()
        process.wait(60)


def log_of(file: Path) -> Path:
    return file.with_suffix(".log")


def test_a_signal_reloads_all_workers(provider: Provider, tmp_path: Path) -> None:
    file, port = tmp_path / "gateway.yaml", free_port()
    url = f"http://127.0.0.1:{port}"

    def write(key: str) -> None:
        file.write_text(
            f"redis: false\nupstreams: [{{name: a, url: '{provider.url}'}}]\n"
            f"tenants: [{{name: ann, keys: ['{digest_of_key(key)}']}}]\n"
        )

    def statuses(key: str) -> set[int]:
        return {post(url, chat_body(), authorization=key).status for _ in range(12)}

    write(ANN)
    with serving(file, port, "--workers", "2") as process:
        assert statuses(ANN) == {200}
        write(BOB)
        process.send_signal(signal.SIGHUP)
        # Which worker takes a connection is chance: one that still has the old settings may come late.
        wait_until(lambda: (statuses(BOB), statuses(ANN)) == ({200}, {401}), what="the new settings")
        file.write_text("nonsense: 1")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "were not reloaded" in log_of(file).read_text(), what="the word about it")
        assert statuses(BOB) == {200}, "the old settings stay"


def test_it_drains_requests_that_run_and_refuses_new_ones(provider: Provider, tmp_path: Path) -> None:
    file, port = tmp_path / "gateway.yaml", free_port()
    url = f"http://127.0.0.1:{port}"
    file.write_text(f"redis: false\nupstreams: [{{name: a, url: '{provider.url}'}}]\n")
    with serving(file, port) as process:
        provider.gate.clear()
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda s=s: replies.append(post(url, chat_body(f"q{s}", stream=s))))
            for s in (True, False)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(provider.calls) == 2, what="both requests")
        process.terminate()

        def is_closed() -> bool:
            try:
                ask(url, "GET", "/healthz")
            except OSError:
                return True
            return False

        wait_until(is_closed, what="the listener's end")
        assert process.poll() is None, "two requests run"
        provider.gate.set()
        for thread in threads:
            thread.join(60)
        assert [(reply.status, reply.is_whole) for reply in replies] == [(200, True)] * 2
        assert process.wait(30) in (0, -signal.SIGTERM)
