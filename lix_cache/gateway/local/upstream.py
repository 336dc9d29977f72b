"""A local model behind the gateway's protocol of a provider.

What computes runs in threads; the event loop only hands pieces on. A client that leaves halts what is made
for it, while its prompt is being computed as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from lix_cache._log import logger
from lix_cache.errors import EngineBusy, InvalidInput, KvBusy, KvUnavailable, told
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.answering import Begun, Whose, answering, knows_tools
from lix_cache.gateway.local.asking import Asked, asked_of
from lix_cache.gateway.local.calls import Call, with_tools_as_text
from lix_cache.gateway.local.loading import load_model
from lix_cache.gateway.local.reports import Tally, kv_header
from lix_cache.gateway.local.running import Running, anext_of, in_thread
from lix_cache.gateway.local.saying import ChatWriter, Ended, MessagesWriter, Writer, merged_texts
from lix_cache.gateway.local.saying_responses import ResponsesWriter
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.local.store import tenant_of
from lix_cache.gateway.outcomes import new_id
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.protocols import protocol_of, speaking_at
from lix_cache.gateway.request import parse
from lix_cache.gateway.upstream import Incoming, Outgoing, UpstreamFailed
from lix_cache.kv.halting import Halt, halted_by
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.swap import SwappableModel

__all__ = ["LocalUpstream", "refusal_of"]

_WRITERS: dict[str, Callable[..., Writer]] = {
    "chat": ChatWriter,
    "messages": MessagesWriter,
    "responses": ResponsesWriter,
}
_JSON, _STREAM = "application/json", "text/event-stream; charset=utf-8"
_LONGEST_SESSION = 200
#: How often a slot is asked for that is being written, and the pause between.
_TRIES, _PAUSE = 40, 0.05
#: How long the gateway's end waits for a model that is being loaded: what comes later lets go of itself.
_END_SECONDS = 30.0


class _Whole:
    """An answer that is complete."""

    def __init__(
        self, status: int, body: bytes, identity: str, pairs: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.identity = identity
        told = {"content-type": _JSON, "content-length": str(len(body)), **(pairs or {})}
        self.headers = [(name.encode(), value.encode()) for name, value in told.items()]
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body

    def close(self) -> None:
        pass


class _Stream:
    """An answer that is being made."""

    status = 200

    def __init__(self, running: Running, items: AsyncIterator[Any], writer: Writer, begun: Begun) -> None:
        self.identity = begun.identity
        pairs = {"content-type": _STREAM, "cache-control": "no-cache", "x-lix-kv": kv_header(begun)}
        self.headers = [(name.encode(), value.encode()) for name, value in pairs.items()]
        self._running, self._items, self._writer, self._begun = running, items, writer, begun

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._writer.begin(self._begun.usage)
        try:
            async for item in self._items:
                yield _written(self._writer, item)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises
            logger.warning("a local model's answer broke off: {}", told(error))
            raise UpstreamFailed("the local model's answer broke off") from None

    def close(self) -> None:
        self._running.stop()


def _written(writer: Writer, item: str | Call | Ended) -> bytes:
    if isinstance(item, Ended):
        return writer.end(item)
    return writer.call(item) if isinstance(item, Call) else writer.text(item)


class LocalUpstream:
    """A model of this machine, or of a llama-server, that can be exchanged while it serves.

    Args:
        target: folder, GGUF file, or URL of a llama-server.
        settings: of all local models.
        load: for tests.

    Attributes:
        changed: called on the event loop when another model serves.
    """

    def __init__(
        self,
        target: str,
        settings: LocalSettings,
        load: Callable[[str, LocalSettings], LocalModel] | None = None,
    ) -> None:
        self.target = target
        self.state = "unloaded"
        self.changed: Callable[[], None] = lambda: None
        self._known = ""
        self._settings = settings
        self._load = load_model if load is None else load
        self._swappable: SwappableModel | None = None
        self._knows_tools = False
        self._places = asyncio.Semaphore(1)
        self._waiting = 0
        self._loading: asyncio.Task[None] | None = None
        self._swapping = asyncio.Lock()
        self._ending = Halt()
        self._tally = Tally()

    @property
    def identity(self) -> str:
        """What its answers depend on: the model, and no other, whatever its name."""
        swappable = self._swappable
        try:
            return "" if swappable is None else swappable.model.fingerprint.hex
        except EngineBusy:
            return ""

    @property
    def model(self) -> LocalModel:
        """The model that serves.

        Raises:
            EngineBusy: none is loaded.
        """
        if self._swappable is None:
            raise EngineBusy("the local model is not loaded; the gateway's log and /ready say why")
        return self._swappable.model

    def stats(self) -> dict[str, Any]:
        """Return what happened since the gateway's start, whichever model served, and what is in memory.

        Raises:
            EngineBusy: no model is loaded.
        """
        return self._tally.whole(self.model.stats())

    # -- life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load; requests wait for it."""
        if self._loading is None:
            self.state = "loading"
            self._loading = asyncio.get_running_loop().create_task(self._begin())

    async def _begin(self) -> None:
        def load() -> tuple[SwappableModel, bool]:
            made = SwappableModel(lambda: self._loaded(self.target))
            knows = knows_tools(made.model.engine)
            if self._ending.is_set:
                made.close()  # nobody waits for it any more
            return made, knows

        try:
            self._swappable, self._knows_tools = await in_thread(load, self._ending)
            self._use(self.target)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, the gateway lives
            self.state = f"not loaded: {told(error)}"
            logger.error("the local model {!r} was not loaded: {}", self.target, told(error))

    def _loaded(self, target: str) -> LocalModel:
        with halted_by(self._ending):
            return self._load(target, self._settings)

    def _use(self, target: str) -> None:
        engine = self.model.engine
        # After an exchange that was refused the replies of before go on, in the places that they have.
        is_other = not self._known or target != self.target
        self.target, self.state, self._known = target, "ok", self.identity
        logger.info("the local model {!r} is ready", target)
        if is_other:
            self._places = asyncio.Semaphore(1 if engine.is_serial else engine.most_live)
        self.changed()

    async def ready(self) -> None:
        """Wait until it was tried to load the model."""
        self.start()
        if self._loading is not None:
            await asyncio.shield(self._loading)

    async def swap(self, target: str) -> None:
        """Exchange the model: drain, write, unload, load; the old one is loaded again where that fails.

        Raises:
            KvBusy: another exchange is going on, or replies took too long.
            LixCacheError: the new one cannot be loaded.
        """
        await self.ready()
        if self._swapping.locked():
            raise KvBusy("another model is being loaded; try again")
        async with self._swapping:
            # In the thread that loads: the request that asked for it may end.
            await asyncio.shield(asyncio.ensure_future(self._swap(target)))

    async def _swap(self, target: str) -> None:
        def work() -> bool:
            swappable = self._swappable
            if swappable is None or not self.identity:
                # None was loaded, or the one before could not be loaded again either.
                self._swappable = swappable = SwappableModel(lambda: self._loaded(target))
                if self._ending.is_set:
                    swappable.close()  # whoever ended the gateway may not have seen it
            else:
                with self._tally.over(swappable):
                    swappable.swap(lambda: self._loaded(target), self._settings.drain_seconds)
            return knows_tools(self.model.engine)

        self.state = "loading"
        try:
            self._knows_tools = await in_thread(work, stops=False)
        except BaseException:
            try:
                self._use(self.target)
            except EngineBusy:
                self.state = "not loaded"
            raise
        self._use(target)

    async def close(self) -> None:
        """Write everything to disk and unload."""
        self._ending.set()
        if self._loading is not None:
            await asyncio.wait([self._loading], timeout=_END_SECONDS)
        swappable, self._swappable = self._swappable, None
        self.state = "unloaded"
        if swappable is not None:
            await in_thread(swappable.close, stops=False)

    # -- requests ----------------------------------------------------------------------------

    async def send(self, request: Outgoing) -> Incoming:
        """Answer a request; what is wrong with it is an answer with a status."""
        await self.ready()
        path = request.target.partition("?")[0]
        protocol = protocol_of(path)
        try:
            if request.method == "POST" and path == "/v1/messages/count_tokens":
                return await self._counted(request)
            if request.method == "POST" and protocol is not None and protocol.name in _WRITERS:
                return await self._answer(protocol.name, request)
            if request.method in ("GET", "HEAD") and path == "/v1/models":
                return self._listed()
            if path.startswith("/v1/sessions"):
                raise Refused(404, "unknown_path", "the gateway keeps no sessions; start it with --sessions")
            raise Refused(404, "unknown_path", "a local model does not serve this path")
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, the client hears a status
            refused = refusal_of(error)
            speaks = protocol or speaking_at(path)
            pairs = {} if refused.retry_after is None else {"retry-after": str(refused.retry_after)}
            return _Whole(
                refused.status, speaks.error_body(refused.status, str(refused)), self.identity, pairs
            )

    def _listed(self) -> Incoming:
        name = self.target.rstrip("/").rpartition("/")[2]
        one = {"id": name, "object": "model", "created": 0, "owned_by": "local", "fingerprint": self.identity}
        if not self.identity:
            raise EngineBusy(f"the local model is {self.state}")
        return _Whole(200, dump({"object": "list", "data": [one]}), self.identity)

    async def _counted(self, request: Outgoing) -> Incoming:
        asked = asked_of("messages", parse(await _body_of(request)).value, is_counted=True)
        model, knows = self.model, self._knows_tools

        def count() -> int:
            engine = model.engine
            messages, tools = asked.messages, asked.offered
            if not knows:
                messages, tools = with_tools_as_text(messages, tools), []
            return len(engine.start_ids) + len(engine.tokenize(engine.render(messages, tools or None)))

        return _Whole(200, dump({"input_tokens": await in_thread(count)}), self.identity)

    async def _answer(self, protocol: str, request: Outgoing) -> Incoming:
        body = parse(await _body_of(request)).value
        asked = asked_of(protocol, body)
        session = next((value for name, value in request.headers if name.lower() == "x-session-id"), None)
        running, _ = await self.run(asked, Whose(tenant_of(request.tenant), checked_session(session)))
        items = running.items()
        writer = _WRITERS[protocol](asked, str(body.get("model") or ""), new_id(), int(time.time()))
        try:
            begun = await anext_of(items)
            if begun.identity != self._known:
                # A llama-server may be started again with another model.
                self._known = begun.identity
                self.changed()
            if asked.is_stream:
                return _Stream(running, items, writer, begun)
            found = [item async for item in items]
        except BaseException:
            running.stop()
            raise
        ended = found.pop()
        said = dump(writer.body(merged_texts(found), ended))
        return _Whole(200, said, begun.identity, {"x-lix-kv": kv_header(begun)})

    async def run(self, asked: Asked, whose: Whose) -> tuple[Running, str]:
        """Begin an answer, when there is a place for it.

        Returns:
            What makes it, and the identity of the model.

        Raises:
            EngineBusy: too many wait.
        """
        if self._waiting >= self._settings.most_waiting:
            raise EngineBusy("too many requests wait for the local model; try again")
        places = self._places
        self._waiting += 1
        try:
            await places.acquire()
        finally:
            self._waiting -= 1
        try:
            model, knows = self.model, self._knows_tools
            halt = Halt()

            def make() -> Iterator[Any]:
                return _patient(lambda: answering(model, knows, asked, whose, halt), halt)

            return Running(make, halt, places.release), model.fingerprint.hex
        except BaseException:
            places.release()
            raise


