"""Agents: conversations that the gateway itself keeps, each with a system prompt and the state of its own.

``/v1/agents`` is the third shape beside OpenAI's and Anthropic's: a client sends only what is new. An agent
is a JSON file below the store's folder, in a folder of its tenant; its id is made here, so no path comes from
a client. A turn is kept when its answer is complete.
"""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from lix_cache._log import logger
from lix_cache.errors import LixCacheError, told
from lix_cache.gateway.answer import Usage as Tokens
from lix_cache.gateway.asgi import Gone, Receive, Scope, Send, headers_of, read_body, respond, watch
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.agent_files import AgentFiles
from lix_cache.gateway.local.answering import Begun, Whose
from lix_cache.gateway.local.asking import asked_of, check_told
from lix_cache.gateway.local.overview import forget_state
from lix_cache.gateway.local.reports import kv_header
from lix_cache.gateway.local.saying import Ended
from lix_cache.gateway.local.store import tenant_of
from lix_cache.gateway.local.upstream import LocalUpstream, refusal_of
from lix_cache.gateway.outcomes import new_id
from lix_cache.gateway.request import parse
from lix_cache.gateway.sse import frame
from lix_cache.gateway.tenants import Tenant
from lix_cache.kv.inspection import sessions
from lix_cache.kv.reply import Usage

if TYPE_CHECKING:
    from lix_cache.gateway.core import Core
    from lix_cache.gateway.local.running import Running

__all__ = ["Agents"]

_ID = re.compile(r"[0-9a-f]{24}\Z")
_MOST_AGENTS = 10_000
_LONGEST_NAME = 200
_THERE = "there are /v1/agents, /v1/agents/ID, /v1/agents/ID/generate and /v1/agents/ID/stats"


