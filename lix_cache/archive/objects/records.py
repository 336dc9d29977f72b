"""What the log says of sessions, and its bytes. Touches nothing. docs/object-layout.md"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lix_cache._cached_property import cached_property
from lix_cache.archive.tombstones import Deletion
from lix_cache.errors import ArchiveCorrupt, CodecError
from lix_cache.messages.turn import NONCE_BYTES, ZERO_ID, MessageId
from lix_cache.storage.varints import Reader, put_varint, put_varints

__all__ = [
    "DELETED",
    "EMPTY",
    "TOKEN_BYTES",
    "TRASHED",
    "Part",
    "Record",
    "State",
    "Trashed",
    "decoded",
    "folded",
    "get_record",
    "get_state",
    "marks_of",
    "put_name",
    "put_record",
    "put_state",
]

TOKEN_BYTES = 16
_NO_TOKEN = bytes(TOKEN_BYTES)
#: Bytes of the smallest part: a reader makes no list of more than there can be.
_SMALLEST_PART = 8
NO_DELETION = Deletion()
_NO_DOUBTS: Mapping[bytes, MessageId] = {}
_TURNS, _STATE, _LEASE = 1, 2, 3
#: Marks in the first byte of a state: a deletion is noted; something is in the trash; it was only moved.
DELETED, TRASHED, _MOVED = 4, 8, 32


class Part(NamedTuple):
    """One frame of a session, in a segment.

    Attributes:
        segment: the number of the segment; None for the one that is being made.
        offset: from the begin of the object; of the one that is being made, from its first frame.
        length: of the frame.
        turns: how many are in it.
        first: the smallest id in it.
        last: the largest.
    """

    segment: int | None
    offset: int
    length: int
    turns: int
    first: MessageId
    last: MessageId

    def at(self, segment: int | None, begin: int) -> Part:
        """Return the part by its place in the log, if it is of a segment whose frames begin there."""
        return (
            self if self.segment is not None else self._replace(segment=segment, offset=begin + self.offset)
        )


@dataclass(frozen=True)
class State:
    """All that the archive knows of a session, but for the turns themselves.

    Attributes:
        is_there: whether there is a session; else what is remembered of one.
        created_ms, updated_ms, stamped_ms: Unix milliseconds: made, appended to, changed in any way.
        parts: where its turns are.
        changed_ms: when turns were last taken out, replaced or cleared; 0 if never.
        hidden: turns in the parts that were taken out.
        changes: how often turns were taken out or replaced, or added where the last id does not tell of them.
        cleared: turns up to here are no longer part of the context.
        dropped: what a window holds up to here is gone.
        largest: the largest id that it ever had, if no part says it.
        doubts: messages of which Redis may hold other copies: nonce and id.
        gone: messages that were taken out: sign and id.
        deletion: what is remembered of its deletions.
        noted_ms: when that was noted.
        pending: Redis and the archive must be reconciled.
        trash: what expired, each with the time in Unix milliseconds.
        token: of the holder of its lease; empty if there is none.
        version: 1 + the number of the segment that changed it last.
        erased: 1 + the number of the segment that made it, or last changed it in any way but by turns that
            came to it or by moving it. What it has left in later ones are copies of what it still has.
        moved: that segment has only moved it; ``stamped_ms`` says when the store had it before.
    """

    is_there: bool = False
    created_ms: int = 0
    updated_ms: int = 0
    stamped_ms: int = 0
    changed_ms: int = 0
    parts: tuple[Part, ...] = ()
    hidden: int = 0
    changes: int = 0
    cleared: MessageId = ZERO_ID
    dropped: MessageId = ZERO_ID
    largest: MessageId = ZERO_ID
    doubts: Mapping[bytes, MessageId] = field(default_factory=dict)
    gone: Mapping[bytes, MessageId] = field(default_factory=dict)
    deletion: Deletion = NO_DELETION
    noted_ms: int = 0
    pending: bool = False
    trash: tuple[Trashed, ...] = ()
    token: bytes = b""
    version: int = 0
    erased: int = 0
    moved: bool = False

    @cached_property
    def newest(self) -> MessageId:
        """The largest id that it has, or ever had."""
        return max([self.largest, *[part.last for part in self.parts]])

    @property
    def total(self) -> int:
        """Turns that a reader has."""
        return sum(part.turns for part in self.parts) - self.hidden

    @property
    def size(self) -> int:
        """Bytes of its frames."""
        return sum(part.length for part in self.parts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing needs to be remembered."""
        return (
            not (self.is_there or self.pending or self.trash or self.token) and self.deletion == NO_DELETION
        )

    def all_parts(self) -> Iterable[Part]:
        """Yield what must be kept for it: of the trash as well."""
        yield from self.parts
        for one in self.trash:
            yield from one.state.parts

    def but(self, **changed: Any) -> State:
        """Return the state with other values: ``dataclasses.replace`` in a fifth of the time.

        For what each commit does once for every session in it. ``newest`` is taken as well: who adds a part
        need not look at all of them.
        """
        made = object.__new__(State)
        own = made.__dict__
        own.update(self.__dict__)
        if "parts" in changed or "largest" in changed:
            own.pop("newest", None)
        own.update(changed)
        return made

    def without_session(self) -> State:
        """Return what is remembered where the session itself goes."""
        return State(
            deletion=self.deletion,
            noted_ms=self.noted_ms,
            pending=self.pending,
            trash=self.trash,
            token=self.token,
        )


