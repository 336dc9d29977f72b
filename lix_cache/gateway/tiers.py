"""Where answers are kept: in this process, then in Redis, then by meaning.

No tier is needed for an answer: whatever goes wrong in one of them is a miss there, is counted, and costs
at most its deadline. A key holds the tenant and everything else that may change an answer
(:mod:`lix_cache.gateway.request`), so the first two tiers need no scope of their own.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from lix_cache._advice import for_command_line
from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.config import CacheConfig
from lix_cache.errors import CodecError, LixCacheError, RedisUnavailable, told
from lix_cache.gateway.answer import Answer
from lix_cache.hot.breaker import Breaker
from lix_cache.hot.clients import lazy_async_client
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.keys import Keys, digest
from lix_cache.hot.pipeline import Pipeline
from lix_cache.hot.trouble import raise_translated
from lix_cache.hot.wire import pack

__all__ = ["Entry", "Memory", "Purges", "RedisTier"]

_MAGIC = b"LXG2"
_HEAD = struct.Struct("<4sddHH")
#: Bytes of magic and ``created``.
_STAMP = 12
_LATEST = 1e11
#: Purges that are remembered.
_MOST_PURGES = 1000
#: How long another process may serve what this one has dropped.
_LOOK_SECONDS = 1.0
#: How long a purge is remembered: longer than any answer is under way.
_PURGED_SECONDS = 26 * 3600
#: A slow answer must not take the place of one that was asked for after it, nor come back after a purge.
_PUT = """
local purged = redis.call('GET', KEYS[2])
if purged and struct.unpack('<d', ARGV[3], 5) <= tonumber(purged) then
  return -1
end
local there = redis.call('GETRANGE', KEYS[1], 0, 11)
if #there == 12 and string.sub(there, 1, 4) == string.sub(ARGV[3], 1, 4)
    and struct.unpack('<d', there, 5) > struct.unpack('<d', ARGV[3], 5) then
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