class Agents:
    """All agents of all tenants.

    Args:
        core: of the gateway, with its local models; a reload puts another in its place.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._files = AgentFiles(core.settings.local)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def serve(self, scope: Scope, receive: Receive, send: Send, tenant: Tenant) -> int:
        """Answer a request below ``/v1/agents``. Returns the status.

        Raises:
            Refused: it makes no sense, or not now.
        """
        tenant.check("generate")
        try:
            return await self._serve(scope, receive, send, tenant)
        except LixCacheError as error:
            # A model that is being loaded, a disk that refuses: nothing was sent yet.
            raise refusal_of(error) from None

    async def _serve(self, scope: Scope, receive: Receive, send: Send, tenant: Tenant) -> int:
        parts, method = scope["path"].split("/")[3:], scope["method"]
        identity, what = (parts[0] if parts else ""), (parts[1] if len(parts) > 1 else "")
        if len(parts) > 2 or what not in ("", "generate", "stats") or (identity and not _ID.match(identity)):
            raise Refused(404, "unknown_path", _THERE)
        if not identity:
            if method == "POST":
                return await self._create(await self._body(scope, receive), send, tenant)
            return await _json(send, 200, {"agents": await self._all(tenant)}, method == "GET")
        if what == "generate":
            if method != "POST":
                raise _method()
            return await self._generate(identity, scope, receive, send, tenant)
        if method == "DELETE" and not what:
            return await _json(send, 200, await self._delete(identity, tenant))
        agent = await self._read(identity, tenant)
        if what == "stats":
            return await _json(send, 200, await self._stats(agent, tenant), method == "GET")
        return await _json(send, 200, agent, method == "GET")

    async def _body(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        data = await read_body(receive, headers_of(scope), self.core.settings.largest_body_bytes)
        return parse(data or b"{}").value

    def _model(self, name: str) -> LocalUpstream:
        found: LocalUpstream | None = self.core.local.get(name)
        if found is None:
            raise Refused(400, "unknown_model", f"model must be one of {', '.join(self.core.local)}")
        return found

    # -- create, list, show, delete, stats ---------------------------------------------------------

    async def _create(self, body: dict[str, Any], send: Send, tenant: Tenant) -> int:
        check_told(body)
        unknown = body.keys() - {"name", "system", "model"}
        if unknown or not all(isinstance(value, str) for value in body.values()):
            raise Refused(400, "invalid_body", "an agent has name, system and model, all of them texts")
        name = body.get("name", "")
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise Refused(400, "invalid_body", f"name must be at most {_LONGEST_NAME} printable characters")
        model = body.get("model") or next(iter(self.core.local))
        self._model(model)
        tenant.check_model(model)
        if len(await asyncio.to_thread(self._files.ids, tenant.name)) >= _MOST_AGENTS:
            raise Refused(409, "too_many_agents", f"a tenant has {_MOST_AGENTS} agents at most; delete some")
        agent = {
            "id": new_id(),
            "name": name,
            "model": model,
            "system": body.get("system", ""),
            "created": int(time.time()),
            "messages": [],
            "counts": {"calls": 0, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
        }
        await asyncio.to_thread(self._files.write, tenant.name, agent, None)
        return await _json(send, 201, agent)

    async def _all(self, tenant: Tenant) -> list[dict[str, Any]]:
        def look() -> list[dict[str, Any]]:
            found = []
            for identity in self._files.ids(tenant.name):
                agent = self._files.read(tenant.name, identity)
                if agent is not None:
                    kept = {key: agent[key] for key in ("id", "name", "model", "created")}
                    found.append({**kept, "messages": len(agent["messages"])})
            return sorted(found, key=lambda one: (one["created"], one["id"]))

        return await asyncio.to_thread(look)

    async def _read(self, identity: str, tenant: Tenant) -> dict[str, Any]:
        agent = await asyncio.to_thread(self._files.read, tenant.name, identity)
        if agent is None:
            raise Refused(404, "unknown_agent", "there is no such agent")
        return agent

    async def _delete(self, identity: str, tenant: Tenant) -> dict[str, Any]:
        async with self._lock(identity):
            await self._read(identity, tenant)

            def forget() -> bool:
                # The file last: stopped before, the agent can be deleted again.
                forget_state(self.core.local.values(), self._files.store, tenant.name, _session(identity))
                return self._files.remove(tenant.name, identity)

            return {"id": identity, "deleted": await asyncio.to_thread(forget)}

    async def _stats(self, agent: dict[str, Any], tenant: Tenant) -> dict[str, Any]:
        def look() -> list[dict[str, Any]]:
            return [
                {
                    "model": one.model,
                    "tokens": one.tokens,
                    "stored_tokens": one.stored_tokens,
                    "bytes": one.bytes,
                    "shared_bytes": one.shared_bytes,
                    "pinned": one.pinned,
                }
                for one in sessions(self._files.store, tenant_of(tenant.name))
                if one.session == _session(agent["id"])
            ]

        told = {"id": agent["id"], "messages": len(agent["messages"]), **agent["counts"]}
        return {**told, "stored": await asyncio.to_thread(look)}

    # -- generate ----------------------------------------------------------------------------------

    async def _generate(
        self, identity: str, scope: Scope, receive: Receive, send: Send, tenant: Tenant
    ) -> int:
        body = await self._body(scope, receive)
        check_told(body)
        said = body.pop("prompt", None)
        unknown = body.keys() - {"max_tokens", "temperature", "top_p", "seed", "stop", "stream"}
        if unknown or not isinstance(said, str) or not said:
            raise Refused(
                400, "invalid_body", "send prompt, a text; and options of chat completions if you like"
            )
        async with self._lock(identity):
            version = await asyncio.to_thread(self._files.version, tenant.name, identity)
            agent = await self._read(identity, tenant)
            tenant.check_model(agent["model"])
            await self.core.limits.check_budget(tenant)
            system = [{"role": "system", "content": agent["system"]}] if agent["system"] else []
            turn = {"role": "user", "content": said}
            asked = asked_of("chat", {**body, "messages": [*system, *agent["messages"], turn]})
            upstream = self._model(agent["model"])
            try:
                await upstream.ready()
                whose = Whose(tenant_of(tenant.name), _session(identity))
                running, _ = await upstream.run(asked, whose)
            except Exception as error:  # noqa: BLE001 - whatever an engine raises
                raise refusal_of(error) from None
            watcher = watch(scope, receive, lambda _: running.stop())
            said_so_far = _Said()
            try:
                ended = await self._relay(running, send, said_so_far, is_stream=asked.is_stream)
            finally:
                watcher.cancel()
                running.stop()
                # Half an answer costs too: a client that leaves would pay for none.
                usage = said_so_far.usage
                tokens = Tokens(usage.prompt_tokens, usage.completion_tokens)
                self.core.spent(tenant, tokens, agent["model"], is_told=said_so_far.is_whole)
            text = "".join(said_so_far.pieces)
            agent["messages"] += [turn, {"role": "assistant", "content": text}]
            for name, count in {"calls": 1, **_told(usage)}.items():
                agent["counts"][name] = agent["counts"].get(name, 0) + count
            try:
                await asyncio.to_thread(self._files.write, tenant.name, agent, version)
            except (Refused, LixCacheError) as error:
                if asked.is_stream:
                    logger.warning("an agent's turn was not kept: {}", told(error))
                    raise Gone from None  # without its last event: what was said is not remembered
                raise
            if asked.is_stream:
                last = {"finish_reason": ended.reason, "usage": _told(usage)}
                data = frame(orjson.dumps(last)) + frame(b"[DONE]")
                await send({"type": "http.response.body", "body": data})
                return 200
            made = {"id": identity, "text": text, "finish_reason": ended.reason, "usage": _told(usage)}
            return await _json(send, 200, made)

    async def _relay(self, running: Running, send: Send, said: _Said, *, is_stream: bool) -> Ended:
        """Pass on what is said. The last event comes when the turn is kept."""
        has_begun = False
        try:
            async for item in running.items():
                said.take(item)
                if isinstance(item, Ended):
                    return item
                if is_stream:
                    has_begun = True
                    await _streamed(send, item)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises
            if has_begun:
                raise Gone from None  # half an answer ends before its end
            raise refusal_of(error) from None
        raise Gone

    def _lock(self, identity: str) -> asyncio.Lock:
        return self._locks.setdefault(identity, asyncio.Lock())


class _Said:
    """What a model has said so far, and what that cost.

    Attributes:
        pieces: of the text.
        usage: the engine's at the end; before that the prompt's, and a token for each piece.
        is_whole: the engine has said the end.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.usage = Usage(0, 0, 0)
        self.is_whole = False

    def take(self, item: Any) -> None:
        """Take the next thing that the model's run yields."""
        if isinstance(item, str):
            self.pieces.append(item)
            self.usage = replace(self.usage, completion_tokens=len(self.pieces))
        elif isinstance(item, Begun | Ended):
            self.usage, self.is_whole = item.usage, isinstance(item, Ended)


async def _streamed(send: Send, item: Any) -> None:
    if isinstance(item, Begun):
        pairs = {"content-type": "text/event-stream; charset=utf-8", "x-lix-kv": kv_header(item)}
        headers = [(name.encode(), value.encode()) for name, value in pairs.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    elif isinstance(item, str):
        data = frame(orjson.dumps({"text": item}))
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _session(identity: str) -> str:
    return f"agent-{identity}"


def _told(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _method() -> Refused:
    return Refused(405, "method", _THERE)


async def _json(send: Send, status: int, value: Any, is_allowed: bool = True) -> int:
    if not is_allowed:
        raise _method()
    await respond(send, status, [(b"content-type", b"application/json")], orjson.dumps(value))
    return status
