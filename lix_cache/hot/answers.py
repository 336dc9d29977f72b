"""The scopes of the semantic cache in Redis: which command to send, and what its answer means. Sends nothing.

The Lua is in lua/answers/, the bytes of an entry in entries.py, what comes back in found.py;
docs/redis-layout.md is the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.hot.entries import part_field, unpack_groups
from lix_cache.hot.found import (
    AUDITS,
    Counted,
    Dropped,
    Empty,
    Everything,
    Exact,
    Found,
    Gone,
    Labels,
    Neighbours,
    News,
    Place,
    Put,
    Reported,
    Search,
    Served,
    TooOld,
    pairs_of,
    rows_of,
)
from lix_cache.hot.scripts import Command, Script, ScriptCall, Value

if TYPE_CHECKING:
    from lix_cache.hot.keys import AnswerKeys, Keys
    from lix_cache.vectors import FloatArray

__all__ = ["NO_USE", "Answers", "Candidate", "Fetch", "NewEntry", "Use"]

_MOST_NAMES = 4096


class Use(NamedTuple):
    """How a use of an entry is noted.

    Attributes:
        eviction: 0: not at all, 1: the last use, 2: the number of uses.
        slide_ms: how much it prolongs the entry's time to live; 0 for not at all.
    """

    eviction: int
    slide_ms: int


NO_USE = Use(0, 0)


class Fetch(IntEnum):
    """What :meth:`Answers.admit` is asked for."""

    #: Whether one is alive. Leaves no trace.
    LOOK = 0
    RESPONSE = 1
    #: Nothing: the client has the response, and its use is noted.
    NOTE = 2


class Candidate(NamedTuple):
    """An entry that a client would answer from, and how old its response may be in milliseconds."""

    number: bytes
    nonce: bytes
    most_ms: int | None = None


class NewEntry(NamedTuple):
    """What to store.

    Attributes:
        text_digest: digest of the text.
        meta: from ``pack_fixed``.
        record: from ``pack_record``.
        response: or the head of a large one.
        chunks: the parts of a large one.
        ttl_ms: at first.
        longest_ms: the longest that its time to live can get.
    """

    text_digest: bytes
    meta: bytes
    record: bytes
    response: bytes
    chunks: Sequence[bytes]
    ttl_ms: int
    longest_ms: int


_LOOKUP = Script("answers/lookup")
_LOOKUP_LARGE = Script("answers/lookup_large")
_NEAREST = Script("answers/nearest")
_FILL = Script("answers/fill")
_ADMIT = Script("answers/admit")
_STORE = Script("answers/store")
_ATTACH = Script("answers/attach")
_REPORT = Script("answers/report")
_LEARN = Script("answers/learn")
_CLEAN = Script("answers/clean")
_DROP = Script("answers/drop")
_CLEAR = Script("answers/clear")
_COUNT = Script("answers/count")
_PRUNE = Script("answers/prune")
_SCOPES = Script("answers/scopes")
_INVALIDATE = Script("answers/invalidate")


@dataclass(frozen=True)
class Answers:
    """Commands on scopes, each named by its id, and how to read the replies.

    Attributes:
        keys: names.
        large_from: entries from which on a vector set answers; None: never.
    """

    keys: Keys
    large_from: int | None = None
    _names: dict[str, AnswerKeys] = field(default_factory=dict, init=False, repr=False, compare=False)

    def place(self, scope: str) -> str:
        """Return a key on the server that has all of a scope."""
        return self._keys(scope).scopes

    def _keys(self, scope: str) -> AnswerKeys:
        names = self._names.get(scope)
        if names is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            names = self._names[scope] = self.keys.answers(scope)
        return names

    def _call(self, script: Script, scope: str, *args: Value) -> ScriptCall:
        return ScriptCall(script, self._keys(scope), args)

    # -- looking up -----------------------------------------------------------------------

    def lookup(
        self, scope: str, text_digest: bytes, place: Place, use: Use, *, fetch: bool, may_search: bool = True
    ) -> ScriptCall:
        """Ask for the exact answer, or for what is new.

        Args:
            scope: its id.
            text_digest: digest of the text.
            place: what the client knows.
            use: how a hit is noted.
            fetch: the response as well; otherwise only whether it is there.
            may_search: a vector set may answer in place of news.
        """
        args = (text_digest, *place, *use, int(fetch))
        if self.large_from is None or not may_search:
            return self._call(_LOOKUP, scope, *args)
        return self._call(_LOOKUP_LARGE, scope, *args, self.large_from)

    @staticmethod
    def found(reply: Any) -> Found:
        """Read what :meth:`lookup` answers."""
        kind, now, reported, *rest = reply
        if kind == b"exact":
            return Exact(Served.read(now, *rest))
        now_ms = float(now)
        if kind == b"search":
            return Search(now_ms)
        labels = unpack_groups(reported)
        if kind == b"empty":
            return Empty(now_ms, labels)
        if kind == b"news":
            more, rows, dropped = rest
            return News(now_ms, labels, bool(more), rows_of(rows), pairs_of(dropped))
        more, generation, rows, place = rest
        return Everything(now_ms, labels, bool(more), rows_of(rows), bytes(generation), bytes(place))

    def nearest(
        self,
        scope: str,
        text_digest: bytes,
        vector: FloatArray,
        *,
        wanted: int,
        effort: int,
        first: int,
        room: int,
    ) -> ScriptCall:
        """Search the vector set.

        Args:
            scope: its id.
            text_digest: digest of the text.
            vector: shape (dim,), unit length.
            wanted: how many neighbours.
            effort: paths that the search keeps open.
            first: of how many of the nearest the responses come along.
            room: bytes of these at most; -1: only say which are there.
        """
        return self._call(_NEAREST, scope, text_digest, vector.tobytes(), wanted, effort, first, room)

    @staticmethod
    def neighbours(reply: Any) -> Neighbours:
        """Read what :meth:`nearest` answers."""
        return Neighbours.read(reply)

    def fill(self, scope: str, most: int) -> ScriptCall:
        """Let the vector set of a large scope take some entries over."""
        return self._call(_FILL, scope, most, self.large_from or 0)

    def admit(
        self, scope: str, text_digest: bytes, candidates: Iterable[Candidate], use: Use, fetch: Fetch
    ) -> ScriptCall:
        """Ask for the first of some candidates that may answer, best first."""
        args: list[Value] = [text_digest, *use, int(fetch)]
        for number, nonce, most_ms in candidates:
            args += (number, nonce, "" if most_ms is None else most_ms)
        return self._call(_ADMIT, scope, *args)

    @staticmethod
    def admitted(reply: Any) -> Served | Reported | TooOld | Gone:
        """Read what :meth:`admit` answers."""
        kind, *rest = reply
        if kind == b"served":
            return Served.read(*rest)
        if kind == b"old":
            return TooOld(float(rest[0]))
        return Reported() if kind == b"reported" else Gone()

    def parts(self, scope: str, response_key: bytes, count: int) -> tuple[Command, ...]:
        """Return what fetches the parts of a large response."""
        name = self.keys.answers(scope).responses
        return tuple(("HGET", name, part_field(response_key, i)) for i in range(count))

    # -- writing --------------------------------------------------------------------------

    def store(
        self,
        scope: str,
        entry: NewEntry,
        items: Iterable[bytes],
        *,
        most: int,
        eviction: int,
        generation: bytes,
        began_ms: float | None = None,
    ) -> ScriptCall:
        """Store an entry.

        Args:
            scope: its id.
            entry: what to store.
            items: digests of the items of the scope's context.
            most: entries that the scope may have.
            eviction: which go where there are more, as in :class:`Use`; 0: the oldest.
            generation: of the scope if it is new.
            began_ms: when its making began, by the server's clock: it is not stored if it was
                invalidated since. None where that is not known.
        """
        digests = b"".join(sorted(items))
        fixed = (entry.text_digest, entry.ttl_ms, entry.longest_ms, entry.meta, entry.record, entry.response)
        began = "" if began_ms is None else f"{began_ms:.0f}"
        own = (most, eviction, generation, scope, digests, began)
        return self._call(_STORE, scope, *fixed, *own, *entry.chunks)

    @staticmethod
    def stored(reply: Any) -> Put | str:
        """Read what :meth:`store` answers, or why it was not stored.

        ``reported``: this answer was reported as wrong for this query; ``invalidated``: what it tells was
        invalidated since its making began.
        """
        return Put(bytes(reply[0]), int(reply[1])) if len(reply) > 1 else bytes(reply[0]).decode()

    def attach(self, scope: str, number: bytes, nonce: bytes, row: bytes) -> ScriptCall:
        """Add the vector of an entry's response, from ``pack_meaning``."""
        return self._call(_ATTACH, scope, number, nonce, row)

    def report(self, scope: str, text_digest: bytes, number: bytes, nonce: bytes) -> ScriptCall:
        """Report that an entry is wrong for a query.

        Answers 0 if there is no such entry, 1 if it is noted, 2 if it was dropped as well.
        """
        return self._call(_REPORT, scope, text_digest, number, nonce)

    # -- learning -------------------------------------------------------------------------

    @staticmethod
    def label(kind: str, place: int) -> str:
        """Return the name of ``right``, ``wrong`` or ``seen`` in a bin."""
        return f"{kind}:{place}"

    def learn(self, scope: str, fade: float, fade_audits: float, added: Mapping[str, float]) -> ScriptCall:
        """Age the labels of a scope, add some, and ask for all. Answers what :meth:`Labels.read` takes."""
        return self._call(
            _LEARN, scope, fade, fade_audits, *(word for pair in added.items() for word in pair)
        )

    def count(self, scope: str) -> ScriptCall:
        """Count what a scope holds."""
        return self._call(_COUNT, scope, *AUDITS)

    @staticmethod
    def counted(reply: Any) -> Counted:
        """Read what :meth:`count` answers."""
        entries, reported, size, *audits = reply
        named = [
            part for name, number in zip(AUDITS, audits, strict=True) for part in (name.encode(), number)
        ]
        return Counted(int(entries), int(reported), int(size), Labels.read(named))

    # -- dropping -------------------------------------------------------------------------

    def drop(
        self,
        scope: str,
        older_ms: int | None,
        tags: bytes,
        *,
        most: int = 0,
        cursor: bytes = b"0",
        named: Iterable[tuple[bytes, bytes]] = (),
        text_digest: bytes | None = None,
    ) -> ScriptCall:
        """Drop entries that fit: those that are named, or of one text, or a page of all.

        Args:
            scope: its id.
            older_ms: least age; None: any.
            tags: from ``tag_words``, of which one must fit; empty: any.
            most: entries of the page, about.
            cursor: where it begins.
            named: number and nonce of entries.
            text_digest: digest of a text.
        """
        words = [part for pair in named for part in pair]
        if text_digest is not None:
            words += (b"=", text_digest)
        return self._call(_DROP, scope, cursor, most, "" if older_ms is None else older_ms, tags, *words)

    @staticmethod
    def dropped(reply: Any) -> Dropped:
        """Read what :meth:`drop` answers."""
        cursor = bytes(reply[0])
        return Dropped(int(reply[1]), None if cursor == b"0" else cursor)

    def clear(self, scope: str) -> ScriptCall:
        """Drop a scope. Answers how many entries it had."""
        return self._call(_CLEAR, scope, scope)

    def clean(self, scope: str, most: int) -> ScriptCall:
        """Drop expired entries. Answers how many."""
        return self._call(_CLEAN, scope, most)

    # -- all scopes of a bucket -----------------------------------------------------------

    def invalidate(
        self, bucket: int, items: Iterable[bytes], older_ms: int | None, tags: bytes, nonce: bytes
    ) -> ScriptCall:
        """Note what is about to be dropped of a bucket, so that answers that are being made are not stored.

        Args:
            bucket: of the scopes.
            items: digests of the items that their contexts have.
            older_ms: least age; None: any.
            tags: from ``tag_words``, of which one must fit; empty: any.
            nonce: 8 random bytes.
        """
        words = b"".join(items)
        args: tuple[Value, ...] = (older_ms or 0, len(words), words + tags, nonce)
        return ScriptCall(_INVALIDATE, self.keys.answer_registry(bucket), args)

    def prune(self, bucket: int, most: int) -> ScriptCall:
        """Forget some scopes that have expired. Answers how many."""
        return ScriptCall(_PRUNE, self.keys.answer_registry(bucket), (most,))

    def scopes(self, bucket: int, cursor: bytes) -> ScriptCall:
        """List some scopes; begin with the cursor ``b"0"``."""
        return ScriptCall(_SCOPES, self.keys.answer_registry(bucket), (cursor,))

    @staticmethod
    def listed(reply: Any) -> tuple[bytes | None, list[tuple[str, frozenset[bytes]]]]:
        """Read what :meth:`scopes` answers: where to go on (None: done), and scopes with their items."""
        cursor, flat = reply
        found = [
            (scope.decode(), frozenset(packed[i : i + 8] for i in range(0, len(packed), 8)))
            for scope, packed in zip(flat[0::2], flat[1::2], strict=True)
        ]
        return (None if bytes(cursor) == b"0" else bytes(cursor)), found
