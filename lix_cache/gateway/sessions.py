"""Conversations that clients name by ``X-Session-ID``, kept by the library's session memory.

Only where a setting switches it on: some clients send that header for reasons of their own. A session's
namespace is the tenant's name, which comes from the key and not from the request, so no id reaches another
tenant's sessions.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Collection, Mapping
from typing import Any

from lix_cache._log import logger
from lix_cache.admin import AsyncStoreAdmin
from lix_cache.config import CacheConfig
from lix_cache.coordinator import AsyncCacheCoordinator
from lix_cache.errors import CodecError, LixCacheError, told
from lix_cache.gateway.asgi import Scope, Send, respond
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.request import parse
from lix_cache.gateway.tenants import Tenant
from lix_cache.messages.session_key import SessionKey

__all__ = ["Session", "Sessions"]

_HEADER = "x-session-id"
_LONGEST = 200
_MOST_LISTED = 1000
#: Of the page: sessions or messages at once, and pages of the store that are looked at for one that has any.
_ON_PAGE = 50
_MOST_PAGES = 20
_TURNS = {"chat": "messages", "messages": "messages", "responses": "input"}
_SYSTEM = frozenset({"system", "developer"})


class Session:
    """One conversation, and the turn that is being answered.

    Attributes:
        turn: what the user said; None where that is no text, and the session is left alone.
        lacks_window: it could not be read, so nothing is put before the turn.
    """

    def __init__(self, sessions: Sessions, name: SessionKey) -> None:
        self._sessions = sessions
        self.name = name
        self.turn: str | None = None
        self.lacks_window = False

    async def with_window(self, protocol: str, data: bytes) -> bytes:
        """Return the body with what was said before put in front of the turn, if that is all it has."""
        body = parse(data).value
        field = _TURNS[protocol]
        asked = body.get(field)
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        if not isinstance(turns, list) or not turns or body.get("previous_response_id"):
            return data
        last = turns[-1]
        self.turn = _text_of(last)
        said = [turn for turn in turns if not (isinstance(turn, dict) and turn.get("role") in _SYSTEM)]
        if self.turn is None or len(said) != 1:
            return data  # the client keeps the conversation itself
        window = await self._sessions.window(self.name)
        self.lacks_window = window is None
        if not window:
            return data
        try:
            return dump({**body, field: [*turns[:-1], *window, last]})
        except CodecError:  # half a character, which cannot be written again: the turn goes as it came
            self.lacks_window = True
            return data

    async def add(self, answer: str) -> None:
        """Keep the turn and its answer."""
        if self.turn is not None and answer:
            await self._sessions.add(self.name, self.turn, answer)


def _text_of(turn: Any) -> str | None:
    if not isinstance(turn, Mapping) or turn.get("role") != "user":
        return None
    content = turn.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0].get("text") if content[0].get("type") in ("text", "input_text") else None
    return content if isinstance(content, str) and content else None


class Sessions:
    """All sessions of all tenants."""

    def __init__(self, config: CacheConfig) -> None:
        # A gateway's sessions go on without Redis, and move to disk by themselves.
        self._config = config.replace(on_redis_error="archive", evictor_enabled=True)
        self._locks: weakref.WeakValueDictionary[SessionKey, asyncio.Lock] = weakref.WeakValueDictionary()

    def find(self, tenant: Tenant, headers: Mapping[str, str], protocol: str) -> Session | None:
        """Return the session that a request names, if the tenant's sessions are kept.

        Raises:
            Refused: the name makes no sense.
        """
        name = headers.get(_HEADER, "")
        if not name or not tenant.keeps_sessions or protocol not in _TURNS:
            return None
        return Session(self, _key(tenant.name, name))

    def _coordinator(self, name: SessionKey) -> AsyncCacheCoordinator:
        return AsyncCacheCoordinator(name, self._config)

    async def window(self, name: SessionKey) -> list[dict[str, Any]] | None:
        """Return what was said last, the user first; None if that cannot be read now."""
        try:
            found = await self._coordinator(name).get_context_messages()
        except LixCacheError as error:
            logger.warning("a session could not be read: {}", told(error))
            return None
        turns = [{"role": one["role"], "content": one["content"]} for one in found]
        while turns and turns[0]["role"] != "user":
            turns.pop(0)
        return turns

    async def add(self, name: SessionKey, turn: str, answer: str) -> None:
        """Keep a turn and its answer, side by side."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            session = self._coordinator(name)
            try:
                # In one: a turn without its answer would be asked again in each window.
                turns = [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
                await session.add_messages_to_context(turns)
            except LixCacheError as error:
                logger.error("a turn of a session was not kept: {}", told(error))

    # -- /v1/sessions ------------------------------------------------------------------------

    async def serve(self, scope: Scope, send: Send, tenant: Tenant) -> int:
        """List, show, export or forget sessions of a tenant.

        Raises:
            Refused: it makes no sense, or the store does not answer.
        """
        tenant.check("sessions")
        if not tenant.keeps_sessions:
            raise Refused(404, "no_sessions", "sessions are not switched on (--sessions)")
        try:
            return await self._serve(scope, send, tenant)
        except Refused:
            raise
        except LixCacheError as error:
            # Its text names the store, which is the operator's alone.
            logger.error("sessions could not be served: {}", told(error))
            said = "the sessions cannot be reached now; the gateway's log says why"
            raise Refused(503, "sessions_unavailable", said) from None

    async def _serve(self, scope: Scope, send: Send, tenant: Tenant) -> int:
        parts = scope["path"].split("/")[3:]
        name, what = (parts[0] if parts else ""), (parts[1] if len(parts) > 1 else "")
        method = scope["method"]
        if not name and method == "GET":
            return await _json(send, {"sessions": await self._listed(tenant)})
        if not name or len(parts) > 2 or what not in ("", "export"):
            there = "/v1/sessions, /v1/sessions/ID and /v1/sessions/ID/export"
            raise Refused(404, "unknown_path", f"there are {there}")
        session = self._coordinator(_key(tenant.name, name))
        if method == "DELETE" and not what:
            return await _json(send, {"id": name, "deleted": await session.delete_session()})
        if method != "GET":
            raise Refused(405, "method", "sessions are read by GET and forgotten by DELETE")
        history = await session.context_window.get_full_history()
        if not history:
            raise Refused(404, "unknown_session", "there is no such session")
        if what:
            lines = b"".join(dump(one) + b"\n" for one in history)
            await respond(send, 200, [(b"content-type", b"application/x-ndjson")], lines)
            return 200
        return await _json(send, {"id": name, "messages": history})

    # -- for the page ------------------------------------------------------------------------

    async def page(self, tenants: Collection[str], cursor: str | None) -> dict[str, Any]:
        """Return some sessions of these tenants, the last used first, and where to go on.

        The store may hold sessions of applications too. They are not shown: the gateway's key is not theirs.
        """
        if not tenants:
            return {"sessions": [], "cursor": None}
        admin, found = AsyncStoreAdmin(self._config), []
        (only,) = tenants if len(tenants) == 1 else (None,)
        for _ in range(_MOST_PAGES):
            page = await admin.session_page(_ON_PAGE, cursor, namespace=only)
            cursor = page.cursor
            for one in page.sessions:
                key = one.session_id
                if isinstance(key, SessionKey) and key.namespace in tenants:
                    found.append(
                        {
                            "tenant": key.namespace,
                            "id": key.id,
                            "in_redis": one.hot_messages,
                            "on_disk": one.cold_messages,
                            "last_use": one.last_use,
                        }
                    )
            if found or cursor is None:
                break
        return {"sessions": found, "cursor": cursor}

    async def transcript(self, tenant: str, name: str, before: str | None) -> dict[str, Any]:
        """Return the newest messages of a session, or the newest before one of them."""
        if not name:
            raise Refused(400, "invalid_query", "say which session: tenant and id")
        session = self._coordinator(_key(tenant, name))
        messages = await session.get_messages(_ON_PAGE, before)
        if not messages and before is None:
            raise Refused(404, "unknown_session", "there is no such session")
        return {
            "tenant": tenant,
            "id": name,
            "messages": [{"id": one.id, **one.message} for one in messages],
            "before": messages[0].id if len(messages) == _ON_PAGE else None,
        }

    async def _listed(self, tenant: Tenant) -> list[str]:
        found = await AsyncStoreAdmin(self._config).session_ids(namespace=tenant.name)
        return [one.id for one in found[:_MOST_LISTED] if isinstance(one, SessionKey)]


def _key(tenant: str, name: str) -> SessionKey:
    if len(name) > _LONGEST or not name.isprintable() or "/" in name:
        wanted = f"1 to {_LONGEST} printable characters, no slash"
        raise Refused(400, "invalid_header", f"a session's id must be {wanted}")
    return SessionKey(tenant, name)


async def _json(send: Send, value: Any) -> int:
    await respond(send, 200, [(b"content-type", b"application/json")], dump(value))
    return 200
