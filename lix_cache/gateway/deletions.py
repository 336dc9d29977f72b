"""What was dropped on demand: a response that its provider was told to delete, or what a purge names.

One process tells it in a stream in Redis (:meth:`lix_cache.gateway.tiers.RedisTier.tell`), and all heed it.
Marks in Redis say of a name alone that it was deleted, for longer than anything of that name is kept.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import orjson

from lix_cache.errors import CodecError
from lix_cache.gateway.headers import MOST_SECONDS
from lix_cache.hot.keys import digest

if TYPE_CHECKING:
    from lix_cache.gateway.tiers import Entry, RedisTier

__all__ = ["UNDER_WAY", "DeletedResponses", "Drop", "Dropped", "Marks", "OwedMarks", "any_of"]

#: Longer than any answer is under way.
UNDER_WAY = 26 * 3600
#: Longer than any answer is kept, and is under way before.
_MARK_SECONDS = int(MOST_SECONDS) + UNDER_WAY
#: Purges that are remembered, and responses of each tenant: there are many more, which must push out neither
#: a purge nor what another tenant has deleted.
_MOST_PURGES = 1000
_MOST_RESPONSES = 10_000
#: No provider gives a longer id; one would fill the stream. All of the tenant is dropped in its place.
_LONGEST_ID = 512
#: Marks of a tenant, and those that one goes with when there are more.
_MOST_MARKS = 100_000
_MARKS_AT_ONCE = 1000
#: The member without a name says up to when all counts as deleted: of what was deleted until then, not every
#: name is known any more.
_MARK = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZADD', KEYS[1], 'GT', string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - tonumber(ARGV[2])))
if redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[3]) then
  local gone = redis.call('ZPOPMIN', KEYS[1], ARGV[4])
  redis.call('ZADD', KEYS[1], 'GT', gone[#gone], '')
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Drop:
    """What was dropped of a tenant's answers: one response, or all that fits.

    Attributes:
        tenant: whose they are.
        at: when, Unix seconds.
        id: of the response; "" for a purge.
        model, tag: of what is purged; None for any.
        newest: until when its providers were asked; None for any time.
    """

    tenant: str
    at: float
    id: str = ""
    model: str | None = None
    tag: str | None = None
    newest: float | None = None

    @classmethod
    def of_response(cls, tenant: str, identity: str, now: float) -> Drop:
        """Return what says that a response was deleted."""
        return cls(tenant, now, identity if len(identity) <= _LONGEST_ID else "")

    def fits(self, entry: Entry) -> bool:
        """Whether an answer is of what is purged."""
        # The name that was asked for is in the key alone; providers answer with a longer one.
        is_model = self.model is None or entry.model == self.model
        is_tagged = self.tag is None or self.tag in entry.tags
        is_old = self.newest is None or entry.created <= self.newest
        return entry.tenant == self.tenant and is_model and is_tagged and is_old

    def encode(self) -> bytes:
        """Return it as it stands in Redis."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Drop:
        """Read it.

        Raises:
            CodecError: it is none, or of another version.
        """
        try:
            drop = cls(**orjson.loads(data))
            "".join((drop.tenant, drop.id, *(word for word in (drop.model, drop.tag) if word is not None)))
            sum((drop.at, 0.0 if drop.newest is None else drop.newest))
        except (TypeError, ValueError):
            raise CodecError("not what the gateway says of what was dropped") from None
        return drop


def any_of(drops: Sequence[Drop]) -> Callable[[Entry], bool]:
    """Return what says whether an answer was dropped. Responses, however many, cost one look."""
    responses = {(one.tenant, one.id) for one in drops if one.id}
    purges = [one for one in drops if not one.id]
    return lambda entry: (
        (entry.tenant, entry.answer.id) in responses or any(one.fits(entry) for one in purges)
    )


