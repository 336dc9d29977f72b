"""What was dropped, as processes tell each other: a stream in Redis, and who told what of late.

A failover may lose what was told last. Nobody who had not heard of it could see that in the stream alone. So
each look asks for the server's history of writes as well, which another master, or one that began anew, does
not share: who sees another one forgets what nobody vouches for, and who told something tells it again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from lix_cache.errors import CodecError
from lix_cache.gateway.deletions import Drop

if TYPE_CHECKING:
    from lix_cache.gateway.shared_clock import SharedClock
    from lix_cache.gateway.tiers import RedisTier

__all__ = ["DropStream"]

#: What was dropped last, that is told: a process that has missed more forgets all that it has in memory. Far
#: more than is told between two looks: of the deletions of one tenant a process tells a bounded number.
_MOST_TOLD = 10_000
#: What a failover loses was told so long before at most; of that, so much is told again.
_MAY_BE_LOST_SECONDS = 600.0
_MOST_REPEATED = 1000
#: A server that does not let a client know its history is trusted to keep it.
_SERVER = """
local info = redis.pcall('INFO', 'replication')
local history = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
local time = redis.call('TIME')
return {history, time[1], time[2]}
"""


class DropStream:
    """The stream.

    Args:
        redis: where it is.
        name: its key.
        clock: learns the server's time.
    """

    def __init__(self, redis: RedisTier, name: str, clock: SharedClock) -> None:
        self._redis = redis
        self._name = name
        self._clock = clock
        self._history: bytes = b""
        #: Places of what this process has told, and heeds by itself.
        self._own: set[bytes] = set()
        self._repeatable: deque[tuple[float, Drop]] = deque(maxlen=_MOST_REPEATED)

    async def tell(self, drop: Drop) -> bool:
        """Let the other processes know what was dropped. False if Redis does not answer."""
        answers = await self._redis.ask(self._added(drop.encode()))
        if answers is None:
            return False
        self._own.add(answers[0])
        self._repeatable.append((self._clock.monotonic(), drop))
        return True

    async def begin(self) -> bytes | None:
        """Mark a place to follow the others from. None if Redis does not answer."""
        # Another server may give the same places to others.
        self._own.clear()
        before = self._clock.own.time()
        answers = await self._redis.ask(self._added(b""), self._server())
        if answers is None:
            return None
        self._history = self._learnt(before, answers[1])
        self._own.add(answers[0])
        return bytes(answers[0])

    async def since(self, position: bytes) -> tuple[bytes, list[Drop]] | None:
        """Return the last place, and what others told since one; None if Redis does not answer.

        Raises:
            CodecError: not all of it can be known.
        """
        before = self._clock.own.time()
        answers = await self._redis.ask(("XRANGE", self._name, position, "+"), self._server())
        if answers is None:
            return None
        found = answers[0]
        if self._learnt(before, answers[1]) != self._history:
            raise CodecError("another server answers, or it began anew: what was told last may be lost")
        # Too much was told since, or Redis came back without it, or with an older one.
        if not found or found[0][0] != position:
            raise CodecError("not all is there of what was dropped")
        news = [(place, fields[1]) for place, fields in found[1:] if place not in self._own]
        # Also places from before this process lost its own, and those that it heard of too late.
        last = _order(found[-1][0])
        self._own = {place for place in self._own if _order(place) > last}
        return found[-1][0], [Drop.decode(data) for _, data in news if data]

    def repeatable(self) -> list[Drop]:
        """Return what this process told of late, and forget that it did: a failover may have lost it."""
        since = self._clock.monotonic() - _MAY_BE_LOST_SECONDS
        found = [drop for at, drop in self._repeatable if at >= since]
        self._repeatable.clear()
        return found

    def _added(self, data: bytes) -> tuple[str | int | bytes, ...]:
        return ("XADD", self._name, "MAXLEN", "~", _MOST_TOLD, "*", "drop", data)

    def _server(self) -> tuple[str | int | bytes, ...]:
        return ("EVAL", _SERVER, 1, self._name)

    def _learnt(self, before: float, said: list[bytes]) -> bytes:
        history, seconds, microseconds = said
        self._clock.learn(before, int(seconds) + int(microseconds) / 1e6)
        return history


def _order(place: bytes) -> tuple[int, ...]:
    """Return what places of a stream are in the order of."""
    return tuple(map(int, place.split(b"-")))
