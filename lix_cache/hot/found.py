"""What the scripts of the semantic cache answer, as flows see it. See answers.py for what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from lix_cache.hot.entries import Meta, foreign, order_of, unpack_groups, unpack_meta

__all__ = [
    "AUDITS",
    "Counted",
    "Dropped",
    "Empty",
    "Everything",
    "Exact",
    "Following",
    "Found",
    "Gone",
    "Labels",
    "Neighbours",
    "News",
    "Place",
    "Put",
    "Reported",
    "Row",
    "Search",
    "Served",
    "TooOld",
    "pairs_of",
    "rows_of",
]

#: Names of what Redis keeps of audits.
AUDITS = ("late", "late_wrong", "audits", "audits_wrong")
#: Names of labels by bin, as Redis has them: ``right:3``.
_BINS = ("right", "wrong", "seen")


class Place(NamedTuple):
    """What an index knows: the generation of the scope, and how far in the log and the deletions."""

    generation: bytes
    log: bytes
    dropped: bytes


class Served(NamedTuple):
    """An entry that may answer, as it was at ``now_ms`` (Unix milliseconds by the server's clock)."""

    now_ms: float
    number: bytes
    meta: Meta
    response: bytes

    @classmethod
    def read(cls, now: bytes, number: bytes, meta: bytes, response: bytes) -> Served:
        """Read what a script says of it, word for word."""
        return cls(float(now), bytes(number), unpack_meta(meta), response)


# -- what a lookup finds; ``reported`` are the labels of answer groups that must not answer the query ----


class Exact(NamedTuple):
    """The answer to this very text."""

    served: Served


class Search(NamedTuple):
    """A vector set answers in this scope: ask :meth:`Answers.nearest`."""

    now_ms: float


class Empty(NamedTuple):
    """The scope has no entries."""

    now_ms: float
    reported: frozenset[int]
    more: bool = False
    rows: Sequence[Any] = ()


class News(NamedTuple):
    """What is new since the place that was sent.

    Attributes:
        rows: of the log, for :meth:`Row.read`.
        dropped: place and number of each entry that was dropped, for :meth:`Row.dropped`.
        more: there is more than this page: ask again from where it ends before anything is decided.
    """

    now_ms: float
    reported: frozenset[int]
    more: bool
    rows: Sequence[Any]
    dropped: Sequence[Any]


class Everything(NamedTuple):
    """The scope from its beginning: the place that was sent means nothing to the server, or too little."""

    now_ms: float
    reported: frozenset[int]
    more: bool
    rows: Sequence[Any]
    generation: bytes
    dropped_place: bytes


Following: TypeAlias = "Empty | News | Everything"
Found: TypeAlias = "Exact | Search | Following"


class Row(NamedTuple):
    """A row of the log.

    Attributes:
        number: its stream id.
        is_answer: it has the vector of a response; otherwise it is an entry's record.
        data: for :func:`~lix_cache.hot.entries.unpack_meaning` or ``unpack_record``.
    """

    number: bytes
    is_answer: bool
    data: Any

    @classmethod
    def read(cls, rows: Sequence[Any], after: bytes) -> list[Row]:
        """Read the rows behind a place.

        Raises:
            RedisCommandError: they are not what a writer of ours can have left.
        """
        end = order_of(after)
        try:
            return [
                cls(bytes(n), fields[0] == b"answer", fields[1]) for n, fields in rows if order_of(n) > end
            ]
        except (TypeError, ValueError, IndexError):
            raise foreign("the log", rows) from None

    @staticmethod
    def dropped(rows: Sequence[Any], after: bytes) -> list[tuple[bytes, bytes]]:
        """Return place and number of each entry that was dropped behind a place.

        Raises:
            RedisCommandError: as :meth:`read`.
        """
        end = order_of(after)
        try:
            return [(bytes(n), bytes(number)) for n, number in rows if order_of(n) > end]
        except (TypeError, ValueError, IndexError):
            raise foreign("the list of dropped entries", rows) from None


@dataclass(frozen=True)
class Neighbours:
    """What a search in a vector set brought, all of one moment.

    Attributes:
        found: the candidates, in the order of the log.
        metas: number of a candidate to what is known of it, packed.
        responses: digest to response, of some of the candidates.
        unseen: how near an entry may be that is none of them, as a cosine; -1 where all were found.
    """

    found: Everything
    metas: Mapping[bytes, bytes]
    responses: Mapping[bytes, bytes]
    unseen: float

    @classmethod
    def read(cls, reply: Any) -> Neighbours:
        """Read a reply. Its rows are checked when they are read, as news are."""
        now, reported, rows, responses, farthest = reply
        different = {bytes(number): (number, fields) for number, fields, _ in rows}
        ordered = sorted(different.values(), key=lambda row: order_of(row[0]))
        return cls(
            Everything(float(now), unpack_groups(reported), False, ordered, b"candidates", b"0-0"),
            {bytes(number): meta for number, _, meta in rows},
            dict(zip(responses[::2], responses[1::2], strict=True)),
            2.0 * float(farthest) - 1.0 if farthest else -1.0,
        )

    def served(self, number: bytes) -> Served | None:
        """Return a candidate; None if its response did not come along."""
        meta = unpack_meta(self.metas[number])
        response = self.responses.get(meta.response_key)
        return None if response is None else Served(self.found.now_ms, number, meta, response)


# -- what becomes of candidates ----------------------------------------------------------------------------


class Reported(NamedTuple):
    """One is alive, and was reported as wrong for this query."""


class TooOld(NamedTuple):
    """One is alive, and older than the question allows."""

    age_ms: float


class Gone(NamedTuple):
    """None is alive."""


# -- writing and counting ----------------------------------------------------------------------------------


class Put(NamedTuple):
    """An entry was stored: its number, and how many were evicted for it."""

    number: bytes
    evicted: int


class Dropped(NamedTuple):
    """How many entries were dropped, and where to go on; None: all were looked at."""

    entries: int
    cursor: bytes | None


class Labels(NamedTuple):
    """What a scope has learned about its own answers. See ``lix_cache.evaluation.adaptive.Counts``."""

    right: Mapping[int, float]
    wrong: Mapping[int, float]
    seen: Mapping[int, float]
    late: float = 0.0
    late_wrong: float = 0.0
    audits: int = 0
    audits_wrong: int = 0

    @classmethod
    def read(cls, reply: Sequence[Any]) -> Labels:
        """Read names and numbers in turn. What is neither is passed over."""
        bins: dict[str, dict[int, float]] = {name: {} for name in _BINS}
        ones = dict.fromkeys(AUDITS, 0.0)
        for name, value in zip(reply[::2], reply[1::2], strict=False):
            try:
                word, number = bytes(name).decode("ascii"), float(value)
            except (ValueError, TypeError):
                continue
            kind, _, place = word.partition(":")
            if not 0 <= number < 1e15:
                continue
            if word in ones:
                ones[word] = number
            elif kind in bins and place.isdigit():
                bins[kind][int(place)] = number
        late, audits = ones["late"], int(ones["audits"])
        wrong = min(audits, int(ones["audits_wrong"]))
        late_wrong = min(late, ones["late_wrong"])
        return cls(bins["right"], bins["wrong"], bins["seen"], late, late_wrong, audits, wrong)


class Counted(NamedTuple):
    """What a scope holds: entries that are alive, queries with a report, bytes, and its audits."""

    entries: int
    reported: int
    size: int
    labels: Labels


def rows_of(flat: Sequence[Any]) -> list[tuple[Any, tuple[Any, Any]]]:
    """Return rows of a stream, each with its one field, from a reply that has them one after the other."""
    return [(flat[i], (flat[i + 1], flat[i + 2])) for i in range(0, len(flat), 3)]


def pairs_of(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return places and numbers of what was dropped, from a reply that has them in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))
