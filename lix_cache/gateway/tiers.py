"""Where answers are kept: in this process, then in Redis, then by meaning.

No tier is needed for an answer: whatever goes wrong in one of them is a miss there, is counted, and costs
at most its deadline. A key holds the tenant and everything else that may change an answer
(:mod:`lix_cache.gateway.request`), so the first two tiers need no scope of their own.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.clock import Clock
from lix_cache.config import CacheConfig
from lix_cache.errors import CodecError, RedisUnavailable
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.deletions import UNDER_WAY, DeletedResponses
from lix_cache.gateway.drop_stream import DropStream
from lix_cache.gateway.redis_line import RedisLine
from lix_cache.gateway.shared_clock import SharedClock
from lix_cache.hot.keys import Keys, digest

__all__ = ["LATEST", "NOTHING_FOUND", "Entry", "Looked", "Memory", "RedisTier"]

_MAGIC = b"LXG2"
_HEAD = struct.Struct("<4sddHH")
#: Bytes of magic and ``created``.
_STAMP = 12
#: Of all times, in Unix seconds.
LATEST = 1e11
#: A slow answer must not take the place of one that was asked for after it, nor come back after a purge or
#: a DELETE, which leaves its stamp alone. One of a snapshot takes no place at all.
_PUT = """
local purged = redis.call('GET', KEYS[2])
if purged and struct.unpack('<d', ARGV[3], 5) <= tonumber(purged) then
  return -1
end
local there = redis.call('GETRANGE', KEYS[1], 0, 12)
if #there >= 12 and string.sub(there, 1, 4) == string.sub(ARGV[3], 1, 4) then
  local ahead = struct.unpack('<d', there, 5) - struct.unpack('<d', ARGV[3], 5)
  if #there == 12 and ahead >= 0 then
    return -1
  elseif ahead > 0 then
    return 0
  end
