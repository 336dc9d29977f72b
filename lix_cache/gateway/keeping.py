"""Storing answers in all tiers, and dropping them: of a store and a purge that meet, the purge wins."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.errors import CodecError, InvalidInput, RedisUnavailable
from lix_cache.errors import told as told_of
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.by_meaning import ByMeaning, Meant, Place
from lix_cache.gateway.deletions import Drop, Dropped, any_of
from lix_cache.gateway.headers import Control
from lix_cache.gateway.hydration import Snapshot
from lix_cache.gateway.metrics import Metrics
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.prepared import Prepared
from lix_cache.gateway.protocols import Protocol
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.tiers import LATEST, Entry, Memory, RedisTier
from lix_cache.gateway.undone import Undone
from lix_cache.hot.keys import digest

if TYPE_CHECKING:
    from lix_cache.gateway.relay import Flight

__all__ = ["AT_ONCE", "Keeping"]

#: Vectors that one round trip reads or writes, about a megabyte: all requests share the connection, so none
#: may fill it for as long as another one's deadline.
AT_ONCE = 64
#: So many bytes of an answer have its id.
_BEGINNING = 4096
_ID = re.compile(rb'"id"\s*:\s*"((?:[^"\\]|\\.)*)"')
#: How long another process may serve what this one has dropped.
_LOOK_SECONDS = 1.0
#: Responses of a tenant that are told one by one between two looks.
_MOST_TOLD = 128
#: So long who deletes a response waits for the snapshot's place.
_MARKED_SECONDS = 1.0


def _ids_of(flight: Flight) -> frozenset[bytes]:
    """Return all ids that stand where an answer that is under way has its own."""
    if flight.ids[0] < (there := min(flight.size, _BEGINNING)):
        start = b""
        for chunk in flight.chunks:
            start += chunk[:_BEGINNING]
            if len(start) >= _BEGINNING:
                break
        flight.ids = there, frozenset(_ID.findall(start[:_BEGINNING]))
    return flight.ids[1]


class Keeping:
    """The part of what requests share that holds answers."""

    settings: GatewaySettings
    clock: Clock
    metrics: Metrics
    memory: Memory
    dropped: Dropped
    #: What Redis did not take yet.
    undone: Undone
    #: Responses of each tenant that were told since the last look.
    telling: Counter[str]
    redis: RedisTier | None
    meaning: ByMeaning | None
    flights: dict[bytes, Flight]
    snapshot: Snapshot

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something in the background."""
        raise NotImplementedError

    def provider(self, tenant: str, model: Any) -> tuple[str, str]:
        """Return who answers for a model, and a digest of the gateway's own account there."""
        raise NotImplementedError

    def serves(self, entry: Entry, now: float, control: Control) -> bool:
        """Whether what was read from Redis may be served: a purge under way has not come to all keys.

        Args:
            entry: what was found.
            now: when the read began.
            control: what the request asks for.
        """
        return entry.is_fresh(now, control.max_age, control.min_fresh) and not self.dropped.has(entry, now)

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
        # One that was begun later than now was begun before the clock was set back: by what was dropped since
        # nothing can be said of it.
        if begun > now or self.dropped.has(entry):
            self.metrics.not_stored["purged"] += 1
            return False
        if not self.memory.put(asked.key, entry):
            self.metrics.not_stored["older"] += 1
            return False
        self.metrics.stored += 1
        is_meant = place is not None and self.meaning is not None and not answer.has_tool_calls
        text = protocol.text(answer) if is_meant else ""
        self.spawn(self._beyond_memory(asked, entry, text, place if is_meant else None, meant))
        return is_meant

    async def _beyond_memory(
        self, asked: Prepared, entry: Entry, text: str, place: Place | None, meant: Meant | None
    ) -> None:
        """Store an entry in the tiers that others see; a purge that came in between wins."""
        redis, seconds = self.redis, entry.expires - self.clock.time()
        if redis is not None and not await redis.put(asked.key, entry):
            self._drop_purged(asked.key, entry)
            if place is not None and meant is not None and meant.lead is not None:
                await meant.lead.fail(None)  # others wait for it
            return
        if redis is not None and asked.is_kept:
            await redis.name_answer(entry.tenant, entry.answer.id, asked.key, seconds)
            # What deleted it meanwhile, here or in another process, found no name. Where Redis does not tell,
            # it is kept nowhere.
            if await redis.deleted.has(entry) is not False or self.dropped.has(entry):
                self._drop_purged(asked.key, entry)
                await redis.forget_named(entry.tenant, digest(entry.answer.id))
                return
        if place is None or self.meaning is None:
            return
        await self.meaning.store(place, meant, entry.answer, text, seconds, entry.tags)
        # A purge that began after the look in Redis may have gone past before it was there, or not be known.
        is_purged = redis is not None and await redis.is_purged(entry.tenant, entry.created)
        if is_purged is not False or self.dropped.has(entry):
            await self.undone.surely(
                ("meaning", entry.tenant),
                entry.answer.id,
                partial(self.meaning.forget, entry.tenant, entry.answer.id),
                instead=partial(self._forget_meant, self.meaning, entry.tenant),
            )

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
            elif not self.dropped.has(entry) and self.memory.put(key, entry):
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
        drop = Drop.of_response(tenant.name, identity, self.clock.time())
        # First: one that is being stored, or read from Redis, is not to come back behind it.
        self.heed([drop])
        if self.redis is not None:
            await self.undone.surely(
                ("deletion", tenant.name),
                name := digest(identity),  # an id may be as long as a path
                partial(self._forget_in, self.redis, drop, name),
                instead=partial(self._forget_all, self.redis, tenant.name),
            )
        # Also where Redis does not take it, and the mark is put behind it again: this process may end before,
        # and Redis start empty. Not for long: the provider has deleted it, and that is to be told now. Redis
        # knows of a mark that is owed then.
        marking = self.spawn(self.snapshot.mark_in_time(tenant.name))
        await asyncio.wait({marking}, timeout=_MARKED_SECONDS)

    def heed(self, drops: Sequence[Drop]) -> int:
        """Forget what was dropped. What is under way of it is not kept, and no new request follows it."""
        if not drops:
            return 0
        now, tenants = self.clock.time(), {one.tenant for one in drops if not one.id}
        ids: defaultdict[str, set[bytes]] = defaultdict(set)
        for drop in drops:
            self.dropped.add(drop, now)
            if drop.id:
                ids[drop.tenant].add(dump(drop.id)[1:-1])
        for key, flight in list(self.flights.items()):
            its = ids.get(flight.tenant)
            if flight.tenant in tenants or (its and not its.isdisjoint(_ids_of(flight))):
                del self.flights[key]
        return self.memory.purge(any_of(drops))

    async def look(self, redis: RedisTier) -> None:
        """Heed what other processes have dropped since the last look."""
        dropped = self.dropped
        if dropped.position is not None:
            try:
                told = await redis.drops.since(dropped.position)
            except CodecError as error:
                logger.warning("the gateway forgets what it has in memory: {}", told_of(error))
                dropped.position = None
            else:
                if told is not None:
                    dropped.position, drops = told
                    self.heed(drops)
                return
        # Forgotten behind the mark: what is dropped from there on is told; before, anything may have been.
        # At a start there is nothing to forget, unless Redis was away.
        position = await redis.drops.begin()
        if position is not None:
            dropped.miss(self.clock.time())
            self.memory.purge(lambda _: True)
            self.flights.clear()
            dropped.position = position
            # Redis may have lost what it was told and what was done in it, so all of that is done again.
            for drop in redis.drops.repeatable():
                self._drop_again(redis, drop)

    async def follow_purges(self, redis: RedisTier) -> None:
        """Heed what other processes drop, until this one ends."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.telling.clear()
            await self.catch_up(redis)

    async def catch_up(self, redis: RedisTier) -> None:
        """Heed what other processes have dropped."""
        try:
            await self.look(redis)
        except Exception as error:  # noqa: BLE001 - the next look is all that ever heeds a purge
            logger.error("what other processes have dropped was not looked at: {}", told_of(error))

    async def follow_undone(self) -> None:
        """Do again what Redis did not take, until this process ends."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.undone.do_again()

    async def _forget_in(self, redis: RedisTier, drop: Drop, name: str) -> bool:
        """Drop a response from what other processes see. False: that is to be done again."""
        # Marked first: one that is being stored looks for the mark when its name is there. Owed before: the
        # process may end at any step.
        is_done = (
            await self.snapshot.owe(drop.tenant)
            and await redis.deleted.mark(drop.tenant, name)
            and await self._is_told(redis, drop)
            and await redis.forget_named(drop.tenant, name)
        )
        if is_done:
            # Behind it: a snapshot that begins from here on has none of it.
            self.spawn(self.snapshot.mark_in_time(drop.tenant))
        return is_done

    async def _is_told(self, redis: RedisTier, drop: Drop) -> bool:
        """Tell of a response. One tenant's many must not push out what others are told of other tenants."""
        self.telling[drop.tenant] += 1
        if self.telling[drop.tenant] <= _MOST_TOLD:
            return await redis.drops.tell(drop)
        self.undone.later(("telling", drop.tenant), "", partial(self._tell_all, redis, drop.tenant))
        return True

    async def _tell_all(self, redis: RedisTier, tenant: str) -> bool:
        return await redis.drops.tell(Drop(tenant, self.clock.time()))

    async def _forget_all(self, redis: RedisTier, tenant: str) -> bool:
        """Drop all of a tenant from what other processes see. False: that is to be done again.

        Raises:
            RedisUnavailable: not all is gone, and it is to be done again.
        """
        drop = Drop(tenant, self.clock.time())
        is_done = (
            await self.snapshot.owe(tenant)
            and await redis.deleted.mark(tenant, "")
            and await redis.drops.tell(drop)
        )
        if is_done:
            await redis.purge(tenant, drop.fits)  # or it would be in the next snapshot
            self.spawn(self.snapshot.mark_in_time(tenant))
        return is_done

    def _drop_again(self, redis: RedisTier, drop: Drop) -> None:
        """Do again, with the next turn, what this process has dropped of what others see."""
        if drop.id:
            name = digest(drop.id)
            self.undone.later(("deletion", drop.tenant), name, partial(self._forget_in, redis, drop, name))
        else:
            # What came after it stays.
            newest = drop.at if drop.newest is None else drop.newest
            work = partial(self._purge_again, redis, replace(drop, newest=newest), newest)
            self.undone.later(("purge", drop.tenant), digest(repr(drop)), work)

    async def _purge_again(self, redis: RedisTier, drop: Drop, newest: float) -> bool:
        """Purge what other processes see, and what was asked for up to then.

        Raises:
            RedisUnavailable: not all is gone, and it is to be done again.
        """
        if not await self.snapshot.owe(drop.tenant):
            return False
        await redis.begin_purge(drop.tenant, newest)
        await self._purge_in(redis, drop)
        if self.meaning is not None:
            age = max(0.0, self.clock.time() - newest)
            await self.meaning.purge(drop.tenant, drop.model, age, drop.tag)
        # Behind it: a snapshot that began meanwhile has what came back, and knows the mark of before.
        self.spawn(self.snapshot.mark_in_time(drop.tenant))
        return True

    async def _purge_in(self, redis: RedisTier, drop: Drop) -> int:
        """Drop what fits from Redis, and tell it.

        Raises:
            RedisUnavailable: not all is gone, or other processes do not know it.
        """
        found = await redis.purge(drop.tenant, drop.fits)
        # Told behind it: until then another process may read what is to go.
        if not await redis.drops.tell(drop):
            raise RedisUnavailable("other processes do not know of the purge yet; ask for it again")
        return found

    async def _forget_meant(self, meaning: ByMeaning, tenant: str) -> bool:
        await meaning.purge(tenant, None, None, None)  # raises if it is not done
        return True

    async def purge(
        self, tenant: str, model: str | None, older_than: float | None, tag: str | None = None
    ) -> dict[str, Any]:
        """Drop answers of a tenant from all tiers. Returns how many of each.

        Raises:
            InvalidInput: the age makes no sense; nothing was dropped.
            RedisUnavailable: not all of it was dropped; it may be asked for again.
        """
        if older_than is not None and not 0 <= older_than < LATEST:
            # A stamp in the future would let no worker store anything until then.
            raise InvalidInput("older_than_seconds must be a number of seconds, at least 0")
        now = self.clock.time()
        newest = now - (older_than or 0.0)
        drop = Drop(tenant, now, model=model, tag=tag, newest=None if older_than is None else newest)
        # First, so that what is under way is not kept after the purge.
        if self.redis is not None:
            await self.redis.begin_purge(tenant, newest)
        found = {"memory": self.heed([drop]), "redis": 0, "by_meaning": 0}
        if self.redis is not None:
            found["redis"] = await self._purge_in(self.redis, drop)
        if self.meaning is not None:
            found["by_meaning"] = await self.meaning.purge(tenant, model, older_than, tag)
        await self.snapshot.mark(tenant)
        return found