class Dropped:
    """What was dropped of late, here or elsewhere: what is under way of it is not kept when it comes.

    Attributes:
        position: up to where of the stream it is known; None if not all of it is.
    """

    def __init__(self) -> None:
        self.position: bytes | None = None
        self._missed = -1.0
        self._purges: deque[tuple[float, Drop]] = deque(maxlen=_MOST_PURGES)
        self._responses: defaultdict[str, OrderedDict[str, None]] = defaultdict(OrderedDict)

    def add(self, drop: Drop, now: float) -> None:
        """Remember what was dropped."""
        if drop.id:
            # An id is never given twice, so it does not matter when: clocks that differ do no harm.
            responses = self._responses[drop.tenant]
            responses[drop.id] = None
            if len(responses) > _MOST_RESPONSES:
                responses.popitem(last=False)
        else:
            # In their order, whatever another machine's clock says: has() ends at the first that is too old.
            latest = self._purges[0][0] if self._purges else 0.0
            self._purges.appendleft((max(latest, min(drop.at, now)), drop))

    def miss(self, now: float) -> None:
        """Remember that anything may have been dropped up to now."""
        self._missed = now

    def has(self, entry: Entry, read: float | None = None) -> bool:
        """Whether an answer is of what was dropped since its provider was asked.

        Args:
            entry: the answer.
            read: when it was read from Redis, where what had been dropped by then is not.
        """
        if (entry.created if read is None else read) <= self._missed:
            return True
        since = takewhile(lambda one: one[0] >= entry.created, self._purges)
        is_deleted = entry.answer.id in self._responses.get(entry.tenant, ())
        return is_deleted or any(one.fits(entry) for _, one in since)


class DeletedResponses:
    """Marks of responses that their providers were told to delete: a bounded number of each tenant.

    Args:
        redis: where they are.
    """

    def __init__(self, redis: RedisTier) -> None:
        self._redis = redis

    async def mark(self, tenant: str, name: str) -> bool:
        """Say that a response was deleted, by the digest of its id; "" for all that were asked for by now.

        Returns:
            False if Redis does not know of it yet.
        """
        key = self._redis.name("deleted", tenant, "")
        bounds = _MARK_SECONDS, _MOST_MARKS, _MARKS_AT_ONCE
        return await self._redis.ask(("EVAL", _MARK, 1, key, name, *bounds)) is not None

    async def has(self, entry: Entry) -> bool | None:
        """Whether an answer was deleted; None: Redis does not tell."""
        key = self._redis.name("deleted", entry.tenant, "")
        found = await self._redis.ask(("ZMSCORE", key, digest(entry.answer.id), ""))
        if found is None:
            return None
        at, until = found[0]
        return at is not None or (until is not None and entry.created <= float(until))


class Marks:
    """Marks of names that were deleted.

    Args:
        redis: where they are.
        kind: of what has such a name; the mark alone tells who may look it up, and with which key it came.
    """

    def __init__(self, redis: RedisTier, kind: str) -> None:
        self._redis = redis
        self._kind = kind

    async def mark(self, tenant: str, name: str, now: float) -> bool:
        """Say that a name was deleted. False: Redis does not know of it yet."""
        key = self._redis.name(self._kind, tenant, digest(name))
        return await self._redis.ask(("SET", key, repr(now), "EX", _MARK_SECONDS)) is not None

    async def has(self, tenant: str, name: str, since: float = 0.0) -> bool | None:
        """Whether a name was deleted, since a time if names come twice; None: Redis does not tell."""
        found = await self._redis.ask(("GET", self._redis.name(self._kind, tenant, digest(name))))
        if found is None:
            return None
        return found[0] is not None and (not since or float(found[0]) >= since)


#: Unless another was owed meanwhile.
_PAY = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
"""


class OwedMarks:
    """Tenants of whom a snapshot's place is still to be told that something was dropped.

    In Redis, so that the next process puts a mark that a process owed when it was killed.

    Args:
        redis: where they are.
        place: of the snapshot.
    """

    def __init__(self, redis: RedisTier, place: str) -> None:
        self._redis = redis
        self._key = redis.name("owed", place, "")

    async def add(self, tenant: str) -> bool:
        """Owe one. False: Redis does not know of it."""
        # Another word each time: who pays for one must not pay for the next.
        words = ("HSET", self._key, tenant, secrets.token_hex(8)), ("EXPIRE", self._key, _MARK_SECONDS)
        return await self._redis.ask(*words) is not None

    async def of(self, tenant: str) -> bytes | None:
        """Return what is owed of a tenant: for :meth:`pay`."""
        found = await self._redis.ask(("HGET", self._key, tenant))
        return None if found is None else found[0]

    async def pay(self, tenant: str, owed: bytes) -> None:
        """The mark is there: owe no more, unless something was dropped meanwhile."""
        await self._redis.ask(("EVAL", _PAY, 1, self._key, tenant, owed))

    async def tenants(self) -> list[str] | None:
        """Return of whom marks are owed. None: Redis does not tell."""
        found = await self._redis.ask(("HKEYS", self._key))
        return None if found is None else [name.decode() for name in found[0]]