end
if ARGV[4] == 'NX' and #there > 12 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_PURGE = """
local purged = redis.call('GET', KEYS[1])
if not purged or tonumber(purged) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return 1
"""


@dataclass(frozen=True)
class Entry:
    """An answer as it is kept.

    Attributes:
        tenant: whose it is.
        answer: what was said.
        created: when its provider was asked, in Unix seconds.
        expires: until when it may be served.
        model: that was asked for.
        tags: words that the client gave it, to purge it by; none has a comma.
    """

    tenant: str
    answer: Answer
    created: float
    expires: float
    model: str = ""
    tags: tuple[str, ...] = ()

    def is_fresh(self, now: float, max_age: float | None, min_fresh: float = 0.0) -> bool:
        """Whether it may be served, and for so many seconds more."""
        return now + min_fresh < self.expires and (max_age is None or now - self.created <= max_age)


@dataclass(frozen=True, slots=True)
class Looked:
    """What the tiers hold for exactly one request.

    Attributes:
        entry: the one that ended the search, if there is any.
        tier: where it is.
        is_suited: whether it has all that the request wants.
    """

    entry: Entry | None = None
    tier: str = ""
    is_suited: bool = False


NOTHING_FOUND = Looked()


class Memory:
    """Answers of this process, those used last, bounded by their bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(
        self, key: bytes, now: float, max_age: float | None = None, min_fresh: float = 0.0
    ) -> Entry | None:
        """Return an entry that may be served."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            self.drop(key)
            return None
        if not entry.is_fresh(now, max_age, min_fresh):
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an entry in the place of an older one. False if the one there was asked for later."""
        there = self._entries.get(key)
        if there is not None and there.created > entry.created and there.expires > entry.created:
            return False
        self.drop(key)
        if entry.answer.size > self._most:
            return True
        self._entries[key] = entry
        self.bytes += entry.answer.size
        while self.bytes > self._most:
            _, old = self._entries.popitem(last=False)
            self.bytes -= old.answer.size
        return True

    def drop(self, key: bytes) -> bool:
        """Forget an entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.answer.size
        return entry is not None

    def purge_one(self, key: bytes, entry: Entry) -> None:
        """Forget an entry, if it is still the one under its key."""
        if self._entries.get(key) is entry:
            self.drop(key)

    def purge(self, fits: Callable[[Entry], bool]) -> int:
        """Forget all entries that fit. Returns how many."""
        found = [key for key, entry in self._entries.items() if fits(entry)]
        return sum(map(self.drop, found))


class RedisTier(RedisLine):
    """Answers in Redis. Raises nothing: what goes wrong is counted and is a miss.

    Attributes:
        clock: that of Redis.
        drops: what processes tell each other of what was dropped.
    """

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        super().__init__(config, clock)
        self._keys = Keys(config.redis_key_prefix, config.redis.buckets)
        self.clock = SharedClock(clock)
        self.drops = DropStream(self, self._keys.gateway("dropped", "", ""), self.clock)
        #: Responses that their providers were told to delete.
        self.deleted = DeletedResponses(self)
        self._digests: dict[str, str] = {}

    def _name(self, tenant: str, key: bytes) -> str:
        return self._keys.gateway_place("answer", self._digest(tenant), key.hex())

    def _digest(self, tenant: str) -> str:
        # It costs as much as all the rest; there are as many as tenants.
        known = self._digests.get(tenant)
        if known is None:
            known = self._digests[tenant] = digest(tenant)
        return known

    def _purged(self, tenant: str, name: str) -> str:
        """Return what says up to when a tenant's answers were purged, in the bucket of a key."""
        return self._keys.gateway_purged(self._digest(tenant), self._keys.bucket(name))

    async def get(self, tenant: str, key: bytes, *, is_kept: bool) -> Entry | None:
        """Return what is under a key, however old.

        Args:
            tenant, key: of what is asked for.
            is_kept: its provider keeps it, until it is told to delete it.
        """
        data = (await self.ask(("GET", self._name(tenant, key))) or (None,))[0]
        entry = self._read(tenant, data) if isinstance(data, bytes) else None
        if entry is None or not is_kept:
            return entry
        # Where Redis does not tell, it is a miss.
        return entry if await self.deleted.has(entry) is False else None

    async def get_many(self, tenant: str, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what is kept under each key, in one round trip."""
        answers = await self.ask_each(*(("GET", self._name(tenant, key)) for key in keys))
        return [None if not isinstance(data, bytes) else self._read(tenant, data) for data in answers]

    def _read(self, tenant: str, data: bytes) -> Entry | None:
        if len(data) == _STAMP:
            return None  # what is left of one that was deleted
        try:
            magic, created, expires, length, tags = _HEAD.unpack_from(data)
            # Not NaN either, which is in no order; ages and times to live are reckoned with them.
            if magic != _MAGIC or not 0 <= created <= expires <= LATEST:
                raise CodecError("not an entry of the gateway")
            words = data[_HEAD.size + length : (start := _HEAD.size + length + tags)].decode()
            model = data[_HEAD.size : _HEAD.size + length].decode()
            answer = Answer.decode(data[start:])
            return Entry(tenant, answer, created, expires, model, tuple(words.split(",")) if words else ())
        except (CodecError, struct.error, UnicodeDecodeError) as error:
            # Of another version, or not ours: the next store takes its place.
            self.note(error)
            return None

    async def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an entry for as long as it may be served, unless one is there that was asked for later.

        Returns:
            False if its tenant's answers were purged since it was asked for: it is to be kept nowhere.
        """
        milliseconds = int((entry.expires - self.clock.time()) * 1000)
        if milliseconds <= 0:
            return True
        model, tags = entry.model.encode()[:1000], ",".join(entry.tags).encode()
        head = _HEAD.pack(_MAGIC, entry.created, entry.expires, len(model), len(tags))
        data = b"".join((head, model, tags, entry.answer.encode()))
        names = self._name(entry.tenant, key), self._purged(entry.tenant, key.hex())
        asked = await self.ask(("EVAL", _PUT, 2, *names, data, milliseconds, head[:_STAMP], ""))
        return asked is None or asked[0] != -1

    async def begin_purge(self, tenant: str, newest: float) -> None:
        """Let no worker store what was asked for up to a time. Said first, so that nothing slips in."""
        names = [
            self._keys.gateway_purged(self._digest(tenant), i) for i in range(max(1, self._keys.buckets))
        ]
        commands = [("EVAL", _PURGE, 1, name, repr(newest), UNDER_WAY) for name in names]
        if await self.ask(*commands) is None:
            raise RedisUnavailable(f"nothing was purged; ask for it again: {self.why}")

    async def is_purged(self, tenant: str, asked_for: float) -> bool | None:
        """Whether a tenant's answers were purged since one was asked for; None if Redis does not tell."""
        found = await self.ask(("GET", self._purged(tenant, "")))
        return None if found is None else found[0] is not None and float(found[0]) >= asked_for

    async def name_answer(self, tenant: str, identity: str, key: bytes, seconds: float) -> None:
        """Remember which answer the provider's id is of, so that it goes when the provider deletes it."""
        name = self.name("id", tenant, digest(identity))
        await self.ask(("SET", name, key, "PX", max(1, int(seconds * 1000))))

    async def forget_named(self, tenant: str, of: str) -> bool:
        """Drop the answer of an id, if there is one, so that none asked for before comes back.

        Args:
            tenant: whose it is.
            of: digest of the id.

        Returns:
            False if Redis does not answer: it may be there.
        """
        name = self.name("id", tenant, of)
        found = await self.ask(("GET", name))
        if found is None or not isinstance(key := found[0], bytes):
            return found is not None
        stamp = _HEAD.pack(_MAGIC, self.clock.time(), 0.0, 0, 0)[:_STAMP]
        # The name goes last: it says that there is something left to do.
        is_gone = await self.ask(("SET", self._name(tenant, key), stamp, "EX", UNDER_WAY)) is not None
        return is_gone and await self.ask(("UNLINK", name)) is not None

    async def purge(self, tenant: str, fits: Callable[[Entry], bool]) -> int:
        """Drop what fits of a tenant's answers. Looks at all keys of the database, some at a time."""
        dropped = 0
        async for name, data in self._found(_globbed(self._keys.gateway("answer", tenant, ""))):
            entry = self._read(tenant, data)
            if entry is not None and fits(entry):
                dropped += int(await self._told("UNLINK", name))
        return dropped

    async def records(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Give all answers of all tenants, each with its name: tenant and key.

        Raises:
            RedisUnavailable: these were not all.
        """
        pattern = _globbed(self._keys.gateway("answer", "", "")).removesuffix("*").rpartition("answer:")[0]
        async for name, data in self._found(f"{pattern}answer:*"):
            yield name.rpartition(b":gw:answer:")[2], data

    async def _found(self, pattern: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """Give the keys that match, on all nodes, with what they hold; one may come twice, as SCAN says.

        Raises:
            RedisUnavailable: these were not all.
        """
        cursor: Any = 0
        while True:
            answer = await self._told("SCAN", cursor, "MATCH", pattern, "COUNT", 500)
            if isinstance(answer, Exception):
                cursor = 0
                continue
            cursor, names = answer
            for name in names:
                data = await self._told("GET", name)
                if isinstance(data, bytes) and len(data) > _STAMP:
                    yield name, data
            if int(cursor) == 0:
                return

    async def _told(self, *words: Any) -> Any:
        answers = await self.ask(words)
        if answers is None:
            raise RedisUnavailable(f"not all of Redis was seen; ask for it again: {self.why}")
        return answers[0]

    async def restore(self, name: bytes, data: bytes) -> bool:
        """Put an answer back that may still be served, is not there, and was not dropped.

        Raises:
            RedisUnavailable: whether it is there is not known.
        """
        tenant, _, key = name.decode("latin-1").partition(":")
        entry = self._read("", data)
        milliseconds = 0 if entry is None else int((entry.expires - self.clock.time()) * 1000)
        if milliseconds <= 0 or not re.fullmatch(r"[\w-]{27}:[0-9a-f]{64}", f"{tenant}:{key}"):
            return False
        place = self._keys.gateway_place("answer", tenant, key)
        purged = self._keys.gateway_purged(tenant, self._keys.bucket(key))
        answers = await self.ask(("EVAL", _PUT, 2, place, purged, data, milliseconds, data[:_STAMP], "NX"))
        if answers is None:
            raise RedisUnavailable(f"not all was put back: {self.why}")
        return bool(answers[0] == 1)

    def name(self, kind: str, tenant: str, name: str) -> str:
        """Return the key of what is counted for a tenant."""
        return self._keys.gateway(kind, tenant, name)

    async def ping(self) -> bool:
        """Whether it answers."""
        return bool(await self.ask(("PING",)))


def _globbed(start: str) -> str:
    """Return the pattern of all keys that begin so, in any bucket."""
    literal = re.sub(r"[*?\[\]\\]", r"\\\g<0>", start)
    return re.sub(r"\{\d+\}", "{*}", literal, count=1) + "*"
