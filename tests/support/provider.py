"""A model provider under a test's control, and a gateway in front of it: both real servers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from typing import Any

from aiohttp import web

from lix_cache import CacheConfig
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.gateway.access_log import AccessLog
from lix_cache.gateway.app import Gateway
from lix_cache.gateway.core import Core
from lix_cache.gateway.demo import _PATHS, body_of, events_of
from lix_cache.gateway.serve import server_for
from lix_cache.gateway.settings import GatewaySettings, UpstreamSettings
from tests.support.closing import Closing
from tests.support.waiting import wait_until

__all__ = ["Call", "Provider", "RunningGateway"]


class Call:
    """One request that came."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.method, self.path, self.body = request.method, request.path_qs, body
        self.headers = dict(request.headers)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def do(self, work: Any, seconds: float = 60) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Provider(Closing):
    """Speaks the protocols, and makes the trouble that a test asks for.

    Attributes:
        calls: all requests of generations.
        acts: what the next ones do, in order: ``ok``, a status such as ``429``, ``reset``, ``hang``, ``cut``
            (the connection breaks in the middle), ``short`` (the stream ends before its end), ``malformed``,
            ``error_event``, ``truncated``, ``empty``, ``unknown``. A header ``x-act`` says it for one.
        gate: answers wait for it before their last part.
        holds_said: those in ``said`` do so too.
        headers: of every answer, beside the usual ones.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.acts: deque[str] = deque()
        #: Whole answers of the next requests, as content type and bytes, instead of scripted ones.
        self.said: deque[tuple[str, bytes]] = deque()
        self.holds_said = False
        self.headers = {
            "x-request-id": "req_1",
            "set-cookie": "__cf_bm=a",
            "x-ratelimit-remaining-requests": "9",
        }
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = 0.0
        self.cancelled = 0
        self.retry_after = "0"
        self._loop = _Loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._loop.do(self._start())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.gate.set()
        self._loop.do(self._runner.cleanup())
        self._loop.end()

    def do(self, *acts: str) -> None:
        """Say what the next requests meet."""
        self.acts.extend(acts)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(request, body)
        self.calls.append(call)
        protocol = _PATHS.get(request.path)
        if protocol is None or request.method != "POST":
            return web.json_response(
                {"path": request.path_qs, "method": request.method, "size": len(body)}, headers=self.headers
            )
        # A request may say what it is to meet: who asked for what is then known where many ask at once.
        act = request.headers.get("x-act") or (self.acts.popleft() if self.acts else "ok")
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            return await self._act(act, protocol, call, request)
        except (asyncio.CancelledError, ConnectionResetError):
            # The second is the same, met in the middle of a write.
            self.cancelled += 1
            raise

    async def _act(self, act: str, protocol: str, call: Call, request: web.Request) -> web.StreamResponse:
        if self.said:
            kind, data = self.said.popleft()
            if self.holds_said:
                await self._opened()
            return web.Response(body=data, headers={"content-type": kind, **self.headers})
        if act.isdecimal():
            await self._opened()
            kind = "rate_limit_error" if act == "429" else "api_error"
            error = {"type": "error", "error": {"type": kind, "message": f"scripted {act}", "code": None}}
            headers = {**self.headers, "retry-after": self.retry_after}
            await self._opened()
            return web.json_response(error, status=int(act), headers=headers)
        if act == "reset":
            await self._opened()
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(10)
        if act == "hang":
            await asyncio.sleep(60)
        asked = call.json
        if asked.get("stream"):
            return await self._stream(act, protocol, asked, request)
        value = body_of(protocol, asked)
        data = json.dumps(_spoiled(act, value)).encode()
        if act == "malformed":
            data = data[: len(data) // 2]
        await self._opened()
        if act == "cut":
            response = web.StreamResponse(headers={"content-type": "application/json", **self.headers})
            response.content_length = len(data)
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=data, content_type="application/json", headers=self.headers)

    async def _stream(self, act: str, protocol: str, asked: Any, request: web.Request) -> web.StreamResponse:
        events = events_of(protocol, asked)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **self.headers})
        await response.prepare(request)
        half = len(events) // 2
        for event in events[:half]:
            await response.write(event)
        await self._opened()
        if act == "cut":
            assert request.transport is not None
            request.transport.abort()
            return response
        if act == "malformed":
            await response.write(b"data: {half an event\n\n")
        if act == "error_event":
            error = b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}'
            await response.write(b"event: error\ndata: " + error + b"\n\n")
        if act == "unknown":
            await response.write(b'event: brand_new\ndata: {"type":"brand_new","x":1}\n\n')
        for event in events[half:] if act != "short" else ():
            await response.write(_cut_short(event) if act == "truncated" else event)
        await response.write_eof()
        return response

    async def _opened(self) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.005)


def _cut_short(event: bytes) -> bytes:
    for whole, cut in ((b"stop", b"length"), (b"end_turn", b"max_tokens")):
        event = event.replace(b'_reason":"%b"' % whole, b'_reason":"%b"' % cut)
    if event.startswith(b"event: response.completed\n"):
        said = json.loads(event.partition(b"data: ")[2])
        said.update(type="response.incomplete", response=_spoiled("truncated", said["response"]))
        return b"event: response.incomplete\ndata: " + json.dumps(said).encode() + b"\n\n"
    return event


def _spoiled(act: str, value: dict[str, Any]) -> dict[str, Any]:
    if act == "truncated":
        for choice in value.get("choices", ()):
            choice["finish_reason"] = "length"
        value.update({"stop_reason": "max_tokens"} if "stop_reason" in value else {})
        details = {"reason": "max_output_tokens"}
        value.update({"status": "incomplete", "incomplete_details": details} if "status" in value else {})
    if act == "empty":
        value.update({name: [] for name in ("choices", "content", "output", "data") if name in value})
    if act == "error_event":
        return {"error": {"message": "x", "type": "server_error"}}
    return value


class RunningGateway(Closing):
    """A gateway on a port of 127.0.0.1, in a thread."""

    def __init__(
        self,
        provider: Provider | str,
        config: CacheConfig | None,
        *,
        embedder: Any = None,
        verifier: Any = None,
        log: Any = None,
        environ: Any = None,
        clock: Clock = SYSTEM_CLOCK,
        waits: bool = True,
        **settings: Any,
    ) -> None:
        url = provider if isinstance(provider, str) else provider.url
        # Bound from now on: a port that is only chosen may be another's when the server starts.
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        settings["upstreams"] = settings.get("upstreams") or (UpstreamSettings("default", url),)
        settings.setdefault("redis", config is not None)
        # A slow machine is no Redis that hangs: what takes longer than by default is a miss.
        settings.setdefault("redis_seconds", 20.0)
        settings.setdefault("embedder_seconds", 20.0)
        # Nor is it a provider that cannot be reached.
        settings.setdefault("connect_seconds", 60.0)
        self.settings = GatewaySettings(port=self.port, **settings)
        self.core = Core(
            self.settings,
            config,
            embedder=embedder,
            verifier=verifier,
            log=AccessLog(log, is_on=log is not None),
            clock=clock,
            environ={} if environ is None else environ,
        )
        self.app = Gateway(self.core)
        self._loop = _Loop()
        self._server = server_for(self.app, loop="asyncio", timeout_graceful_shutdown=1)
        self._server.install_signal_handlers = lambda: None
        self._serving = asyncio.run_coroutine_threadsafe(self._server._serve([listener]), self._loop.loop)
        wait_until(lambda: self._server.started or self._serving.done(), what="the start of the gateway")
        if not self._server.started:
            raise RuntimeError(f"the gateway did not start: {self._serving}")
        if waits:  # it serves before
            wait_until(self.has_read, what="what it reads at its start")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.should_exit = True
        self._serving.result(60)
        self._loop.do(_close_redis())
        self._loop.end()

    def has_read(self) -> bool:
        """Whether its models and its snapshot are there."""
        return self.core.warming.is_over and self.core.snapshot.state != "loading"

    def settle(self) -> None:
        """Wait until what was answered is stored everywhere."""
        self._loop.do(self.core.settle())

    def forget(self) -> None:
        """Forget what is in memory, as a new process would."""
        self.settle()
        self.core.memory.purge(lambda entry: True)

    def do(self, work: Any) -> Any:
        """Run something on the gateway's event loop."""
        return self._loop.do(work)


async def _close_redis() -> None:
    from lix_cache import close_async_redis_clients

    await close_async_redis_clients()
