"""Brings the minutes of all workers together, by Redis.

Each worker writes its own fields and no other's, and writes them whole: a write that is repeated or comes
late changes nothing, and nothing is ever counted twice. There is one hash for each hour; it ends by itself
a day later. A worker reads its own numbers from its memory; those of the others are some seconds old.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.errors import told
from lix_cache.gateway.minutes import DAY, Minute, Minutes
from lix_cache.gateway.places import Places, Seen

if TYPE_CHECKING:
    from lix_cache.gateway.tiers import RedisTier

__all__ = ["Timeline"]

_PAUSE = 2.0
_HOUR = 60
_KEPT_MS = (DAY + 2 * _HOUR) * 60_000
_PLACES = "places"
#: Of one record of another worker; what is longer is not ours.
_LONGEST = 256 << 10


class Timeline:
    """Counts of this process, and, where Redis is, of all that share it.

    Args:
        redis: where the others are.
        clock: time.
        more: what tells other counts, at the same times.
    """

    def __init__(
        self, redis: RedisTier | None, clock: Clock, more: Sequence[Callable[[], Awaitable[None]]] = ()
    ) -> None:
        self._more = more
        self._redis = redis
        self._clock = clock
        self.minutes = Minutes()
        self.places = Places()
        self.worker = ""
        self._told: asyncio.Task[None] | None = None

    def answered(self, tenant: str, state: str, reason: str, added: float, whole: float) -> None:
        """Count a request."""
        self.minutes.at(self._clock.time()).answered(tenant, state, reason, added, whole)

    def counted(self, tenant: str, model: str, usage: tuple[int, int], *, are_saved: bool) -> None:
        """Count tokens."""
        self.minutes.at(self._clock.time()).counted(tenant, model, usage, are_saved=are_saved)

    def start(self) -> None:
        """Begin to tell the others. Called after the fork: a worker's name must be its own."""
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:40]
        # A number of a process may be given anew within the minute.
        self.worker = f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
        if self._redis is not None:
            self._told = asyncio.get_running_loop().create_task(self._tell_often())

    async def close(self) -> None:
        """Tell the others for the last time."""
        told_often, self._told = self._told, None
        if told_often is not None:
            told_often.cancel()
            # What it was telling is to be told again, and it says so when it ends.
            await asyncio.wait({told_often})
            await self._tell_all()

    async def _tell_often(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE)
            await self._tell_all()

    async def _tell_all(self) -> None:
        for tell in (self.tell, *self._more):
            try:
                await tell()
            except Exception as error:  # noqa: BLE001 - counts must not end with one that cannot be told
                logger.warning("counts were not told to the other workers: {}", told(error))

    async def tell(self) -> None:
        """Write what has changed. What is not written now is written with the next."""
        redis = self._redis
        if redis is None or not (self.minutes.changed or self.places.is_changed):
            return
        changed, self.minutes.changed = self.minutes.changed, set()
        had_places, self.places.is_changed = self.places.is_changed, False
        hours: dict[int, list[Any]] = {}
        for number in changed:
            minute = self.minutes.get(number)
            if minute is not None:
                hours.setdefault(number // _HOUR, []).extend((f"{number}:{self.worker}", minute.encode()))
        if had_places:
            hour = int(self._clock.time() // 3600)
            seen = orjson.dumps([one.told() for one in self.places.all()])
            hours.setdefault(hour, []).extend((f"{_PLACES}:{self.worker}", seen))
        commands: list[tuple[Any, ...]] = []
        for hour, fields in hours.items():
            name = self._name(redis, hour)
            commands += [("HSET", name, *fields), ("PEXPIRE", name, _KEPT_MS)]
        is_told = False
        try:
            is_told = await redis.ask(*commands) is not None
        finally:  # also where it is stopped in between: the last telling is to have it
            if not is_told:
                self.minutes.changed |= changed
                self.places.is_changed = self.places.is_changed or had_places

    @staticmethod
    def _name(redis: RedisTier, hour: int) -> str:
        return redis.name("minutes", "", str(hour))

    async def read(self, first: int, last: int) -> tuple[dict[int, Minute], set[str], bool]:
        """Return the minutes from ``first`` to ``last``, whose they are, and whether all were asked."""
        found: dict[int, Minute] = {}
        workers = {self.worker}
        for number, mine in self.minutes.between(first, last).items():
            found[number] = Minute()
            found[number].add(mine)
        is_whole = self._redis is not None
        for hour in range(first // _HOUR, last // _HOUR + 1):
            fields = await self._fields(hour)
            is_whole = is_whole and fields is not None
            for field, data in (fields or {}).items():
                number_, _, worker = field.partition(":")
                if worker == self.worker or not number_.isdecimal() or not first <= int(number_) <= last:
                    continue
                minute = Minute.decode(data)
                if minute is not None:
                    workers.add(worker)
                    found.setdefault(int(number_), Minute()).add(minute)
        return found, workers, is_whole

    async def seen(self) -> list[Seen]:
        """Return where questions were asked lately, the last ones first."""
        found = {one.id: one for one in self.places.all()}
        hour = int(self._clock.time() // 3600)
        for number in (hour, hour - 1):
            for field, data in (await self._fields(number) or {}).items():
                name, _, worker = field.partition(":")
                if name != _PLACES or worker == self.worker or len(data) > _LONGEST:
                    continue
                for one in _read(data):
                    known = found.get(one.id)
                    if known is None or known.last < one.last:
                        found[one.id] = one
        return sorted(found.values(), key=lambda one: -one.last)

    async def _fields(self, hour: int) -> dict[str, bytes] | None:
        """Return an hour's fields; an hour at a time, so that no other request waits for long."""
        if self._redis is None:
            return None
        answers = await self._redis.ask(("HGETALL", self._name(self._redis, hour)))
        if answers is None:
            return None
        pairs = answers[0]
        return {
            name.decode("utf-8", "replace"): data for name, data in zip(pairs[::2], pairs[1::2], strict=False)
        }


def _read(data: bytes) -> list[Seen]:
    try:
        value = orjson.loads(data)
    except ValueError:
        return []
    seen = [Seen.read(one) for one in value] if isinstance(value, list) else []
    return [one for one in seen if one is not None]