class Trashed(NamedTuple):
    """A session in the trash."""

    ms: int
    state: State


EMPTY = State()


class Record(NamedTuple):
    """What a commit says of one session. Of the last three exactly one counts.

    Attributes:
        session_id: the stored id.
        at_ms: when, by the writer's clock.
        parts, doubts: turns that come to it.
        state: what it is from now on.
        token: of the holder of its lease, empty to let go.
    """

    session_id: str
    at_ms: int
    parts: tuple[Part, ...] = ()
    doubts: Mapping[bytes, MessageId] = _NO_DOUBTS
    state: State | None = None
    token: bytes | None = None

    def placed(self, segment: int | None, begin: int) -> Record:
        """Return it with every part at its place in the log; None is the segment that is being made."""
        parts = tuple([part.at(segment, begin) for part in self.parts])
        state = None if self.state is None else _placed(self.state, segment, begin)
        return self._replace(parts=parts, state=state)


def _placed(state: State, segment: int | None, begin: int) -> State:
    trash = tuple(one._replace(state=_placed(one.state, segment, begin)) for one in state.trash)
    return replace(state, parts=tuple(part.at(segment, begin) for part in state.parts), trash=trash)


def folded(state: State, record: Record, number: int) -> State:
    """Return what a session is after a record of the segment of a number."""
    if record.token is not None:
        return state.but(token=record.token)
    if record.state is not None:
        after = record.state
        # Who empties the trash does not touch the rest of the state.
        is_whole = after.moved and len(after.trash) == len(state.trash)
        erased = 0 if not after.is_there else state.erased if is_whole else number + 1
        return after.but(version=number + 1, erased=erased)
    # The larger time: of two clocks neither is believed to expire anything.
    at_ms = max(state.updated_ms, record.at_ms)
    # The last id does not tell of a turn that lands below it, so the revision must.
    newest = state.newest
    is_below = any(part.first < newest for part in record.parts)
    return state.but(
        newest=max([newest, *[part.last for part in record.parts]]),
        is_there=True,
        changes=state.changes + is_below,
        created_ms=state.created_ms if state.is_there else record.at_ms,
        updated_ms=at_ms,
        stamped_ms=max(state.stamped_ms, at_ms),
        moved=False,
        parts=state.parts + record.parts,
        doubts={**state.doubts, **record.doubts} if record.doubts else state.doubts,
        version=number + 1,
        erased=state.erased if state.is_there else number + 1,
    )


# -- bytes ------------------------------------------------------------------------------------


def put_name(out: bytearray, name: str) -> None:
    """Append a stored id."""
    data = name.encode()
    put_varint(out, len(data))
    out += data


def put_record(out: bytearray, record: Record) -> None:
    """Append a record."""
    put_name(out, record.session_id)
    kind = _LEASE if record.token is not None else _TURNS if record.state is None else _STATE
    out.append(kind)
    put_varint(out, record.at_ms)
    if record.token is not None:
        out += record.token or _NO_TOKEN
    elif record.state is not None:
        put_state(out, record.state)
    else:
        _put_parts(out, record.parts)
        _put_doubts(out, record.doubts)


def get_record(read: Reader) -> Record:
    """Read a record.

    Raises:
        CodecError: the bytes are none.
    """
    session_id = read.text(read.varint())
    kind = read.take(1)[0]
    at_ms = read.varint()
    if kind == _TURNS:
        return Record(session_id, at_ms, parts=_get_parts(read), doubts=_get_doubts(read))
    if kind == _STATE:
        return Record(session_id, at_ms, state=get_state(read))
    if kind == _LEASE:
        return Record(session_id, at_ms, token=_token(read))
    raise CodecError(f"a record of the unknown kind {kind}")


def _token(read: Reader) -> bytes:
    token = read.take(TOKEN_BYTES)
    return b"" if token == _NO_TOKEN else token