class RedisTier:
    """Answers in Redis. Raises nothing: what goes wrong is counted and is a miss."""

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        self._endpoint = endpoint_for(config.redis, config.semantic_redis_db)
        self._keys = Keys(config.redis_key_prefix, config.redis.buckets)
        self._clock = clock
        self.breaker = Breaker(config.redis_retry_seconds, clock)
        self._purges = self._keys.gateway("purges", "", "")
        self._digests: dict[str, str] = {}
        self._opened: tuple[asyncio.AbstractEventLoop, Any] | None = None
        #: Requests that went without Redis, and why last.
        self.troubles = 0
        self.last_trouble = ""

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

    async def get(self, tenant: str, key: bytes) -> Entry | None:
        """Return what is kept under a key, however old."""
        data = (await self._ask(pack(("GET", self._name(tenant, key)))) or (None,))[0]
        return None if not isinstance(data, bytes) else self._read(tenant, data)

    async def get_many(self, tenant: str, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what is kept under each key, in one round trip."""
        request = b"".join(pack(("GET", self._name(tenant, key))) for key in keys)
        answers = await self._ask(request, len(keys)) or [None] * len(keys)
        return [None if not isinstance(data, bytes) else self._read(tenant, data) for data in answers]

    def _read(self, tenant: str, data: bytes) -> Entry | None:
        try:
            magic, created, expires, length, tags = _HEAD.unpack_from(data)
            # Not NaN either, which is in no order; ages and times to live are reckoned with them.
            if magic != _MAGIC or not 0 <= created <= expires <= _LATEST:
                raise CodecError("not an entry of the gateway")
            words = data[_HEAD.size + length : (start := _HEAD.size + length + tags)].decode()
            model = data[_HEAD.size : _HEAD.size + length].decode()
            answer = Answer.decode(data[start:])
            return Entry(tenant, answer, created, expires, model, tuple(words.split(",")) if words else ())
        except (CodecError, struct.error, UnicodeDecodeError) as error:
            # Of another version, or not ours: the next store takes its place.
            self._note(error)
            return None

    async def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an entry for as long as it may be served, unless one is there that was asked for later.

        Returns:
            False if its tenant's answers were purged since it was asked for: it is to be kept nowhere.
        """
        milliseconds = int((entry.expires - self._clock.time()) * 1000)
        if milliseconds <= 0:
            return True
        model, tags = entry.model.encode()[:1000], ",".join(entry.tags).encode()
        head = _HEAD.pack(_MAGIC, entry.created, entry.expires, len(model), len(tags))
        data = b"".join((head, model, tags, entry.answer.encode()))
        names = self._name(entry.tenant, key), self._purged(entry.tenant, key.hex())
        asked = await self._ask(pack(("EVAL", _PUT, 2, *names, data, milliseconds, head[:_STAMP])))
        return asked is None or asked[0] != -1

    async def begin_purge(self, tenant: str, newest: float) -> None:
        """Let no worker store what was asked for up to a time. Said first, so that nothing slips in."""
        names = [
            self._keys.gateway_purged(self._digest(tenant), i) for i in range(max(1, self._keys.buckets))
        ]
        commands = [("EVAL", _PURGE, 1, name, repr(newest), _PURGED_SECONDS) for name in names]
        if await self.ask(*commands) is None:
            raise RedisUnavailable(f"nothing was purged: {self._why}")

    async def is_purged(self, tenant: str, asked_for: float) -> bool:
        """Whether a tenant's answers were purged since one was asked for."""
        found = await self.ask(("GET", self._purged(tenant, "")))
        return bool(found and found[0] is not None and float(found[0]) >= asked_for)

    async def name_answer(self, tenant: str, account: str, identity: str, key: bytes, seconds: float) -> None:
        """Remember which answer the provider's id is of, so that it goes when the provider deletes it."""
        name = self._keys.gateway("id", tenant, f"{account}:{identity}")
        await self._ask(pack(("SET", name, key, "PX", max(1, int(seconds * 1000)))))

    async def forget_named(self, tenant: str, account: str, identity: str) -> bytes | None:
        """Drop the answer of an id; return its key."""
        name = self._keys.gateway("id", tenant, f"{account}:{identity}")
        key = (await self._ask(pack(("GET", name))) or (None,))[0]
        if not isinstance(key, bytes):
            return None
        await self._ask(pack(("UNLINK", self._name(tenant, key))))
        await self._ask(pack(("UNLINK", name)))
        return key

    async def purge(self, tenant: str, fits: Callable[[Entry], bool]) -> int:
        """Drop what fits of a tenant's answers. Looks at all keys of the database, some at a time."""
        cursor, dropped = b"0", 0
        pattern = _globbed(self._keys.gateway("answer", tenant, ""))
        while True:
            answers = await self._ask(pack(("SCAN", cursor, "MATCH", pattern, "COUNT", 500)))
            if answers is None:
                raise RedisUnavailable(f"the purge has not seen all of Redis: {self._why}")
            cursor, names = answers[0]
            for name in names:
                data = (await self._ask(pack(("GET", name))) or (None,))[0]
                entry = self._read(tenant, data) if isinstance(data, bytes) else None
                if entry is not None and fits(entry):
                    dropped += int((await self._ask(pack(("UNLINK", name))) or (0,))[0])
            if cursor in (b"0", 0, "0"):
                return dropped

    async def records(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Give all answers of all tenants, each with its name: tenant and key.

        Raises:
            RedisUnavailable: these were not all.
        """
        cursor: Any = b"0"
        pattern = _globbed(self._keys.gateway("answer", "", "")).removesuffix("*").rpartition("answer:")[0]
        while True:
            answers = await self._ask(pack(("SCAN", cursor, "MATCH", f"{pattern}answer:*", "COUNT", 500)))
            if answers is None:
                raise RedisUnavailable(f"not all of Redis was seen: {self._why}")
            cursor, names = answers[0]
            for name in names:
                data = (await self._ask(pack(("GET", name))) or (None,))[0]
                if isinstance(data, bytes):
                    yield name.rpartition(b":gw:answer:")[2], data
            if cursor == b"0":
                return

    async def restore(self, name: bytes, data: bytes) -> bool:
        """Put an answer back that may still be served and is not there."""
        tenant, _, key = name.decode("latin-1").partition(":")
        entry = self._read("", data)
        milliseconds = 0 if entry is None else int((entry.expires - self._clock.time()) * 1000)
        if milliseconds <= 0 or not re.fullmatch(r"[\w-]{27}:[0-9a-f]{64}", f"{tenant}:{key}"):
            return False
        place = self._keys.gateway_place("answer", tenant, key)
        return bool((await self._ask(pack(("SET", place, data, "NX", "PX", milliseconds))) or (None,))[0])

    async def count_purge(self) -> None:
        """Let the other processes know that something was dropped."""
        await self._ask(pack(("INCR", self._purges)))

    async def purges(self) -> int | None:
        """Return how often something was dropped; None if Redis does not tell."""
        answers = await self._ask(pack(("GET", self._purges)))
        return None if answers is None else int(answers[0] or 0)

    def name(self, kind: str, tenant: str, name: str) -> str:
        """Return the key of what is counted for a tenant."""
        return self._keys.gateway(kind, tenant, name)

    async def ask(self, *commands: tuple[Any, ...]) -> list[Any] | None:
        """Send plain commands in one trip; None if Redis does not answer."""
        return await self._ask(b"".join(map(pack, commands)), len(commands))

    async def takes_turn(self, what: str, seconds: float) -> bool:
        """Whether this process is the one of several to do something now."""
        name = self._keys.gateway("turn", "", what)
        return bool(
            (await self._ask(pack(("SET", name, b"1", "NX", "PX", int(seconds * 1000)))) or (None,))[0]
        )

    async def follow_purges(self, memory: Memory) -> None:
        """Forget what is in memory when another process has dropped answers. Never ends."""
        known: int | None = None
        while True:
            count = await self.purges()
            if count is not None and known is not None and count != known:
                memory.purge(lambda _: True)
            known = known if count is None else count
            await asyncio.sleep(_LOOK_SECONDS)

    async def ping(self) -> bool:
        """Whether it answers."""
        return bool(await self._ask(pack(("PING",))))

    async def _ask(self, request: bytes, count: int = 1) -> list[Any] | None:
        if self.breaker.is_open:
            return None
        try:
            try:
                answers: list[Any] = await self._line().ask(request, count)
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
            except Exception as error:  # noqa: BLE001 - raised again, translated
                raise_translated(error, self._endpoint)
            return answers
        except (LixCacheError, OSError) as error:
            self.breaker.trip()
            self._note(error)
            return None

    def _line(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._opened is None or self._opened[0] is not loop:
            fits = Pipeline.fits(self._endpoint)
            line = Pipeline(self._endpoint) if fits else lazy_async_client(self._endpoint).connection_pool
            self._opened = (loop, line)
        return self._opened[1]

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None and isinstance(self._opened[1], Pipeline):
            self._opened[1].close()
        self._opened = None

    @property
    def _why(self) -> str:
        """The last trouble without its kind: what is raised for it has one."""
        return self.last_trouble.removeprefix("RedisUnavailable: ")

    def _note(self, error: BaseException) -> None:
        self.troubles += 1
        said = for_command_line(told(error))
        if said != self.last_trouble:
            logger.warning("the gateway goes on without Redis: {}", said)
        self.last_trouble = said


def _globbed(start: str) -> str:
    """Return the pattern of all keys that begin so, in any bucket."""
    literal = re.sub(r"[*?\[\]\\]", r"\\\g<0>", start)
    return re.sub(r"\{\d+\}", "{*}", literal, count=1) + "*"
