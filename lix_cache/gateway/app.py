"""The gateway as an ASGI application. Raw: a framework would cost more than a hit does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from time import perf_counter
from typing import Any

from lix_cache._log import logger
from lix_cache.errors import ConfigError
from lix_cache.errors import told as said
from lix_cache.gateway import headers as words
from lix_cache.gateway.asgi import Gone, Receive, Scope, Send, respond, target_of
from lix_cache.gateway.asker import asker_of
from lix_cache.gateway.cached_path import Exchange
from lix_cache.gateway.core import Core
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Verdict
from lix_cache.gateway.health import Health
from lix_cache.gateway.idling import Used
from lix_cache.gateway.plain_path import pass_through
from lix_cache.gateway.protocols import Protocol, speaking_at
from lix_cache.gateway.relay import Broken
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.vectors_path import EMBEDDINGS, VectorExchange, spoken_at

__all__ = ["Gateway"]


#: What a request is until more is known of it.
_PASSED = Verdict("bypass", "path")
_OWN = frozenset({"admin", "ui", "healthz", "ready", "metrics"})
_NO_ADMIN = (
    "this path is the gateway's own and is not passed on; /admin and /ui need the setting admin_key "
    "('lix-cache serve --hash-key' makes it of a key)"
)


def _is_own(path: str) -> bool:
    """Whether a path is below one of the gateway's own, as a careless server would read it too."""
    for part in path.replace("\\", "/").split("/"):
        first = part.partition(";")[0].strip().lower()
        if first not in ("", "."):
            return first in _OWN
    return False


