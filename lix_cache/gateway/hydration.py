"""The snapshot of a gateway that runs: read beside its requests, told what was dropped, written at its end.

A reload goes on with the same object, and its state is in memory that workers share after the fork: one of
them reads the snapshot, and the parent, which writes the next one, knows whether that was done.
"""

from __future__ import annotations

import asyncio
import mmap
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import cast

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.errors import LixCacheError, told
from lix_cache.gateway.deletions import OwedMarks
from lix_cache.gateway.snapshot import hydrate, mark_dropped, save_snapshot
from lix_cache.gateway.tenants import TenantBook
from lix_cache.gateway.tiers import RedisTier
from lix_cache.storage.objects import bucket_at

__all__ = ["Snapshot"]

#: After so long it is looked again whether its place is back.
_AGAIN_SECONDS = 0.5
#: Marks that are put at once: each has a thread, and a place that is away holds it for half a minute.
_MOST_MARKS = 8
_LOADING, _READ, _NOT_READ = range(3)
#: What stands where in the shared memory: how it was read, whether another may take its place, the answers.
_STATE, _MAY_REPLACE, _COUNT = 0, 1, slice(8, 16)


class Snapshot:
    """What a process does with the snapshot.

    Args:
        place: folder or URL; "" for none.
        redis: where its answers belong; None: it is not read.
        clock: time.
    """

    def __init__(self, place: str, redis: RedisTier | None, clock: Clock) -> None:
        self.objects = bucket_at(place) if place else None
        self._redis = redis
        self._clock = clock
        self._shared = mmap.mmap(-1, 16)
        self._trouble = ""
        self._owed = (
            None if self.objects is None or redis is None else OwedMarks(redis, self.objects.location)
        )
        self._marking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        #: By their tenants, marks that are to be put, and are not being put.
        self._next: dict[str, asyncio.Future[bool]] = {}
        #: How many of each tenant's marks are not in their place.
        self._unmarked: Counter[str] = Counter()
        self._is_ending = False
        self._some = asyncio.Semaphore(_MOST_MARKS)

    @property
    def state(self) -> str:
        """How it was read: ``none``, ``loading``, ``ok``, or what went wrong."""
        if self.objects is None or self._redis is None:
            return "none"
        if self._shared[_STATE] == _NOT_READ:
            return self._trouble or "another worker could not read the snapshot; its log says why"
        return "ok" if self._shared[_STATE] == _READ else "loading"

    @property
    def hydrated(self) -> int:
        """How many answers came out of it."""
        return int.from_bytes(self._shared[_COUNT], "little")

    async def read(self, tenants: TenantBook) -> None:
        """Put back what it holds, unless a worker before this one has."""
        if self.objects is None or self._redis is None or self._shared[_STATE] != _LOADING:
            return
        besides = await self._pay()
        if besides is None:
            count, state = 0, "nothing was put back: Redis does not tell what was deleted"
            logger.error("the snapshot is not used, and stays as it is: {}", state)
        else:
            count, state = await hydrate(self._redis, self.objects, tenants, besides)
        self._shared[_COUNT] = count.to_bytes(8, "little")
        # What the snapshot in its place says is in Redis: another one loses nothing of it.
        self._shared[_MAY_REPLACE] = state == "ok"
        self._trouble = state
        # Last: who sees it sees the rest.
        self._shared[_STATE] = _READ if state == "ok" else _NOT_READ
        await asyncio.gather(*map(self.mark_in_time, besides or ()))

    async def owe(self, tenant: str) -> bool:
        """Have the next process put a mark if this one is killed before. False: Redis does not know of it."""
        return self._owed is None or await self._owed.add(tenant)

    async def _pay(self) -> set[str] | None:
        """Put the marks that processes before this one owed when they ended.

        Returns:
            Tenants whose marks are not there; None: who these are is not known.
        """
        owed = None if self._owed is None else await self._owed.tenants()
        if owed is None:
            return None
        marked = await asyncio.gather(*map(self._is_marked, owed))
        return {tenant for tenant, is_marked in zip(owed, marked, strict=True) if not is_marked}

    async def _is_marked(self, tenant: str) -> bool:
        try:
            async with self._some:
                await self.mark(tenant)
        except LixCacheError as error:
            logger.warning("the snapshot's place is not told yet what was dropped: {}", told(error))
            return False
        return True

    async def mark(self, tenant: str) -> None:
        """Let no snapshot that began before bring answers of a tenant back.

        Called when they are dropped: one that begins then has none of them.

        Raises:
            ArchiveUnavailable: its place cannot be written.
        """
        if self.objects is None:
            return
        # Marks of a tenant follow each other: the last one there must be the latest.
        async with self._marking[tenant]:
            self._next.pop(tenant, None)  # what is dropped from here on needs another one
            owed = None if self._owed is None else await self._owed.of(tenant)
            await mark_dropped(self.objects, tenant, self._clock)
            if self._owed is not None and owed is not None:
                await self._owed.pay(tenant, owed)

    async def mark_in_time(self, tenant: str) -> None:
        """:meth:`mark`, again until its place is back, or the process ends."""
        if self.objects is None:
            return
        self._unmarked[tenant] += 1
        # One that has not begun yet is for this drop too.
        if tenant not in self._next:
            self._next[tenant] = asyncio.ensure_future(self._put_in_time(tenant))
        if await self._next[tenant]:
            self._unmarked[tenant] -= 1

    async def _put_in_time(self, tenant: str) -> bool:
        """Return whether the mark is there."""
        trouble, this = "", cast("asyncio.Task[bool]", asyncio.current_task())
        while True:
            is_last = self._is_ending
            try:
                async with self._some:
                    await self.mark(tenant)
                return True
            except Exception as error:  # noqa: BLE001 - nothing else puts it
                if trouble != (trouble := told(error)):
                    logger.warning("the snapshot's place is not told yet what was dropped: {}", trouble)
            if is_last:
                return False
            await asyncio.sleep(_AGAIN_SECONDS)
            if (then := self._next.get(tenant)) is not None:
                return await then
            self._next[tenant] = this

    def end(self) -> None:
        """Try to put each mark that is owed once more, and no longer."""
        self._is_ending = True

    async def mark_at_end(self, tenants: Iterable[str], seconds: float) -> None:
        """Put marks of tenants within a time, and tell of those that could not be put."""
        marking = [asyncio.ensure_future(self.mark_in_time(one)) for one in tenants]
        if marking:
            await asyncio.wait(marking, timeout=seconds)
        for one in marking:
            one.cancel()
        if left := +self._unmarked:
            logger.error(
                "the snapshot's place does not know what was dropped of {} tenants: "
                "put back into an empty Redis, the snapshot would bring it back",
                len(left),
            )

    async def save(self) -> int:
        """Write a snapshot in the place of the older one. Returns how many answers are in it.

        Raises:
            ArchiveUnavailable: its place cannot be written.
            RedisUnavailable: not all of Redis was seen; the older one stays.
        """
        if self._redis is None or self.objects is None:
            return 0
        count = await save_snapshot(self._redis, self.objects, self._clock)
        self._shared[_MAY_REPLACE] = True
        return count

    async def save_at_end(self) -> None:
        """Write a snapshot, if the one in its place was read, or written, before."""
        if not self._shared[_MAY_REPLACE]:
            return
        try:
            await self.save()
        except LixCacheError as error:
            logger.error("no snapshot was written: {}", told(error))
