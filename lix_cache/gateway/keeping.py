"""Storing answers in all tiers, and dropping them: of a store and a purge that meet, the purge wins."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from lix_cache.clock import Clock
from lix_cache.errors import InvalidInput
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.by_meaning import ByMeaning, Meant, Place
from lix_cache.gateway.deletions import is_deleted, mark_deleted
from lix_cache.gateway.headers import Control
from lix_cache.gateway.metrics import Metrics
from lix_cache.gateway.prepared import Prepared
from lix_cache.gateway.protocols import Protocol
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.gateway.snapshot import mark_dropped
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.tiers import LATEST, Entry, Memory, RedisTier
from lix_cache.storage.objects import Objects

if TYPE_CHECKING:
    from lix_cache.gateway.relay import Flight

__all__ = ["AT_ONCE", "Keeping", "Purges"]

#: Vectors that one round trip reads or writes, about a megabyte: all requests share the connection, so none
#: may fill it for as long as another one's deadline.
AT_ONCE = 64
#: Purges that are remembered.
_MOST_PURGES = 1000
#: How long another process may serve what this one has dropped.
_LOOK_SECONDS = 1.0
#: After so long it is looked again whether Redis is back.
_AGAIN_SECONDS = 0.5


class Purges:
    """What was purged of late: an answer that is under way meanwhile is not kept when it comes."""

    def __init__(self) -> None:
        self._last: deque[tuple[float, Callable[[Entry], bool]]] = deque(maxlen=_MOST_PURGES)

    def add(self, now: float, fits: Callable[[Entry], bool]) -> None:
        """Remember what is purged."""
        self._last.appendleft((now, fits))

    def has(self, entry: Entry) -> bool:
        """Whether an entry is of what was purged since it was asked for."""
        return any(fits(entry) for _, fits in takewhile(lambda one: one[0] >= entry.created, self._last))


class Keeping:
    """The part of what requests share that holds answers."""

    settings: GatewaySettings
    clock: Clock
    metrics: Metrics
    memory: Memory
    purges: Purges
    #: Answers that their providers were told to delete: many more, which must not push a purge out.
    deleted: Purges
    redis: RedisTier | None
    meaning: ByMeaning | None
    flights: dict[bytes, Flight]
    #: How often the processes have dropped answers of each tenant, as far as this one has heeded it.
    heeded: dict[str, int]
    #: Where the snapshot is.
    objects: Objects | None
    #: Marks follow each other: the last one there must be the latest.
    marking: asyncio.Lock

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something in the background."""
        raise NotImplementedError

    def provider(self, tenant: str, model: Any) -> tuple[str, str]:
        """Return who answers for a model, and a digest of the gateway's own account there."""
        raise NotImplementedError

    def serves(self, entry: Entry, now: float, control: Control) -> bool:
        """Whether what was found in Redis may be served: a purge under way has not come to all keys."""
        return entry.is_fresh(now, control.max_age, control.min_fresh) and not self.is_gone(entry)

    def is_gone(self, entry: Entry) -> bool:
        """Whether an entry was dropped since it was asked for."""
        return self.purges.has(entry) or self.deleted.has(entry)

    def store(
        self,
        protocol: Protocol,
        tenant: Tenant,
        asked: Prepared,
        control: Control,
        answer: Answer,
        place: Place | None,
        meant: Meant | None,
        begun: float,
    ) -> bool:
        """Store an answer: in memory at once, elsewhere in the background.

        One that was asked for later, with ``no-cache``, stays.

        Returns:
            Whether its meaning is being stored, and those who wait for that will be told.
        """
        if answer.size > self.settings.largest_answer_bytes:
            self.metrics.not_stored["too_large"] += 1
            return False
        now = self.clock.time()
        seconds = self.settings.ttl_seconds if control.ttl is None else control.ttl
        if place is not None and self.meaning is not None:
            seconds = self.meaning.policy.ttl_for(place.question.text, seconds)
        entry = Entry(tenant.name, answer, begun, now + seconds, asked.model, control.tags)
        if self.is_gone(entry):
            self.metrics.not_stored["purged"] += 1
            return False
        if not self.memory.put(asked.key, entry):
            self.metrics.not_stored["older"] += 1
            return False
        self.metrics.stored += 1
        is_meant = place is not None and self.meaning is not None and not answer.has_tool_calls
        is_named = protocol.name == "responses" and asked.slim.get("store") is not False
        self.spawn(
            self._beyond_memory(
                asked,
                entry,
                protocol.text(answer) if is_meant else "",
                place if is_meant else None,
                meant,
                is_named=is_named,
            )
        )
        return is_meant

    async def _beyond_memory(
        self,
        asked: Prepared,
        entry: Entry,
        text: str,
        place: Place | None,
        meant: Meant | None,
        *,
        is_named: bool,
    ) -> None:
        """Store an entry in the tiers that others see; a purge that came in between wins."""
        redis, seconds = self.redis, entry.expires - self.clock.time()
        if redis is not None and not await redis.put(asked.key, entry):
            self._drop_purged(asked.key, entry)
            if place is not None and meant is not None and meant.lead is not None:
                await meant.lead.fail(None)  # others wait for it
            return
        if redis is not None and is_named:
            await redis.name_answer(entry.tenant, entry.answer.id, asked.key, seconds)
            # What deleted it meanwhile, here or in another process, found no name.
            if self.deleted.has(entry) or await is_deleted(redis, entry):
                self._drop_purged(asked.key, entry)
                await redis.forget_named(entry.tenant, entry.answer.id)
                return
        if place is None or self.meaning is None:
            return
        await self.meaning.store(place, meant, entry.answer, text, seconds, entry.tags)
        # A purge that began after the look in Redis may have gone past before it was there.
        if self.is_gone(entry) or (redis is not None and await redis.is_purged(entry.tenant, entry.created)):
            await self.meaning.forget(entry.tenant, entry.answer.id)

    def _drop_purged(self, key: bytes, entry: Entry) -> None:
        """Forget what another worker's purge has met while it was under way."""
        self.metrics.not_stored["purged"] += 1
        self.memory.purge_one(key, entry)

    def keep_all(self, entries: Mapping[bytes, Entry]) -> None:
        """Store entries that are found by their keys alone."""
        kept = []
        for key, entry in entries.items():
            if entry.answer.size > self.settings.largest_answer_bytes:
                self.metrics.not_stored["too_large"] += 1
            elif not self.purges.has(entry) and self.memory.put(key, entry):
                kept.append((key, entry))
        self.metrics.stored += len(kept)
        if self.redis is not None and kept:
            self.spawn(self._to_redis(self.redis, kept))

    async def _to_redis(self, redis: RedisTier, kept: list[tuple[bytes, Entry]]) -> None:
        """Store entries in Redis, some at a time."""
        for start in range(0, len(kept), AT_ONCE):
            some = kept[start : start + AT_ONCE]
            are_kept = await asyncio.gather(*(redis.put(key, entry) for key, entry in some))
            for (key, entry), is_kept in zip(some, are_kept, strict=True):
                if not is_kept:
                    self._drop_purged(key, entry)

    async def forget_response(self, tenant: Tenant, identity: str) -> None:
        """Drop an answer that its provider was told to delete, from all tiers."""

        def fits(entry: Entry) -> bool:
            return entry.tenant == tenant.name and entry.answer.id == identity

        # First: one that is being stored, or read from Redis, is not to come back behind it.
        now = self.clock.time()
        self.deleted.add(now, fits)
        self.memory.purge(fits)
        if self.redis is not None and not await self._forget_in(self.redis, tenant.name, identity, now):
            self.spawn(self._forget_later(self.redis, tenant.name, identity, now))
        if self.meaning is not None:
            await self.meaning.forget(tenant.name, identity)
        await self._mark_dropped(tenant.name)

    async def _tell_others(self, redis: RedisTier, tenant: str) -> None:
        """Say that answers were dropped here. This process knows which, unless others did so meanwhile."""
        count = await redis.count_purge(tenant)
        if count is not None and count == self.heeded.get(tenant, 0) + 1:
            self.heeded[tenant] = count

    async def follow_purges(self, redis: RedisTier) -> None:
        """Forget what is in memory or under way of a tenant when another process has dropped its answers."""
        has_looked = False
        while True:
            counts = await redis.purges()
            if counts is not None:
                changed = {name for name, _ in counts.items() ^ self.heeded.items()}
                self.heeded.clear()
                self.heeded.update(counts)
                if changed and has_looked:
                    self.memory.purge(lambda entry: entry.tenant in changed)  # noqa: B023 - it is used at once
                    for tenant in changed:
                        self._end_sharing(tenant)
                has_looked = True
            await asyncio.sleep(_LOOK_SECONDS)

    def _end_sharing(self, tenant: str) -> None:
        """Let no new request of a tenant follow one that began before."""
        for key in [key for key, flight in self.flights.items() if flight.tenant == tenant]:
            del self.flights[key]

    async def _mark_dropped(self, tenant: str) -> None:
        """Let no snapshot that began before bring it back. Done last: one that begins then has none of it."""
        if self.objects is not None:
            async with self.marking:
                await mark_dropped(self.objects, tenant, self.clock)

    async def _forget_in(self, redis: RedisTier, tenant: str, identity: str, now: float) -> bool:
        """Drop an answer from what other processes see. False if Redis does not answer."""
        # Marked first: one that is being stored looks for the mark when its name is there.
        if not await mark_deleted(redis, tenant, identity, now):
            return False
        await redis.forget_named(tenant, identity)
        await self._tell_others(redis, tenant)
        return True

    async def _forget_later(self, redis: RedisTier, tenant: str, identity: str, now: float) -> None:
        """Drop an answer when Redis is back: the provider has deleted it by then."""
        while not await self._forget_in(redis, tenant, identity, now):  # noqa: ASYNC110 - no event of ours
            await asyncio.sleep(_AGAIN_SECONDS)

    async def purge(
        self, tenant: str, model: str | None, older_than: float | None, tag: str | None = None
    ) -> dict[str, Any]:
        """Drop answers of a tenant from all tiers. Returns how many of each.

        Raises:
            InvalidInput: the age makes no sense; nothing was dropped.
        """
        if older_than is not None and not 0 <= older_than < LATEST:
            # A stamp in the future would let no worker store anything until then.
            raise InvalidInput("older_than_seconds must be a number of seconds, at least 0")
        newest = self.clock.time() - (older_than or 0.0)

        def fits(entry: Entry) -> bool:
            # The name that was asked for is in the key alone; providers answer with a longer one.
            is_model = model is None or entry.model == model
            is_tagged = tag is None or tag in entry.tags
            return entry.tenant == tenant and is_model and is_tagged and entry.created <= newest

        # First, so that what is under way is not kept after the purge. No new request follows it.
        self.purges.add(self.clock.time(), fits)
        if self.redis is not None:
            await self.redis.begin_purge(tenant, newest)
        self._end_sharing(tenant)
        found = {"memory": self.memory.purge(fits), "redis": 0, "by_meaning": 0}
        if self.redis is not None:
            found["redis"] = await self.redis.purge(tenant, fits)
            await self._tell_others(self.redis, tenant)
        if self.meaning is not None:
            found["by_meaning"] = await self.meaning.purge(tenant, model, older_than, tag)
        await self._mark_dropped(tenant)
        return found