def _patient(make: Callable[[], Iterator[Any]], halt: Halt) -> Iterator[Any]:
    """Begin again where a slot is being written at this moment."""
    for number in range(_TRIES):
        made = make()
        try:
            first = next(made, None)
        except EngineBusy:
            if number + 1 == _TRIES or halt.is_set:
                raise
            time.sleep(_PAUSE)
            continue
        with contextlib.closing(made):  # type: ignore[type-var]
            if first is not None:
                yield first
            yield from made
        return


async def _body_of(request: Outgoing) -> bytes:
    if request.body is None or isinstance(request.body, bytes):
        return request.body or b""
    return b"".join([part async for part in request.body])


def checked_session(session: str | None) -> str | None:
    """Return a session's id.

    Raises:
        Refused: it makes no sense.
    """
    if session is not None and (not session.isprintable() or not 0 < len(session) <= _LONGEST_SESSION):
        wanted = f"1 to {_LONGEST_SESSION} printable characters"
        raise Refused(400, "invalid_header", f"a session's id must be {wanted}")
    return session


def refusal_of(error: Exception) -> Refused:
    """Return what a client is told of an error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InvalidInput):
        return Refused(400, "invalid_body", str(error))
    if isinstance(error, (EngineBusy, KvBusy)):
        return Refused(503, "model_busy", str(error), retry_after=3)
    if isinstance(error, KvUnavailable) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(507, "no_room", f"nothing was kept: {error.strerror}")
    logger.error("a local model failed: {}", told(error))
    return Refused(500, "model_failed", "the local model failed; the gateway's log says why")