class Gateway:
    """One process of the gateway.

    Args:
        core: what its requests share.
        reread: reads the settings again, for a reload.
    """

    def __init__(self, core: Core, reread: Callable[[], GatewaySettings] | None = None) -> None:
        self.core = core
        self.health = Health(core)
        self._admin: Any = None
        self._reread = reread
        self._use(core)
        #: What it shares with the other processes that serve its port.
        self.used = Used(1)
        #: Whether the server has begun: from then on it heeds signals itself.
        self.has_begun = False
        self.last_request = core.clock.monotonic()
        #: When the page was last heard of: while it is open it asks for something now and then.
        self.last_page = float("-inf")

    def _use(self, core: Core) -> None:
        self.core = self.health.core = core
        self._admin = None
        if core.settings.admin_key:
            from lix_cache.gateway.admin import admin_app  # a framework that the hot path does without

            self._admin = admin_app(self)

    def reload(self) -> None:
        """Take the settings as they are now: all of them, for the requests that come from here on.

        Raises:
            ConfigError: they make no sense; nothing has changed.
        """
        if self._reread is None:
            raise ConfigError("there is no settings file to read again")
        before = self.core
        self._use(before.reloaded(self._reread()))
        with contextlib.suppress(RuntimeError):  # the parent of several workers serves nothing
            asyncio.get_running_loop()
            self.core.spawn(before.retire())

    def reload_all(self) -> None:
        """Reload, and let the other workers do the same. See :meth:`reload`."""
        self.reload()
        if self.used.has_parent:
            os.kill(self.used.parent, signal.SIGHUP)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        try:
            await receive()
            self.has_begun = True
            # Of several workers the first one reads it, and whichever takes its place.
            self.core.start(reads_snapshot=self.used.number == 0)
            await self.core.begun()
            # Not used from here on, rather than since it was made.
            self.last_request = self.core.clock.monotonic()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.core.close()
            await send({"type": "lifespan.shutdown.complete"})
        except Exception as error:
            # The server's own log is off, for it quotes requests: no other line would tell why it ends.
            logger.error("the gateway cannot start or end: {}", said(error))
            raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        core, path = self.core, scope["path"]
        protocol = spoken_at(path) if scope["method"] == "POST" else None
        if protocol is None and await self._serves_own(scope, receive, send):
            return
        self.last_request = core.clock.monotonic()
        call: Exchange | None = None
        core.metrics.open += 1
        core.users += 1
        status, tenant_name, verdict = 0, "", _PASSED
        try:
            target = target_of(scope)
            asker, headers = asker_of(core, scope)
            tenant = asker.tenant
            tenant_name = tenant.name
            await core.limits.admit(tenant)
            own = core.sessions if path == "/v1/sessions" or path.startswith("/v1/sessions/") else None
            if own is not None:
                if core.overview is not None and scope["method"] == "DELETE":
                    # Its state goes first: stopped here, the session can be deleted again.
                    await core.overview.forget(tenant, path.split("/")[3:])
                status = await own.serve(scope, send, tenant)
                return
            if core.agents is not None and (path == "/v1/agents" or path.startswith("/v1/agents/")):
                status = await core.agents.serve(scope, receive, send, tenant)
                return
            tenant.check("generate" if protocol is not None else "passthrough")
            if protocol is not None and headers.get("content-encoding", "identity").lower() != "identity":
                _check_unread(tenant)
                protocol = None  # the provider may know how to read it
            if protocol is None:
                status = await pass_through(core, scope, receive, send, tenant, headers, target, started)
            else:
                kind = VectorExchange if protocol is EMBEDDINGS else Exchange
                call = kind(core, scope, receive, send, protocol, tenant, headers, started, asker)
                await call.run()
                status, verdict = call.status, call.verdict
        except Refused as error:
            status, verdict = error.status, Verdict("bypass", error.code)
            await _refuse(send, error, protocol, path)
        except (Gone, Broken) as error:
            # Returning without the last piece makes the server close the connection, as the provider did.
            status = call.status if call is not None else 0
            state = call.verdict.state if call is not None else "bypass"
            verdict = Verdict(state, type(error).__name__.lower())
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not show the client our insides
            logger.error("the gateway failed: {}", said(error))
            begun = call is not None and call.status
            status = 500
            if not begun:
                trouble = Refused(500, "internal", "the gateway failed; the log says why")
                await _refuse(send, trouble, protocol, path)
        finally:
            core.metrics.open -= 1
            core.users -= 1
            self._note(core, scope, started, status, tenant_name, verdict, protocol, call)

    async def _serves_own(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer what is below the gateway's own paths, in every spelling: it may hold the admin key.

        Returns:
            False for other paths; nothing was sent.
        """
        if await self.health.answers(scope, send):
            return True
        if not _is_own(scope["path"]):
            return False
        if self._admin is not None:
            self.last_page = self.core.clock.monotonic()
            await self._admin(scope, receive, send)
        else:
            await _refuse(send, Refused(404, "no_admin_key", _NO_ADMIN), None, scope["path"])
        return True

    @staticmethod
    def _note(
        core: Core,
        scope: Scope,
        started: float,
        status: int,
        tenant: str,
        verdict: Verdict,
        protocol: Protocol | None,
        call: Exchange | None,
    ) -> None:
        seconds = perf_counter() - started
        waited = call.waited if call is not None else 0.0
        name = protocol.name if protocol is not None else "other"
        metrics = core.metrics
        metrics.answered(tenant, name, verdict.state, verdict.reason, max(0.0, seconds - waited))
        metrics.statuses[status] += 1
        core.timeline.answered(tenant, verdict.state, verdict.reason, max(0.0, seconds - waited), seconds)
        if verdict.saved is not None:
            metrics.tokens(tenant, verdict.saved, are_saved=True)
            model = call.model if call is not None else ""
            core.timeline.counted(tenant, model, verdict.saved, are_saved=True)
        if core.traces is not None and call is not None:
            core.traces.record(
                call.headers,
                protocol=name,
                tenant=tenant,
                model=call.model,
                status=status,
                verdict=verdict,
                answer=call.answer,
                seconds=seconds,
                waited=waited,
            )
        if not core.log.is_on:
            return
        core.log.write(
            time=round(core.clock.time(), 3),
            tenant=tenant,
            method=scope["method"],
            # What follows may be a name of the application's, such as a session's or a file's.
            path="/".join(scope["path"].split("/")[:3])[:100],
            protocol=name,
            model=(call.model if call is not None else "")[:100],
            status=status,
            cache=verdict.state,
            reason=verdict.reason,
            ms=round(seconds * 1000, 3),
            waited_ms=round(waited * 1000, 3),
        )


def _check_unread(tenant: Tenant) -> None:
    """Refuse a body that the gateway cannot read where it must know what is asked for."""
    if not tenant.is_local:
        raise Refused(415, "content_encoding", "a request's body must come without a content-encoding")


async def _refuse(send: Send, error: Refused, protocol: Protocol | None, path: str) -> None:
    body = (protocol or speaking_at(path)).error_body(error.status, str(error))
    pairs: words.Pairs = [(b"content-type", b"application/json")]
    if error.retry_after is not None:
        pairs.append((b"retry-after", b"%d" % error.retry_after))
    pairs += words.told(Verdict("bypass", error.code), 0.0)
    if error.status in (413, 431) or error.code == "invalid_framing":
        pairs.append((b"connection", b"close"))
    await respond(send, error.status, pairs, body)
