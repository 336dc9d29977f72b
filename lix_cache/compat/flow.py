"""What the query cache and the URL cache do, step by step. See lix_cache.effects."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.checks import check_seconds
from lix_cache.compat.ring import NONCE_BYTES, ROUNDING, Match, best_match, make_slot, unit_vector
from lix_cache.effects import Flow, RedisBatch, RedisCall
from lix_cache.errors import (
    DimensionMismatch,
    InvalidMessage,
    LixCacheError,
    RedisCommandError,
    RedisUnavailable,
)
from lix_cache.hot.breaker import Breaker
from lix_cache.hot.keys import Keys, digest
from lix_cache.hot.scripts import RING_CLEAR, RING_COUNT, RING_SET, Command, ScriptCall
from lix_cache.hot.slots import key_of
from lix_cache.messages.message import check_json, decode_json, encode_json
from lix_cache.vectors import as_float32, check_dimension

if TYPE_CHECKING:
    from lix_cache.clock import Clock
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["QueryCache", "UrlCache", "ttl_ms"]

T = TypeVar("T")

#: A hundred years: Redis refuses an expiry that it cannot represent.
_LONGEST_TTL_MS = 100 * 366 * 86_400_000
#: Scopes that one script drops.
_SCOPES_AT_ONCE = 500


@dataclass
class _Cache:
    """What both caches share.

    Attributes:
        keys: names.
        embedder: id of the model that makes the vectors; vectors of others are never seen.
        dim: dimension every vector must have; None for whatever is stored.
        ttl_seconds: time to live of an entry.
        miss_on_error: answer with a counted miss while Redis is away, instead of raising.
        breaker: whether Redis was gone a moment ago; of several servers, one for each.
        clock: time.
        counters: what happened.
    """

    keys: Keys
    embedder: str
    dim: int | None
    ttl_seconds: float
    miss_on_error: bool
    breaker: Breaker
    clock: Clock
    counters: Counter[str] = field(default_factory=Counter)

    def _place(self) -> str | None:
        """Return a key on the server of all that the cache holds; None where that is not one server."""
        return ""

    def guarded(self, flow: Flow[T], otherwise: Callable[[], T]) -> Flow[T]:
        """Run a flow under the policy for trouble with Redis."""
        if not self.miss_on_error:
            return (yield from flow)
        place = self._place()
        breaker = self.breaker.of(place)
        try:
            if place is not None and breaker.is_open:
                # Up to its first effect a flow only checks what it was given, and that
                # is to be refused whether Redis is there or not.
                with contextlib.suppress(StopIteration):
                    flow.send(None)
                    flow.close()
                self.counters["degraded"] += 1
                return otherwise()
            return (yield from flow)
        except RedisUnavailable as error:
            breaker.met(error)
            self.counters["degraded"] += 1
            return otherwise()

    @property
    def now_ms(self) -> float:
        return self.clock.time() * 1000


@dataclass
class QueryCache(_Cache):
    """Responses of one session, by URL and by the meaning of the query.

    Attributes:
        session_id: whose responses; no other session sees them.
        threshold: least cosine similarity of a hit.
        capacity: entries per URL, first in first out.
        new_nonce: makes 8 random bytes.
    """

    session_id: str = ""
    threshold: float = 0.9
    capacity: int = 50
    new_nonce: Callable[[], bytes] = lambda: bytes(NONCE_BYTES)

    def _place(self) -> str:
        return self.keys.semantic_scopes(self.session_id)

    def _scope(self, url: str) -> str:
        return _scope(self.session_id, checked_url(url), self.embedder)

    def _vectors(self, scope: str) -> str:
        return self.keys.semantic_vectors(self.session_id, scope)

    def _responses(self, scope: str) -> str:
        return self.keys.semantic_responses(self.session_id, scope)

    def get(self, url: str, embedding: VectorLike) -> Flow[Any]:
        """Look one query up: one round trip for a miss, two for a hit."""
        query = self._query(embedding)
        scope = self._scope(url)
        data = yield RedisCall(("GET", self._vectors(scope)))
        match = self._match(data, query)
        if match is None:
            return None
        stored = yield RedisCall(("HGET", self._responses(scope), match.number))
        return self._response(stored, match)

    def get_many(self, queries: Sequence[tuple[str, VectorLike]]) -> Flow[list[Any]]:
        """Look several queries up: one round trip, and one more if any of them hits."""
        if not queries:
            return []
        vectors = [self._query(embedding) for _, embedding in queries]
        scopes = [self._scope(url) for url, _ in queries]
        rings = yield RedisBatch(tuple(("GET", self._vectors(scope)) for scope in scopes))
        matches = [self._match(data, query) for data, query in zip(rings, vectors, strict=True)]
        hits = [(i, match) for i, match in enumerate(matches) if match is not None]
        results: list[Any] = [None] * len(queries)
        if hits:
            commands = tuple(("HGET", self._responses(scopes[i]), match.number) for i, match in hits)
            stored = yield RedisBatch(commands)
            for (i, match), value in zip(hits, stored, strict=True):
                results[i] = self._response(value, match)
        return results

    def set_many(
        self, entries: Iterable[tuple[str, VectorLike, Any]], ttl_seconds: float | None = None
    ) -> Flow[None]:
        """Store responses: one round trip for all."""
        # All are checked before the first is sent.
        commands = tuple(self._set(url, vector, value, ttl_seconds) for url, vector, value in entries)
        if not commands:
            return
        replies: list[Any]
        if len(commands) == 1:
            replies = [(yield RedisCall(commands[0]))]
        else:
            replies = yield RedisBatch(commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, list):
                raise DimensionMismatch(int(reply[1]), int(command.args[0]), "the semantic cache")
        self.counters["sets"] += len(commands)

    def _set(self, url: str, vector: VectorLike, value: Any, ttl_seconds: float | None) -> ScriptCall:
        if value is None:
            raise InvalidMessage("the response must not be None: None is what a miss answers")
        check_json(value, "the response")
        unit = self._query(vector)
        scope, nonce = self._scope(url), self.new_nonce()
        ttl = ttl_ms(self.ttl_seconds if ttl_seconds is None else ttl_seconds)
        return ScriptCall(
            RING_SET,
            (self._vectors(scope), self._responses(scope), self.keys.semantic_scopes(self.session_id)),
            (
                unit.size,
                self.capacity,
                make_slot(unit, nonce, self.now_ms + ttl),
                nonce + encode_json(value),
                ttl,
                scope,
            ),
        )

    def clear(self) -> Flow[int]:
        """Drop every entry of the session. Returns how many URLs had any."""
        index = self.keys.semantic_scopes(self.session_id)
        cleared = 0
        while True:
            found: list[bytes] = yield RedisCall(("ZRANGE", index, 0, _SCOPES_AT_ONCE - 1))
            if found:
                names = [scope.decode("utf-8", "replace") for scope in found]
                kept = [key for name in names for key in (self._vectors(name), self._responses(name))]
                yield RedisCall(ScriptCall(RING_CLEAR, (index, *kept), tuple(found)))
                cleared += len(found)
            if len(found) < _SCOPES_AT_ONCE:
                return cleared

    def count_urls(self) -> Flow[int]:
        """Count the URLs that have entries."""
        index = self.keys.semantic_scopes(self.session_id)
        return int((yield RedisCall(ScriptCall(RING_COUNT, (index,), ()))))

    def _query(self, embedding: VectorLike) -> FloatArray:
        unit = unit_vector(embedding)
        check_dimension(unit.size, self.dim, "the semantic cache (embedding_dim)")
        return unit

    def _match(self, data: bytes | None, query: FloatArray) -> Match | None:
        least = self.threshold - ROUNDING
        match = best_match(data, query, self.now_ms, least) if data else None
        if match is None:
            self.counters["misses"] += 1
            return None
        return match

    def _response(self, stored: bytes | None, match: Match) -> Any:
        # Between the two round trips the entry may have been replaced by another
        # answer under the same number; its nonce tells.
        if stored is None or stored[:NONCE_BYTES] != match.nonce:
            self.counters["misses"] += 1
            return None
        try:
            response = decode_json(stored[NONCE_BYTES:])
        except ValueError as error:
            raise RedisCommandError(f"a cached response holds foreign data: {error}") from None
        self.counters["hits"] += 1
        return response


@dataclass
class UrlCache(_Cache):
    """URL embeddings, shared by all sessions.

    Attributes:
        batch_size: URLs per round trip.
        is_spread: the server is known to be a cluster, which has the keys in many slots.
    """

    batch_size: int = 100
    is_spread: bool = False

    def _place(self) -> str | None:
        return None if self.is_spread else ""

    def _key(self, url: str) -> bytes:
        return self.keys.url_embedding(checked_url(url), self.embedder)

    def get(self, url: str) -> Flow[FloatArray | None]:
        """Read one embedding: one round trip."""
        checked_url(url)  # before it is the key of what was found
        return (yield from self.get_many([url]))[url]

    def get_many(self, urls: Sequence[str]) -> Flow[dict[str, FloatArray | None]]:
        """Read embeddings: one round trip for each ``batch_size``."""
        found: dict[str, FloatArray | None] = dict.fromkeys(urls)
        for part in self._parts(list(found)):
            reply = yield from self._values({url: self._key(url) for url in part})
            found.update({url: self._decode(data) for url, data in reply.items()})
        return found

    def _values(self, keys: dict[str, bytes]) -> Flow[dict[str, bytes | None]]:
        if not self.is_spread:
            one = len(keys) == 1
            try:
                reply = yield RedisCall(("GET" if one else "MGET", *keys.values()))
                return dict(zip(keys, [reply] if one else reply, strict=True))
            except RedisCommandError as error:
                if error.code != "CROSSSLOT":
                    raise
            # A cluster. Nothing was done; asked once for each object.
            self.is_spread = True
        return (yield from self._each({url: ("GET", key) for url, key in keys.items()}))

    def _each(self, commands: Mapping[str, Command]) -> Flow[dict[str, Any]]:
        """Send commands in one round trip. Returns the answers by URL.

        Where trouble is a miss, those on a server that is away have none, and the others do.
        """
        breakers = {url: self.breaker.of(key_of(command)) for url, command in commands.items()}
        # Where there is one server it has been looked at, and something must be sent.
        if self.miss_on_error and self.is_spread:
            commands = {url: command for url, command in commands.items() if not breakers[url].is_open}
        answers: dict[str, Any] = {}
        if commands:
            replies = yield RedisBatch(tuple(commands.values()), errors_as_values=True)
            answers = dict(zip(commands, replies, strict=True))
        for url, reply in list(answers.items()):
            if isinstance(reply, RedisUnavailable) and self.miss_on_error:
                breakers[url].met(reply)
                del answers[url]
            elif isinstance(reply, LixCacheError):
                raise reply
        self.counters["degraded"] += len(answers) < len(breakers)
        return answers

    def set_many(self, embeddings: Mapping[str, VectorLike]) -> Flow[dict[str, bool]]:
        """Store embeddings: one round trip for each ``batch_size``."""
        commands: dict[str, Command] = {url: self._set(url, v) for url, v in embeddings.items()}
        stored: dict[str, bool] = dict.fromkeys(commands, False)
        for part in self._parts(list(commands)):
            if len(part) == 1 and not self.is_spread:
                yield RedisCall(commands[part[0]])
                stored[part[0]] = True
            else:
                done = yield from self._each({url: commands[url] for url in part})
                stored.update(dict.fromkeys(done, True))
        self.counters["sets"] += sum(stored.values())
        return stored

    def _set(self, url: str, embedding: VectorLike) -> Command:
        array = as_float32(embedding)
        check_dimension(array.size, self.dim, "the URL cache (embedding_dim)")
        return ("SET", self._key(url), array.tobytes(), "PX", ttl_ms(self.ttl_seconds))

    def _decode(self, data: bytes | None) -> FloatArray | None:
        import numpy as np

        if data is None:
            self.counters["misses"] += 1
            return None
        if not data or len(data) % 4:
            raise RedisCommandError(f"a URL cache key holds {len(data)} bytes of foreign data")
        array: FloatArray = np.frombuffer(data, dtype="<f4").copy()
        if not np.isfinite(array).all():
            raise RedisCommandError("a URL cache key holds foreign data: not all numbers are finite")
        check_dimension(array.size, self.dim, "the URL cache")
        self.counters["hits"] += 1
        return array

    def _parts(self, urls: list[str]) -> Generator[list[str], None, None]:
        for start in range(0, len(urls), self.batch_size):
            yield urls[start : start + self.batch_size]


@lru_cache(maxsize=256)
def _scope(session_id: str, url: str, embedder: str) -> str:
    return digest(session_id, url, embedder)


def ttl_ms(ttl_seconds: float) -> int:
    """Return a time to live in whole milliseconds, at least one.

    Raises:
        ConfigError: so many seconds cannot be a time to live.
    """
    check_seconds("ttl_seconds", ttl_seconds)
    return max(1, int(min(ttl_seconds * 1000, _LONGEST_TTL_MS)))


def checked_url(url: object) -> str:
    if not isinstance(url, str):
        raise InvalidMessage(f"the URL must be a str, got {type(url).__name__}")
    return url