def marks_of(state: State) -> int:
    """Return the byte that a state begins with."""
    noted, trashed = state.deletion != NO_DELETION, bool(state.trash)
    own = state.is_there | state.pending << 1 | bool(state.token) << 4 | _MOVED * state.moved
    return own | DELETED * noted | TRASHED * trashed


def put_state(out: bytearray, state: State) -> None:
    """Append a state."""
    marks = marks_of(state)
    out.append(marks)
    if state.is_there:
        times = (state.created_ms, state.updated_ms, state.stamped_ms, state.changed_ms)
        counts = (state.hidden, state.changes, state.erased)
        put_varints(out, (*times, *counts, *state.cleared, *state.dropped, *state.largest))
        _put_parts(out, state.parts)
        _put_doubts(out, state.doubts)
        _put_doubts(out, state.gone)
    if marks & DELETED:
        for number in (*state.deletion.up_to, state.noted_ms, len(state.deletion.nonces)):
            put_varint(out, number)
        out += b"".join(sorted(state.deletion.nonces))
    if state.trash:
        put_varint(out, len(state.trash))
        for one in state.trash:
            put_varint(out, one.ms)
            put_state(out, replace(one.state, trash=()))
    out += state.token
    put_varint(out, state.version)


def get_state(read: Reader, *, nested: bool = False) -> State:
    """Read a state.

    Raises:
        CodecError: the bytes are none.
    """
    flags = read.take(1)[0]
    if flags & (0b11001000 if nested else 0b11000000):
        raise CodecError(f"a state with unknown flags {flags}")
    state = State(is_there=bool(flags & 1), pending=bool(flags & 2), moved=bool(flags & _MOVED))
    if state.is_there:
        created, updated, stamped, changed, hidden, changes, erased = [read.varint() for _ in range(7)]
        state = state.but(
            created_ms=created, updated_ms=updated, stamped_ms=stamped,
            changed_ms=changed, hidden=hidden, changes=changes, erased=erased,
            cleared=_id(read), dropped=_id(read), largest=_id(read), parts=_get_parts(read),
            doubts=_get_doubts(read), gone=_get_doubts(read),
        )  # fmt: skip
    if flags & DELETED:
        up_to, noted_ms, count = _id(read), read.varint(), read.varint()
        data = read.take(count * NONCE_BYTES)
        nonces = frozenset(data[i : i + NONCE_BYTES] for i in range(0, len(data), NONCE_BYTES))
        state = state.but(deletion=Deletion(up_to, nonces), noted_ms=noted_ms)
    if flags & TRASHED:
        count = read.varint()
        if count > read.remaining:
            raise CodecError("more in the trash than there can be")
        trash = tuple(Trashed(read.varint(), get_state(read, nested=True)) for _ in range(count))
        state = state.but(trash=trash)
    token = read.take(TOKEN_BYTES) if flags & 16 else b""
    return state.but(token=token, version=read.varint())


def _id(read: Reader) -> MessageId:
    return MessageId(read.varint(), read.varint())


def _put_parts(out: bytearray, parts: Iterable[Part]) -> None:
    parts = tuple(parts)
    put_varint(out, len(parts))
    for segment, offset, length, turns, first, last in parts:
        number = 0 if segment is None else segment + 1
        put_varints(out, (number, offset, length, turns, *first, *last))


def _get_parts(read: Reader) -> tuple[Part, ...]:
    count = read.varint()
    if count * _SMALLEST_PART > read.remaining:
        raise CodecError("more parts than there can be")
    return tuple([_part(read) for _ in range(count)])


def _part(read: Reader) -> Part:
    segment, offset, length, turns = [read.varint() for _ in range(4)]
    return Part(segment - 1 if segment else None, offset, length, turns, _id(read), _id(read))


def _put_doubts(out: bytearray, doubts: Mapping[bytes, MessageId]) -> None:
    put_varint(out, len(doubts))
    for nonce in sorted(doubts):
        out += nonce
        for number in doubts[nonce]:
            put_varint(out, number)


def _get_doubts(read: Reader) -> dict[bytes, MessageId]:
    count = read.varint()
    if count * (NONCE_BYTES + 2) > read.remaining:
        raise CodecError("more doubts than there can be")
    return {read.take(NONCE_BYTES): _id(read) for _ in range(count)}


def decoded(what: str, name: str, error: CodecError | str) -> ArchiveCorrupt:
    """Return the error of an object that is not what it should be."""
    return ArchiveCorrupt(
        f"{what} {name!r} is invalid: {error}. Nothing was changed; restore the object from a version of the "
        "bucket, or from a copy ('lix-cache archive copy' makes one)"
    )
