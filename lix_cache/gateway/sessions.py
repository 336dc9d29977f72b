"""Conversations that clients name by ``X-Session-ID``, kept by the library's session memory.

Only where a setting switches it on: some clients send that header for reasons of their own. A session's
namespace is the tenant's name, which comes from the key and not from the request, so no id reaches another
tenant's sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lix_cache._log import logger
from lix_cache.admin import AsyncStoreAdmin
from lix_cache.clock import Clock
from lix_cache.config import CacheConfig
from lix_cache.coordinator import AsyncCacheCoordinator
from lix_cache.errors import (
    ArchiveBusy,
    ArchiveMismatch,
    ArchiveUnavailable,
    LayoutMismatch,
    LixCacheError,
    RedisUnavailable,
    told,
)
from lix_cache.gateway.asgi import Scope, Send, goes_upwards, respond
from lix_cache.gateway.deletions import Marks
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.plain_json import put_before_last, spelled
from lix_cache.gateway.request import parse
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.tiers import RedisTier
from lix_cache.gateway.undone import Undone
from lix_cache.messages.session_key import SessionKey, stored_id
from lix_cache.session.evictor import evictor_for
from lix_cache.session.layout import AsyncStoreDriver, agree
from lix_cache.session.store import open_store

__all__ = ["Session", "Sessions"]

_HEADER = "x-session-id"
_LONGEST = 200
_MOST_LISTED = 1000
#: Of the page: sessions or messages at once, and pages of the store that are looked at for one that has any.
_ON_PAGE = 50
_MOST_PAGES = 20
_TURNS = {"chat": "messages", "messages": "messages", "responses": "input"}
#: Fields that name a conversation, or the beginning of one, which the provider puts before the turn itself.
_KEPT_THERE = (
    *("previous_response_id", "conversation", "prompt"),
    *("conversation_id", "session_id", "chat_id", "thread_id", "assistant_id", "agent_id"),
)
_SYSTEM = frozenset({"system", "developer"})
#: The sessions are in another archive, or found by another number: none is kept until that is mended.
_ELSEWHERE = (ArchiveMismatch, LayoutMismatch)


class Session:
    """One conversation, and the turn that is being answered.

    Attributes:
        turn: what the user said; None where that is no text, and the session is left alone.
        trouble: a word for the client; "" for none. ``unavailable``: it could not be read, so nothing is put
            before the turn. ``not-kept``: nor is the turn kept, for the archive is not that of the sessions.
        begun: when the turn came, Unix seconds.
        is_deleted: it was deleted since.
    """

    def __init__(self, sessions: Sessions, name: SessionKey, begun: float) -> None:
        self._sessions = sessions
        self.name = name
        self.begun = begun
        self.is_deleted = False
        self.turn: str | None = None
        self.trouble = ""

    async def with_window(self, protocol: str, data: bytes) -> bytes:
        """Return the body with what was said before put in front of the turn, if that is all it has."""
        body = parse(data).value
        field = _TURNS[protocol]
        asked = body.get(field)
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        if not isinstance(turns, list) or not turns or any(body.get(name) for name in _KEPT_THERE):
            return data  # or the provider does: it would see the turns twice
        last = turns[-1]
        self.turn = _text_of(last)
        said = [turn for turn in turns if not (isinstance(turn, dict) and turn.get("role") in _SYSTEM)]
        if self.turn is None:
            return data
        try:
            if len(said) != 1:
                await self._sessions.check_archive()
                return data  # the client keeps the conversation itself
            window = await self._sessions.window(self.name)
        except _ELSEWHERE as error:
            logger.error("a turn of a session is not kept: {}", told(error))
            self.turn, self.trouble = None, "not-kept"
            return data
        self.trouble = "unavailable" if window is None else ""
        return put_before_last(data, field, window) if window else data

    async def add(self, answer: str) -> None:
        """Keep the turn and its answer."""
        if self.turn is not None and answer:
            await self._sessions.add(self, self.turn, answer)


def _text_of(turn: Any) -> str | None:
    if not isinstance(turn, Mapping) or turn.get("role") != "user":
        return None
    content = turn.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0].get("text") if content[0].get("type") in ("text", "input_text") else None
    return content if isinstance(content, str) and content else None


class Sessions:
    """All sessions of all tenants."""

    def __init__(self, config: CacheConfig, redis: RedisTier, clock: Clock, undone: Undone) -> None:
        self._marks = Marks(redis, "deleted-session")
        self._clock = clock
        self._undone = undone
        #: Turns that were kept, of which it is not known yet whether their session was deleted before.
        self._added: defaultdict[SessionKey, list[tuple[Session, Sequence[str]]]] = defaultdict(list)
        #: Those whose turns are being answered, in this process.
        self._under_way: weakref.WeakSet[Session] = weakref.WeakSet()
        # A gateway's sessions go on without Redis, and move to disk by themselves.
        self._config = config.replace(on_redis_error="archive", evictor_enabled=True)
        # What the archive has alone is a part, and no reader could tell: a read has both tiers, or fails.
        self._whole = self._config.replace(on_redis_error="raise")
        # Open: Redis did not answer a moment ago, and none is to wait for it. All who use the store trip it.
        self._store = evictor_for(open_store(self._config)).store
        self._locks: weakref.WeakValueDictionary[SessionKey, asyncio.Lock] = weakref.WeakValueDictionary()

    def find(self, tenant: Tenant, headers: Mapping[str, str], protocol: str) -> Session | None:
        """Return the session that a request names, if the tenant's sessions are kept.

        Raises:
            Refused: the name makes no sense.
        """
        name = headers.get(_HEADER, "")
        if not name or not tenant.keeps_sessions or protocol not in _TURNS:
            return None
        session = Session(self, _key(tenant.name, _as_in_paths(name)), self._clock.time())
        self._under_way.add(session)
        return session

    def _coordinator(self, name: SessionKey) -> AsyncCacheCoordinator:
        return AsyncCacheCoordinator(name, self._config)

    def _reader(self, name: SessionKey) -> AsyncCacheCoordinator:
        """Return what shows all of a session, or raises."""
        self._check_redis(name)
        return AsyncCacheCoordinator(name, self._whole)

    def _check_redis(self, name: SessionKey | None = None) -> None:
        breaker = self._store.breaker if name is None else self._store.breaker_of(stored_id(name))
        if breaker.is_open:
            raise RedisUnavailable("the Redis of the sessions did not answer a moment ago", was_asked=False)

    async def check_archive(self, *, notes: bool = True) -> None:
        """See that the archive is that of the sessions in Redis: once, and no trip from then on.

        Args:
            notes: note ours where Redis names none yet.

        Raises:
            ArchiveMismatch, LayoutMismatch: it is another one.
        """
        layout = self._store.layout
        if not (layout.in_redis and layout.in_archive):
            await AsyncStoreDriver(self._store).unchecked(agree(self._store, notes=notes))

    async def trouble(self) -> str:
        """Return why no session can be kept, and what to do; "" if nothing is known to be wrong."""
        try:
            await self.check_archive(notes=False)
        except _ELSEWHERE as error:
            return told(error)
        return ""

    async def window(self, name: SessionKey) -> list[dict[str, Any]] | None:
        """Return what was said last, the user first; None if not all of that can be read now.

        Raises:
            ArchiveMismatch, LayoutMismatch: see :meth:`check_archive`.
        """
        try:
            found = await self._reader(name).get_context_messages()
        except _ELSEWHERE:
            raise
        except LixCacheError as error:
            logger.warning("a session could not be read: {}", told(error))
            return None
        turns = [{"role": one["role"], "content": one["content"]} for one in found]
        while turns and turns[0]["role"] != "user":
            turns.pop(0)
        return turns

    async def add(self, session: Session, turn: str, answer: str) -> None:
        """Keep a turn and its answer, side by side, unless their session was deleted since the turn came."""
        async with self._lock(session.name):
            try:
                # Where Redis does not tell, the turn goes to disk meanwhile, as all turns do then.
                if await self._was_deleted(session):
                    return
                kept = self._coordinator(session.name)
                # In one: a turn without its answer would be asked again in each window.
                turns = [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
                added = await kept.add_messages_to_context(turns)
            except LixCacheError as error:
                logger.error("a turn of a session was not kept: {}", told(error))
                return
            self._added[session.name].append((session, added.ids))
            tenant = session.name.namespace or ""
            work = partial(self._take_out, session.name)
            await self._undone.surely(("session", tenant), session.name.id, work)

    async def _take_out(self, name: SessionKey) -> bool:
        """Delete turns if their session was deleted by another worker, which may not have seen them.

        Returns:
            False if that is not known, or not done.
        """
        turns = list(self._added.get(name, ()))
        sessions = sorted((session for session, _ in turns), key=lambda one: (not one.is_deleted, one.begun))
        try:
            # Where it was not deleted since the oldest of them came, one look tells it of all.
            if sessions and await self._was_deleted(sessions[0]) is not False:
                for session, ids in turns:
                    if not await self._is_taken_out(session, ids):
                        return False
        except LixCacheError as error:
            logger.warning("a turn of a deleted session is still there: {}", told(error))
            return False
        left = [turn for turn in self._added.pop(name, ()) if turn not in turns]
        if left:
            self._added[name] = left
        return True

    async def _is_taken_out(self, session: Session, ids: Sequence[str]) -> bool:
        was_deleted = await self._was_deleted(session)
        for message_id in ids if was_deleted else ():
            await self._coordinator(session.name).delete_message(message_id)
        return was_deleted is not None

    def _lock(self, name: SessionKey) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _was_deleted(self, session: Session) -> bool | None:
        """Whether a session was deleted since its turn came; None if Redis does not tell."""
        name = session.name
        return session.is_deleted or await self._marks.has(name.namespace or "", name.id, session.begun)

    # -- /v1/sessions ------------------------------------------------------------------------

    async def serve(self, scope: Scope, send: Send, tenant: Tenant) -> int:
        """List, show, export or forget sessions of a tenant.

        Raises:
            Refused: it makes no sense, or a tier of the sessions does not answer.
        """
        try:
            return await self._serve(scope, send, tenant)
        except (RedisUnavailable, ArchiveBusy, ArchiveUnavailable) as error:
            logger.warning("sessions could not be served: {}", told(error))
            trouble = "the sessions are out of reach for now; ask again"
            raise Refused(503, "sessions_unavailable", trouble, retry_after=1) from error
        except _ELSEWHERE as error:
            logger.error("sessions could not be served: {}", told(error))
            # It names folders of this machine, and is for who runs the gateway.
            trouble = told(error) if tenant.is_local else "they are in another archive; see the log"
            raise Refused(503, "sessions_unavailable", trouble) from error

    async def _serve(self, scope: Scope, send: Send, tenant: Tenant) -> int:
        tenant.check("sessions")
        if not tenant.keeps_sessions:
            raise Refused(404, "no_sessions", "sessions are not switched on (--sessions)")
        parts = scope["path"].split("/")[3:]
        name, what = (parts[0] if parts else ""), (parts[1] if len(parts) > 1 else "")
        method = scope["method"]
        if not name and method == "GET":
            return await _json(send, {"sessions": await self._listed(tenant)})
        if not name or len(parts) > 2 or what not in ("", "export"):
            there = "/v1/sessions, /v1/sessions/ID and /v1/sessions/ID/export"
            raise Refused(404, "unknown_path", f"there are {there}")
        key = _key(tenant.name, name)
        if method == "DELETE" and not what:
            return await _json(send, {"id": name, "deleted": await self._deleted(key)})
        if method != "GET":
            raise Refused(405, "method", "sessions are read by GET and forgotten by DELETE")
        history = await self._reader(key).context_window.get_full_history()
        if not history:
            raise Refused(404, "unknown_session", "there is no such session")
        if what:
            lines = b"".join(spelled(one) + b"\n" for one in history)
            await respond(send, 200, [(b"content-type", b"application/x-ndjson")], lines)
            return 200
        return await _json(send, {"id": name, "messages": history})

    async def _deleted(self, name: SessionKey) -> bool:
        """Forget a session, with the turns that are being answered; False if nothing was kept yet."""
        self._check_redis(name)
        await self.check_archive()  # before anything is noted
        # Noted first: a turn that is added from here on is taken out by the worker that adds it.
        for session in [one for one in self._under_way if one.name == name]:
            session.is_deleted = True
        if not await self._marks.mark(name.namespace or "", name.id, self._clock.time()):
            raise RedisUnavailable("the deletion could not be noted; nothing was deleted")
        async with self._lock(name):
            return await self._coordinator(name).delete_session()

    # -- for the page ------------------------------------------------------------------------

    async def page(self, tenants: Collection[str], cursor: str | None) -> dict[str, Any]:
        """Return some sessions of these tenants, the last used first, and where to go on.

        The store may hold sessions of applications too. They are not shown: the gateway's key is not theirs.
        """
        if not tenants:
            return {"sessions": [], "cursor": None}
        found: list[dict[str, Any]] = []
        (only,) = tenants if len(tenants) == 1 else (None,)
        for _ in range(_MOST_PAGES):
            with self._admin() as admin:
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
        messages = await self._reader(_key(tenant, name)).get_messages(_ON_PAGE, before)
        if not messages and before is None:
            raise Refused(404, "unknown_session", "there is no such session")
        return {
            "tenant": tenant,
            "id": name,
            "messages": [{"id": one.id, **one.message} for one in messages],
            "before": messages[0].id if len(messages) == _ON_PAGE else None,
        }

    @contextlib.contextmanager
    def _admin(self) -> Iterator[AsyncStoreAdmin]:
        """Give what looks at the whole store, unless Redis did not answer a moment ago."""
        self._check_redis()
        try:
            yield AsyncStoreAdmin(self._whole)
        except RedisUnavailable as error:
            self._store.breaker.met(error)  # an admin has a breaker of its own
            raise

    async def _listed(self, tenant: Tenant) -> list[str]:
        with self._admin() as admin:
            found = await admin.session_ids(namespace=tenant.name)
        return [one.id for one in found[:_MOST_LISTED] if isinstance(one, SessionKey)]


def _key(tenant: str, name: str) -> SessionKey:
    # What no path can name could neither be read nor deleted again.
    if len(name) > _LONGEST or not name.isprintable() or "/" in name or name == "." or goes_upwards(name):
        wanted = f"1 to {_LONGEST} printable characters, no slash, and not '.' or '..'"
        raise Refused(400, "invalid_header", f"a session's id must be {wanted}")
    return SessionKey(tenant, name)


def _as_in_paths(header: str) -> str:
    """Return a header's value read as the UTF-8 that paths are, if it is that: one id has one name."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


async def _json(send: Send, value: Any) -> int:
    await respond(send, 200, [(b"content-type", b"application/json")], spelled(value))
    return 200
