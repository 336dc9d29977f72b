"""The way of a request for embeddings: each text is looked up and kept by itself, only new ones are sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lix_cache.gateway import headers as words
from lix_cache.gateway.answer import Answer, Incomplete, Usage
from lix_cache.gateway.asgi import read_body, respond, watch
from lix_cache.gateway.cached_path import Exchange
from lix_cache.gateway.headers import Control, Verdict
from lix_cache.gateway.outcomes import new_id, not_cached, unanswered
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.prepared import Prepared, Source
from lix_cache.gateway.protocols.embeddings import Embeddings
from lix_cache.gateway.relay import Flight, Reader
from lix_cache.gateway.request import Asked, Body, key_of, parse
from lix_cache.gateway.tiers import Entry

__all__ = ["EMBEDDINGS", "VectorExchange"]

EMBEDDINGS = Embeddings()
_MOST_TEXTS = 2048


@dataclass
class VectorExchange(Exchange):
    """One request for embeddings and its answer."""

    request: dict[str, Any] = field(default_factory=dict, repr=False)
    keys: list[bytes] = field(default_factory=list, repr=False)
    answers: dict[int, Answer] = field(default_factory=dict, repr=False)
    control: Control = field(default_factory=Control)

    async def run(self) -> None:
        """See :meth:`Exchange.run`."""
        core = self.core
        control = self.control = self.asker.control
        data = await read_body(self.receive, self.headers, core.settings.largest_body_bytes)
        query = self.scope["query_string"].decode("latin-1")
        source = self.asker.source(EMBEDDINGS.name, query)
        asked = core.preparer.prepare(source, data)
        self.model = asked.model
        self.tenant.check_models(asked.slim)
        self.request = parse(data).value
        inputs = EMBEDDINGS.inputs(self.request)
        bypass = asked.bypass or ("mode" if control.mode == "off" else "")
        if not bypass and (inputs is None or len(inputs) > _MOST_TEXTS):
            bypass = "input"
        if bypass or inputs is None:
            if control.only_if_cached:
                raise not_cached(bypass)
            await self._alone(asked, data, Verdict("bypass", bypass))
            return
        self.keys = [self._key(source, asked, one) for one in inputs]
        if not control.no_cache and await self._look():
            await self._say_vectors()
            return
        if control.only_if_cached:
            raise not_cached("miss")
        await self._ask(asked, data, inputs)

    def _key(self, source: Source, asked: Prepared, one: Any) -> bytes:
        value = EMBEDDINGS.part_of_key(self.request, one)
        provider, _ = self.core.provider(source.tenant, asked.model)
        place = Asked(
            source.tenant,
            source.namespace,
            source.protocol,
            provider,
            asked.account,
            source.headers,
            source.query,
        )
        return key_of(place, Body(b"", value))

    async def _look(self, reason: str = "") -> bool:
        """Find what is there; say whether that is all."""
        core, now = self.core, self.core.clock.time()
        oldest = self._in_memory(now)
        missing = [i for i in range(len(self.keys)) if i not in self.answers]
        if missing and core.redis is not None:
            found = await core.redis.get_many(self.tenant.name, [self.keys[i] for i in missing])
            for i, entry in zip(missing, found, strict=True):
                if entry is not None and core.serves(entry, now, self.control):
                    core.memory.put(self.keys[i], entry)
                    self.answers[i] = entry.answer
                    oldest = min(oldest, entry.created)
        if len(self.answers) < len(self.keys):
            return False
        saved = sum(one.usage.input for one in self.answers.values() if one.usage is not None)
        self.verdict = Verdict(
            "hit-l1-exact", reason or ("redis" if missing else "memory"), now - oldest, None, (saved, 0)
        )
        return True

    def _in_memory(self, now: float) -> float:
        """Take what is in memory; return when the oldest of it was made."""
        oldest = now
        for i, key in enumerate(self.keys):
            entry = self.core.memory.get(key, now, self.control.max_age, self.control.min_fresh)
            if entry is not None:
                self.answers[i] = entry.answer
                oldest = min(oldest, entry.created)
        return oldest

    async def _say_vectors(self) -> None:
        body = EMBEDDINGS.render(
            [self.answers[i] for i in range(len(self.keys))],
            request=self.request,
            new_id=new_id(),
            created=int(self.core.clock.time()),
        )
        self.status = 200
        pairs: words.Pairs = [(b"content-type", b"application/json")]
        await respond(self.send, 200, pairs + words.told(self.verdict, self._added_ms()), body)

    async def _ask(self, asked: Prepared, data: bytes, inputs: Sequence[Any]) -> None:
        core = self.core
        is_shared = not (self.control.no_cache or self.control.no_store)
        running = core.flights.get(asked.key) if is_shared else None
        if running is not None:
            if not await self._wait(running):
                return
            if await self._look("shared"):
                await self._say_vectors()
                return
        elif is_shared:
            # An equal request may have ended while this one asked Redis.
            now = core.clock.time()
            oldest = self._in_memory(now)
            if len(self.answers) == len(self.keys):
                self.verdict = Verdict("hit-l1-exact", "shared", now - oldest)
                await self._say_vectors()
                return
        await core.limits.check_budget(self.tenant)
        self.verdict = Verdict("miss", "partial" if self.answers else "exact")
        key = asked.key if is_shared and asked.key not in core.flights else None
        flight = core.new_flight(key, self.tenant)
        if self.control.no_store:
            self.answers.clear()
        if not self.answers:
            await self._relay(flight, self._pump(flight, asked, data, None))
            return
        missing = [i for i in range(len(inputs)) if i not in self.answers]
        fewer = dump(EMBEDDINGS.request_for(self.request, [inputs[i] for i in missing]))
        self.keys, whole = [self.keys[i] for i in missing], self.keys
        flight.start(self._pump(flight, asked, fewer, None))
        if not await self._wait(flight):
            return
        self.keys = whole
        if flight.head is None:
            raise unanswered(flight.error)
        if flight.head.status == 200 and await self._look("partial"):
            self.verdict = Verdict("miss", "partial")
            await self._say_vectors()
            return
        if flight.head.status != 200 and flight.is_whole and not flight.is_broken:
            reader = Reader(flight)
            await self.pass_on(reader, flight.head, None)
            reader.leave()
            return
        # What came is not for putting together: the provider is to answer all of it.
        await self._alone(asked, data, Verdict("miss", "whole"))

    async def _wait(self, flight: Flight) -> bool:
        """Wait for the end of a flight; False if the client left."""
        reader = Reader(flight)
        watcher = watch(self.scope, self.receive, reader.gone)
        try:
            return await reader.until_over()
        finally:
            watcher.cancel()
            reader.leave()

    def _keep(
        self,
        flight: Flight,
        is_first: bool,
        asked: Prepared,
        keep: Any,  # noqa: ARG002
    ) -> bool:
        """Keep each vector by itself."""
        core = self.core
        if flight.head is None or flight.head.status != 200 or not is_first or not self.keys:
            return False
        if not flight.is_whole or flight.head.is_encoded:
            core.metrics.not_stored["too_large" if not flight.is_whole else "encoded"] += 1
            return False
        sent = dict(self.request)
        if self.answers:
            inputs = EMBEDDINGS.inputs(self.request) or []
            sent = EMBEDDINGS.request_for(
                self.request, [one for i, one in enumerate(inputs) if i not in self.answers]
            )
        read = EMBEDDINGS.read_body(b"".join(flight.chunks), sent)
        if isinstance(read, Incomplete):
            core.metrics.not_stored[read.rule] += 1
            return False
        told = [one.usage.input for one in read if one.usage is not None]
        self.usage = Usage(sum(told)) if told else None
        if self.control.no_store:
            return False
        now = core.clock.time()
        seconds = core.settings.ttl_seconds if self.control.ttl is None else self.control.ttl
        for key, answer in zip(self.keys, read, strict=True):
            entry = Entry(self.tenant.name, answer, self.begun, now + seconds, asked.model, self.control.tags)
            core.keep(key, entry)
        return False
