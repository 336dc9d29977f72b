"""The way of a request that may be answered from the cache."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.errors import told as said
from lix_cache.gateway import headers as words
from lix_cache.gateway.answer import Answer, Incomplete, Usage
from lix_cache.gateway.asgi import Receive, Scope, Send, cutting, read_body, respond, watch
from lix_cache.gateway.asker import Asker
from lix_cache.gateway.by_meaning import Meant, Place
from lix_cache.gateway.eligibility import wants_zero_temperature
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.following import follow
from lix_cache.gateway.headers import Control, Verdict
from lix_cache.gateway.outcomes import Keep, let_go, new_id, not_cached, unanswered
from lix_cache.gateway.prepared import Prepared
from lix_cache.gateway.protocols import Protocol
from lix_cache.gateway.relay import Flight, Head, Reader
from lix_cache.gateway.renaming import Renamed, RenamedBody
from lix_cache.gateway.request import parse
from lix_cache.gateway.spending import Meter
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.tiers import Entry
from lix_cache.gateway.upstream import Outgoing, Route, UpstreamFailed

if TYPE_CHECKING:
    from lix_cache.gateway.core import Core

__all__ = ["Exchange"]

#: Until it is known how a request is answered.
_UNKNOWN = Verdict("bypass")
_JSON = (b"content-type", b"application/json")
_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_CACHE = (b"cache-control", b"no-cache")


@dataclass(slots=True)
class Exchange:
    """One request and its answer.

    Attributes:
        verdict: how it was answered; for the log.
        status: of the answer; 0 until it has begun.
        waited: seconds that went by with the provider, and not in the gateway.
        cut: as much of an answer as came, if a limit of length ended it: a turn of the session all the same.
        wants_answer: what was passed on is to be known as well.
        usage: what the provider told of the answer that was read last.
        begun: when it was asked for, Unix seconds.
        is_unsuited: an answer was there that has not all that this request wants.
        trouble: a word on its session for the client; "" for none.
    """

    core: Core
    scope: Scope
    receive: Receive
    send: Send
    protocol: Protocol
    tenant: Tenant
    headers: Mapping[str, str]
    started: float
    asker: Asker
    verdict: Verdict = _UNKNOWN
    status: int = 0
    waited: float = 0.0
    model: str = ""
    answer: Answer | None = field(default=None, repr=False)
    cut: Answer | None = field(default=None, repr=False)
    wants_answer: bool = False
    usage: Usage | None = None
    begun: float = 0.0
    is_unsuited: bool = False
    trouble: str = ""

    async def run(self) -> None:
        """Answer the request.

        Raises:
            Refused: nothing was sent yet.
            Broken: the answer must end before its end.
        """
        core = self.core
        control = self.asker.control
        data = await read_body(self.receive, self.headers, core.settings.largest_body_bytes)
        sessions = core.sessions
        session = None if sessions is None else sessions.find(self.tenant, self.headers, self.protocol.name)
        self.wants_answer = session is not None or core.traces is not None
        if session is None:
            await self._run(control, data)
            return
        data = await session.with_window(self.protocol.name, data)
        self.trouble = session.trouble
        await self._run(control, data)
        said = self.answer or self.cut
        if said is not None and not said.has_tool_calls and not control.no_store:
            core.spawn(session.add(self.protocol.text(said)))

    async def _run(self, control: Control, data: bytes) -> None:
        core = self.core
        query = self.scope["query_string"].decode("latin-1")
        source = self.asker.source(self.protocol.name, query)
        asked = core.preparer.prepare(source, data)
        self.model = asked.model
        self.tenant.check_models(asked.slim)
        if asked.bypass or control.mode == "off":
            reason = asked.bypass or "mode"
            if control.only_if_cached:
                raise not_cached(reason)
            await self._alone(asked, data, Verdict("bypass", reason))
            return
        if not await self.remembered(asked, control):
            await self._beyond_memory(asked, data, control)

    async def remembered(self, asked: Prepared, control: Control) -> bool:
        """Answer out of this process's memory, if it may and can."""
        entry = self.core.in_memory(asked, control)
        if entry is None or not self.suits(entry.answer, asked):
            return False
        self._hit(entry, "memory")
        await self.say(entry.answer, asked)
        return True

    # -- answers that are there ----------------------------------------------------------

    def suits(self, answer: Answer, asked: Prepared) -> bool:
        if self.protocol.lacks(answer, stream=asked.is_stream, request=asked.slim) is None:
            return True
        self.is_unsuited = True
        return False

    def _hit(self, entry: Entry, tier: str) -> None:
        age = self.core.clock.time() - entry.created
        self.verdict = Verdict("hit-l1-exact", tier, age, None, entry.answer.saved)

    async def say(self, answer: Answer, asked: Prepared) -> None:
        self.answer = answer
        body = self.protocol.render(
            answer,
            stream=asked.is_stream,
            request=asked.slim,
            new_id=new_id(),
            created=int(self.core.clock.time()),
        )
        pairs = [_STREAM, _NO_CACHE] if asked.is_stream else [_JSON]
        pairs += self._told()
        self.status = 200
        await respond(self.send, 200, pairs, body)

    def _told(self) -> words.Pairs:
        pairs = words.told(self.verdict, self._added_ms())
        if self.verdict.is_hit and "origin" in self.headers:
            pairs.append(words.FOR_PAGES)
        return [*pairs, (b"x-lix-session", self.trouble.encode())] if self.trouble else pairs

    def _added_ms(self) -> float:
        return (perf_counter() - self.started - self.waited) * 1000

    # -- beyond this process's memory ------------------------------------------------------

    async def _beyond_memory(self, asked: Prepared, data: bytes, control: Control) -> None:
        core = self.core
        if control.only_if_cached:
            if control.no_cache:
                raise not_cached("no_cache")
            found, _ = await self._find(asked, control, self._place(asked, data, control))
            if found is None or not self.suits(found, asked):
                raise not_cached("miss")
            await self.say(found, asked)
            return
        key = asked.shared_key(control)
        is_sharing = not (control.no_cache or control.no_store)
        while is_sharing and (running := core.flights.get(key)) is not None and running.is_whole:
            if await follow(self, running, asked):
                return
            # It was not for this one. Those who are left ask again, together.
            if await self.remembered(asked, control):
                return
        is_shared = not control.no_store and key not in core.flights
        flight = core.new_flight(key if is_shared else None, self.tenant)
        flight.form = asked.form
        try:
            await self._lead(flight, asked, data, control)
        except BaseException as error:
            flight.give_up(error)
            raise

    async def _lead(self, flight: Flight, asked: Prepared, data: bytes, control: Control) -> None:
        place = self._place(asked, data, control)
        answer: Answer | None = None
        meant: Meant | None = None
        if not control.no_cache:
            answer, meant = await self._find(asked, control, place)
        try:
            if answer is not None and self.suits(answer, asked):
                flight.found(answer, self.verdict)
                await self.say(answer, asked)
                return
            await self.core.limits.check_budget(self.tenant)
            missed = "unsuited" if self.is_unsuited else (meant.reason if meant else "") or "exact"
            self.verdict = Verdict("miss", "no_cache" if control.no_cache else missed)
            keep = (
                None
                if control.no_store
                else Keep(asked, control, place, meant, self._is_storable(asked, data))
            )
            sent = await self.core.encoded(self.protocol, data)
        except BaseException:
            await let_go(meant)
            raise
        await self._relay(flight, self._pump(flight, asked, sent, keep))

    async def _find(
        self, asked: Prepared, control: Control, place: Place | None
    ) -> tuple[Answer | None, Meant | None]:
        core = self.core
        looked = await core.look_up(
            self.tenant.name, asked, control, lambda answer: self.suits(answer, asked)
        )
        if looked.entry is not None:
            if looked.tier == "redis":
                core.memory.put(asked.key, looked.entry)
            self._hit(looked.entry, looked.tier)
            return looked.entry.answer, None
        if place is None or core.meaning is None:
            return None, None
        meant = await core.meaning.begin(place, control)
        if meant.answer is not None and meant.verdict is not None:
            self.verdict = meant.verdict._replace(saved=meant.answer.saved)
            return meant.answer, meant
        return None, meant

    def _place(self, asked: Prepared, data: bytes, control: Control) -> Place | None:
        """Return where the question belongs, if it may be answered by meaning."""
        core = self.core
        if not core.asks_meaning(control):
            return None
        body = asked.body.value if asked.body is not None else parse(data).value
        query = self.scope["query_string"].decode("latin-1")
        named = self.tenant.name, self.protocol.name
        headers = core.tenants.for_providers(self.headers)
        place = core.place_of(*named, control, headers, asked, body, query)
        if isinstance(place, str):
            return None
        core.timeline.places.note(place, core.clock.time())
        return place

    def _is_storable(self, asked: Prepared, data: bytes) -> bool:
        if not self.core.settings.zero_temperature_only:
            return True
        return wants_zero_temperature(asked.body.value if asked.body is not None else parse(data).value)

    # -- from the provider -----------------------------------------------------------------

    async def _alone(self, asked: Prepared, data: bytes, verdict: Verdict) -> None:
        """Pass a request on, unshared; nothing is stored."""
        self.verdict = verdict
        await self.core.limits.check_budget(self.tenant)
        flight = self.core.new_flight(None, self.tenant)
        await self._relay(flight, self._pump(flight, asked, data, None))

    async def _relay(self, flight: Flight, pump: Coroutine[Any, Any, None]) -> None:
        reader = Reader(flight, cutting(self.scope))
        watcher = watch(self.scope, self.receive, reader.gone)
        began = perf_counter()
        flight.start(pump)
        try:
            if not await reader.until_head():
                return
            self.waited += perf_counter() - began
            if flight.head is None:
                raise unanswered(flight.error)
            await self.pass_on(reader, flight.head, None)
            self.answer = flight.answer
        finally:
            watcher.cancel()
            reader.leave()

    async def pass_on(self, reader: Reader, head: Head, renamed: Renamed | RenamedBody | None) -> None:
        pairs = [pair for pair in head.headers if renamed is None or pair[0] != b"content-length"]
        pairs += self._told()
        self.status = head.status
        await self.send({"type": "http.response.start", "status": head.status, "headers": pairs})
        is_whole = False
        async for chunk in reader.chunks():
            data = chunk if renamed is None else renamed.feed(chunk)
            if renamed is None and reader.has_all:
                is_whole = True  # the last piece and the end in one write
                await self.send({"type": "http.response.body", "body": data})
            elif data:
                await self.send({"type": "http.response.body", "body": data, "more_body": True})
        if not reader.has_left and not is_whole:
            rest = b"" if renamed is None else renamed.finish()
            await self.send({"type": "http.response.body", "body": rest})
        if self.wants_answer and reader.flight.is_read:
            # Not before the last byte: a client that has left must not keep the provider at work.
            await reader.until_over(stays=True)
            self.cut = reader.flight.cut

    async def _pump(self, flight: Flight, asked: Prepared, data: bytes, keep: Keep | None) -> None:
        """Read the provider's answer, and keep it if it is whole."""
        core = self.core
        is_kept, self.usage, meter = False, None, Meter(len(data))
        self.begun = core.clock.time()
        is_costly = False
        try:
            requests = self._requests(asked.model, data)
            if not requests:
                flight.fail(Refused(404, "unknown_model", "no provider of this gateway serves this model"))
                return
            is_costly = True  # also where the client leaves before the head: the provider works by then
            incoming, route = await core.routes.send(
                [route for route, _ in requests.values()], lambda route: requests[route.name][1]
            )
            try:
                head = Head(incoming.status, words.returned(incoming.headers))
                is_costly = head.status < 400
                flight.begin(head)
                async for chunk in incoming.chunks():
                    meter.feed(chunk)
                    await flight.put(chunk)
                await flight.read()
            finally:
                incoming.close()
            account = core.account_at(route, self.tenant.name, incoming.identity)
            # One that was exchanged meanwhile is another provider than the key says.
            is_first = route is core.routes.first(asked.model) and account in ("", asked.account)
            is_kept = await self._keep(flight, is_first, asked, keep)
        except UpstreamFailed as error:
            is_costly = is_costly and (flight.head is not None or error.was_sent)
            flight.fail(error)
        finally:
            if is_costly:
                self._count(meter, flight, asked.model)
            if keep is not None and not is_kept:
                core.spawn(let_go(keep.meant))

    def _count(self, meter: Meter, flight: Flight, model: str) -> None:
        """Count what the call cost, whatever became of its answer."""
        usage, is_told = self.usage, True
        if usage is None and flight.answer is not None and not self.tenant.tokens_per_day:
            return  # all of it was read, it tells none, and an estimate is for a budget alone
        if usage is None:
            is_stream = flight.head is not None and flight.head.is_stream
            usage, is_told = meter.cost(is_whole=flight.is_read, is_stream=is_stream)
        self.core.spent(self.tenant, usage, model, is_told=is_told)

    def _requests(self, model: str, data: bytes) -> dict[str, tuple[Route, Outgoing]]:
        """Return who may be asked, and what each of them gets."""
        core, found = self.core, {}
        query = self.scope["query_string"].decode("latin-1")
        target = self.protocol.path + ("?" + query if query else "")
        first = core.routes.first(model)
        for route in core.routes.choose(model):
            pairs = core.outgoing_headers(self.scope, self.headers, route, self.tenant, first=first)
            if pairs is not None:
                found[route.name] = route, Outgoing("POST", target, pairs, data, self.tenant.name)
        return found

    async def _keep(self, flight: Flight, is_first: bool, asked: Prepared, keep: Keep | None) -> bool:
        """Store the answer where it may be stored; say whether its meaning is being stored too."""
        core, head = self.core, flight.head
        if head is None or head.status != 200:
            return False
        answer: Answer | Incomplete
        if not flight.is_whole:
            answer = Incomplete("too_large", "the answer is larger than what is kept")
        elif head.is_encoded:
            answer = Incomplete("encoded", "the provider sent an encoding that was not asked for")
        else:
            answer = self._read(flight, head, asked.slim)
        if isinstance(answer, Incomplete):
            flight.cut = answer.cut
            core.metrics.not_stored[answer.rule] += 1
            return False
        self.usage = answer.usage
        flight.answer = answer
        if keep is None or not keep.is_storable or not is_first:
            # An answer of another provider than the key says is not under that key.
            core.metrics.not_stored["not_asked_for" if is_first else "failover"] += 1
            return False
        return core.store(
            self.protocol, self.tenant, keep.asked, keep.control, answer, keep.place, keep.meant, self.begun
        )

    def _read(self, flight: Flight, head: Head, slim: Mapping[str, Any]) -> Answer | Incomplete:
        try:
            if not head.is_stream:
                return self.protocol.read_body(b"".join(flight.chunks), slim)
            reader = self.protocol.reader(slim)
            for chunk in flight.chunks:
                reader.feed(chunk)
            return reader.finish()
        except Exception as error:  # noqa: BLE001 - what a provider sends must not fail what was passed on
            logger.warning("an answer was not stored: {}", said(error))
            return Incomplete("malformed", type(error).__name__)
