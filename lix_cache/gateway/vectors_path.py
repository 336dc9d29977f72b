"""The way of a request for embeddings: each text is looked up and kept by itself, only new ones are sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from lix_cache.gateway import headers as words
from lix_cache.gateway.answer import Answer, Incomplete, Usage
from lix_cache.gateway.asgi import plain_path, read_body, respond, watch
from lix_cache.gateway.cached_path import Exchange
from lix_cache.gateway.following import check_failed, say_whole
from lix_cache.gateway.headers import Control, Verdict
from lix_cache.gateway.keeping import AT_ONCE
from lix_cache.gateway.outcomes import new_id, not_cached, unanswered
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.prepared import Prepared, Source
from lix_cache.gateway.protocols import protocol_of
from lix_cache.gateway.protocols.embeddings import LARGEST_BODY, Embeddings
from lix_cache.gateway.relay import Flight, Reader
from lix_cache.gateway.request import Asked, Body, key_of, parse
from lix_cache.gateway.tiers import Entry, RedisTier

__all__ = ["EMBEDDINGS", "VectorExchange", "spoken_at"]

EMBEDDINGS = Embeddings()


def spoken_at(path: str) -> Any:
    """Return what is spoken at a path, in every spelling of it: a protocol, the embeddings, or None."""
    path = plain_path(path)  # limits hold in every spelling
    return EMBEDDINGS if path == EMBEDDINGS.path else protocol_of(path)


_MOST_TEXTS = 2048
#: Bytes of an answer that is read at once, on the event loop.
_SHORT = 1 << 20


@dataclass
class VectorExchange(Exchange):
    """One request for embeddings and its answer.

    Attributes:
        inputs: its texts.
        keys: of each text's vector.
        answers: those that are known, by the places of their texts.
        sent: the places of the texts that the provider is asked for.
        is_whole: an answer to some of the texts did not fit, so all of them are asked for.
    """

    request: dict[str, Any] = field(default_factory=dict, repr=False)
    inputs: Sequence[Any] = field(default=(), repr=False)
    keys: list[bytes] = field(default_factory=list, repr=False)
    answers: dict[int, Answer] = field(default_factory=dict, repr=False)
    sent: Sequence[int] = ()
    is_whole: bool = False
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
        self.inputs = inputs
        self.keys = self._keys(source, asked)
        if not control.no_cache and await self._look():
            await self._say_vectors()
            return
        if control.only_if_cached:
            raise not_cached("miss")
        await self._ask(asked, data)

    def _keys(self, source: Source, asked: Prepared) -> list[bytes]:
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
        # Once, and not for each text: what stands beside thousands of short ones may be many megabytes.
        around = key_of(place, Body(b"", EMBEDDINGS.around(self.request)))
        return [hashlib.sha256(around + dump(one)).digest() for one in self.inputs]

    async def _look(self) -> bool:
        """Find what is there; say whether that is all."""
        core, now = self.core, self.core.clock.time()
        oldest = self._in_memory(now)
        missing = [i for i in range(len(self.keys)) if i not in self.answers]
        if missing and core.redis is not None:
            oldest = min(oldest, await self._in_redis(core.redis, missing, now))
        if len(self.answers) < len(self.keys):
            return False
        reason = "redis" if missing else "memory"
        self.verdict = Verdict("hit-l1-exact", reason, now - oldest, None, self._saved())
        return True

    def _saved(self) -> tuple[int, int]:
        return sum(one.usage.input for one in self.answers.values() if one.usage is not None), 0

    def _in_memory(self, now: float) -> float:
        """Take what is in memory; return when the oldest of it was made."""
        oldest = now
        for i, key in enumerate(self.keys):
            entry = self.core.memory.get(key, now, self.control.max_age, self.control.min_fresh)
            if entry is not None:
                self.answers[i] = entry.answer
                oldest = min(oldest, entry.created)
        return oldest

    async def _in_redis(self, redis: RedisTier, missing: Sequence[int], now: float) -> float:
        """Take what is in Redis, for as long as a request waits for that; return when the oldest was made."""
        core, oldest = self.core, now
        until = core.clock.monotonic() + core.settings.redis_seconds
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            found = await redis.get_many(self.tenant.name, [self.keys[i] for i in some])
            for i, entry in zip(some, found, strict=True):
                if entry is not None and core.serves(entry, now, self.control):
                    core.memory.put(self.keys[i], entry)
                    self.answers[i] = entry.answer
                    oldest = min(oldest, entry.created)
            if core.clock.monotonic() > until:
                break
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
        if "origin" in self.headers:
            pairs.append(words.FOR_PAGES)
        await respond(self.send, 200, pairs + words.told(self.verdict, self._added_ms()), body)

    def _take(self, brought: Mapping[bytes, Answer], reason: str) -> bool:
        """Take what has just come; say whether that is all. No look at its age: nothing could be newer."""
        self.answers.update((i, brought[key]) for i, key in enumerate(self.keys) if key in brought)
        if len(self.answers) < len(self.keys):
            return False
        self.verdict = Verdict("miss", reason)
        if reason == "shared":
            self.verdict = Verdict("hit-l1-exact", reason, 0.0, None, self._saved())
        return True

    async def _ask(self, asked: Prepared, data: bytes) -> None:
        core = self.core
        key = asked.shared_key(self.control)
        is_shared = not (self.control.no_cache or self.control.no_store)
        while is_shared and (running := core.flights.get(key)) is not None and running.is_whole:
            if await self._follow(running):
                return
        if is_shared and self._has_come():
            await self._say_vectors()
            return
        if self.control.no_store:
            self.answers.clear()
        is_found = is_shared and key not in core.flights
        flight = core.new_flight(key if is_found else None, self.tenant, largest=LARGEST_BODY)
        try:
            await core.limits.check_budget(self.tenant)
            is_said = await self._bring(flight, asked, data)
        except BaseException as error:
            flight.give_up(error)
            raise
        if not is_said:
            # What came is not for putting together: the provider is to answer all of it.
            self.answers.clear()
            self.is_whole = True
            await self._ask(asked, data)

    def _has_come(self) -> bool:
        """Whether an equal request has ended while this one asked Redis."""
        if self.is_whole:
            return False
        now = self.core.clock.time()
        oldest = self._in_memory(now)
        if len(self.answers) < len(self.keys):
            return False
        self.verdict = Verdict("hit-l1-exact", "shared", now - oldest, None, self._saved())
        return True

    async def _bring(self, flight: Flight, asked: Prepared, data: bytes) -> bool:
        """Ask the provider for what is not known; say whether the client has its answer."""
        self.sent = [i for i in range(len(self.keys)) if i not in self.answers]
        flight.form = is_all = not self.answers
        if is_all:
            self.verdict = Verdict("miss", "whole" if self.is_whole else "exact")
            await self._relay(flight, self._pump(flight, asked, data, None))
            return True
        self.verdict = Verdict("miss", "partial")
        fewer = dump(EMBEDDINGS.request_for(self.request, [self.inputs[i] for i in self.sent]))
        flight.start(self._pump(flight, asked, fewer, None))
        reader = await self._wait(flight)
        if reader is None:
            return True
        if flight.head is None:
            raise unanswered(flight.error)
        if flight.vectors is not None and self._take(flight.vectors, "partial"):
            await self._say_vectors()
            return True
        if flight.head.status != 200 and flight.is_whole and not flight.is_broken:
            await say_whole(self, flight.head, reader, "")
            return True
        return False

    async def _follow(self, flight: Flight) -> bool:
        """Answer with what an equal request brings; say whether that was for this one.

        Raises:
            Refused: it was refused, or its provider failed: so would this one be.
        """
        reader = await self._wait(flight)
        if reader is None:
            return True
        if flight.vectors is not None and self._take(flight.vectors, "shared"):
            await self._say_vectors()
            return True
        if flight.is_broken:
            check_failed(flight)
            return False
        head = flight.head
        if head is None or not flight.is_whole or flight.vectors is not None:
            return False
        if head.status == 200 and not flight.form:
            # An answer to some of the texts that did not fit: the next request asks for all of them.
            self.answers.clear()
            self.is_whole = True
            return False
        self.verdict = Verdict("hit-l1-exact", "shared", 0.0)
        await say_whole(self, head.shared(), reader, new_id() if head.status == 200 else "")
        return True

    async def _wait(self, flight: Flight) -> Reader | None:
        """Wait for the end of a flight; None if the client left."""
        reader = Reader(flight)
        watcher = watch(self.scope, self.receive, reader.gone)
        began = perf_counter()
        try:
            return reader if await reader.until_over() else None
        finally:
            self.waited += perf_counter() - began
            watcher.cancel()
            reader.leave()

    async def _keep(
        self,
        flight: Flight,
        is_first: bool,
        asked: Prepared,
        keep: Any,  # noqa: ARG002
    ) -> bool:
        """Keep each vector by itself."""
        core = self.core
        if flight.head is None or flight.head.status != 200 or not is_first or not self.sent:
            return False
        if not flight.is_whole or flight.head.is_encoded:
            core.metrics.not_stored["too_large" if not flight.is_whole else "encoded"] += 1
            return False
        sent = EMBEDDINGS.request_for(self.request, [self.inputs[i] for i in self.sent])
        body = b"".join(flight.chunks)
        if len(body) > _SHORT:
            # Some tenth of a second: others are not to wait for it.
            read = await asyncio.to_thread(EMBEDDINGS.read_body, body, sent)
        else:
            read = EMBEDDINGS.read_body(body, sent)
        if isinstance(read, Incomplete):
            core.metrics.not_stored[read.rule] += 1
            return False
        told = [one.usage.input for one in read if one.usage is not None]
        self.usage = Usage(sum(told)) if told else None
        flight.vectors = {self.keys[i]: answer for i, answer in zip(self.sent, read, strict=True)}
        if self.control.no_store:
            return False
        name, tags, now = self.tenant.name, self.control.tags, core.clock.time()
        seconds = core.settings.ttl_seconds if self.control.ttl is None else self.control.ttl
        core.keep_all(
            {
                key: Entry(name, answer, self.begun, now + seconds, asked.model, tags)
                for key, answer in flight.vectors.items()
            }
        )
        return False
