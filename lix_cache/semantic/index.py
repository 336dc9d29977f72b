"""The packed vectors of a scope in this process, kept in step with Redis. No I/O.

Each lookup brings what is new in the scope's log (lix_cache/hot/lua/answers/news.lua), so the index
is always as new as the lookup that uses it.
Search is exact: one product of a matrix and a vector, which costs half a millisecond for
10,000 vectors of 384 numbers, and needs no tuning and no training. It is ``einsum`` and not
``@``: that would go to a BLAS with threads of its own, which take half the time on an idle
machine, and twenty times as long where another thread keeps one of the cores busy, because
they wait for each other. (Looking at leading principal components first, with a bound on
the rest, was weighed: as exact, but it must be fitted to each scope, and saves less than
half of that half millisecond.)

Several threads may bring the same news at the same time, in any order: news that are here
already are passed over. A search works on a :class:`View` that later news do not change,
because they are written behind its end or into new arrays; only that an entry is gone shows
in it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.hot.entries import Record, foreign, order_of, unpack_meaning, unpack_record
from lix_cache.hot.found import Empty, Everything, Following, Place, Row

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lix_cache.vectors import FloatArray

__all__ = ["ScopeIndex", "View"]

#: What a record costs beside its vectors and its text, about; and an index without any.
_OVERHEAD = 400
_EMPTY_BYTES = 2048
_START = b"0-0"


@dataclass(frozen=True)
class View:
    """The entries of a scope as one lookup sees them.

    Attributes:
        vectors: shape (n, dim), unit length.
        groups: shape (n,); equal labels answer the same.
        expires: Unix milliseconds, shape (n,); minus infinity for an entry that is gone.
        records: n of them or more; those beyond are not part of the view.
        answers: vectors of the responses, shape (n, dim), or None where answers are
            compared by their bytes. All zeros where a response has none.
    """

    vectors: FloatArray
    groups: npt.NDArray[np.int64]
    expires: npt.NDArray[np.float64]
    records: Sequence[Record]
    answers: FloatArray | None = None

    def similarities(self, query: FloatArray, now_ms: float) -> FloatArray:
        """Return the cosine of the query and each entry; minus infinity for one that is not alive.

        Some are gone in nearly every large scope. To select the others would copy all that is known of them.

        Args:
            query: shape (dim,), unit length.
            now_ms: Unix milliseconds by the server's clock.
        """
        import numpy as np

        similarities: FloatArray = np.einsum("ij,j->i", self.vectors, query)
        # What rounding makes of equal vectors is not more than equal.
        np.minimum(similarities, np.float32(1.0), out=similarities)
        similarities[self.expires <= now_ms] = -np.inf
        return similarities


class ScopeIndex:
    """The live entries of one scope.

    Args:
        dim: how many numbers a vector has.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = threading.Lock()
        self._clear(b"")

    def _clear(self, generation: bytes) -> None:
        import numpy as np

        self._generation = generation
        self._log = self._gone = _START
        self._size = 0
        self._vectors: FloatArray = np.empty((0, self.dim), np.float32)
        self._answers: FloatArray | None = None
        self._groups: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._expires: npt.NDArray[np.float64] = np.empty(0, np.float64)
        self._records: list[Record] = []
        self._rows: dict[bytes, int] = {}
        self._text_bytes = 0
        # No entry has ended before this time.
        self._soonest = float("inf")

    @property
    def place(self) -> Place:
        """What to send with a lookup: generation, place in the log, place in the deletions."""
        with self._lock:
            return self._place

    @property
    def _place(self) -> Place:
        return Place(self._generation, self._log, self._gone)

    @property
    def nbytes(self) -> int:
        """Memory it takes, about."""
        answers = 0 if self._answers is None else self._answers.nbytes
        records = self._text_bytes + len(self._records) * _OVERHEAD
        return _EMPTY_BYTES + self._vectors.nbytes + answers + records

    def __len__(self) -> int:
        """Entries that a view has: those that are gone, or have expired, stay for a while."""
        return self._size

    def view(self) -> View:
        """Return what there is, without asking Redis for news."""
        with self._lock:
            return self._view()

    def follow(self, found: Following, asked: Place) -> View | None:
        """Take in what a lookup brought, and return what there is now.

        None if what was found does not fit what another thread brought in between; then ask again. Taken
        in, it would leave out what is missing for good, or keep what is gone.

        Args:
            found: what the lookup brought.
            asked: the place that was sent.

        Raises:
            RedisCommandError: it is not what a writer of ours can have left.
        """
        with self._lock:
            if isinstance(found, Empty):
                self._clear(b"")
            elif isinstance(found, Everything):
                if not self._replace(asked, found):
                    return None
            elif self._generation == asked.generation and self._reaches(asked):
                ends = Row.dropped(found.dropped[-1:], asked.dropped)
                if not self._append(found.rows, ends[0][0] if ends else asked.dropped):
                    return None
                self._forget(found.dropped)
            else:
                return None
            self._tidy(found.now_ms)
            return self._view()

    def _reaches(self, asked: Place) -> bool:
        ends, begins = (self._log, self._gone), (asked.log, asked.dropped)
        return all(order_of(end) >= order_of(begin) for end, begin in zip(ends, begins, strict=True))

    def _replace(self, asked: Place, found: Everything) -> bool:
        """Return whether what is here now is as new as what was found."""
        # Another thread may have been quicker, and be further by now. These rows begin at the
        # beginning, so they can be added to any state; deletions go on from where it is.
        generation = found.generation
        if generation == self._generation and (asked.generation != generation or self._place != asked):
            taken = self._append(found.rows, found.dropped_place)
            return taken and order_of(self._gone) >= order_of(found.dropped_place)
        self._clear(generation)
        self._append(found.rows, found.dropped_place)
        self._gone = found.dropped_place
        return True

    def _append(self, rows: Any, dropped_place: bytes) -> bool:
        """Add the rows that are not here, as the log had them when its deletions ended at a place.

        Returns whether it did: not if further deletions are here, which may be of these very rows.
        """
        fresh = Row.read(rows, self._log)
        if not fresh:
            return True
        if order_of(dropped_place) < order_of(self._gone):
            return False
        records = [unpack_record(row.number, row.data, self.dim) for row in fresh if not row.is_answer]
        # Without a vector an entry is found by its exact text alone.
        self._add([record for record in records if record.vector.size])
        self._attach([unpack_meaning(row.data, self.dim) for row in fresh if row.is_answer])
        self._log = fresh[-1].number
        return True

    def _attach(self, meanings: list[tuple[bytes, bytes, FloatArray]]) -> None:
        import numpy as np

        if not meanings:
            return
        if not _are_unit(np.stack([vector for _, _, vector in meanings])):
            raise foreign("the log", meanings)
        self._reserve(self._size, with_answers=True)
        if self._answers is None:
            return
        # In place, though a lookup may be reading: copying the whole for each store costs far more than
        # what half a vector can do, which is to make two answers look less alike than they are.
        for number, nonce, vector in meanings:
            row = self._rows.get(number)
            if row is not None and self._records[row].nonce == nonce:
                self._answers[row] = vector

    def _add(self, records: list[Record]) -> None:
        import numpy as np

        if not records:
            return
        none = np.zeros(self.dim, np.float32)
        vectors = np.stack([record.vector for record in records])
        answers = None
        if any(record.answer is not None for record in records):
            answers = np.stack([none if record.answer is None else record.answer for record in records])
        if not _are_unit(vectors):
            raise foreign("the log", vectors)
        start, end = self._size, self._size + len(records)
        self._reserve(end, with_answers=answers is not None)
        self._vectors[start:end] = vectors
        if self._answers is not None:
            self._answers[start:end] = 0.0 if answers is None else answers
        for row, record in enumerate(records, start):
            self._groups[row] = int.from_bytes(record.group, "little", signed=True)
            self._expires[row] = record.expires_ms
            self._soonest = min(self._soonest, record.expires_ms)
            self._rows[record.number] = row
            self._text_bytes += len(record.text)
        empty = np.empty(0, np.float32)
        # The vectors are in the matrix; the record would hold them, and the reply, a second time.
        self._records += [
            Record(r.number, r.expires_ms, r.nonce, r.group, r.text, empty, None) for r in records
        ]
        self._size = end

    def _reserve(self, size: int, *, with_answers: bool) -> None:
        import numpy as np

        capacity = len(self._expires)
        if with_answers and self._answers is None:
            self._answers = np.zeros((capacity, self.dim), np.float32)
        if size <= capacity:
            return
        capacity = max(size, capacity + capacity // 2, 16)
        self._vectors = _grown(self._vectors, capacity)
        self._groups = _grown(self._groups, capacity)
        self._expires = _grown(self._expires, capacity)
        if self._answers is not None:
            self._answers = _grown(self._answers, capacity)

    def _forget(self, rows: Any) -> None:
        for place, number in Row.dropped(rows, self._gone):
            self._gone = place
            row = self._rows.pop(number, None)
            if row is not None:
                self._expires[row] = self._soonest = float("-inf")

    def lose(self, records: Sequence[Record]) -> None:
        """Take entries out that are not alive, as Redis told the caller.

        The list of dropped entries does not name those whose sliding time to live has ended, nor
        those that a server lost.
        """
        with self._lock:
            for record in records:
                row = self._rows.get(record.number)
                # By now it may be another entry with the same number.
                if row is not None and self._records[row].nonce == record.nonce:
                    del self._rows[record.number]
                    self._expires[row] = float("-inf")

    def _tidy(self, now_ms: float) -> None:
        """Let go of entries that are not alive, once they are many. Older views keep their arrays."""
        import numpy as np

        if now_ms < self._soonest:
            return
        late = int(np.count_nonzero(self._expires[: self._size] <= now_ms))
        if late <= 16 + self._size // 4:
            return
        kept = np.flatnonzero(self._expires[: self._size] > now_ms)
        self._vectors = self._vectors[kept]
        self._groups = self._groups[kept]
        self._expires = self._expires[kept]
        if self._answers is not None:
            self._answers = self._answers[kept]
        self._records = [self._records[row] for row in kept.tolist()]
        self._rows = {record.number: row for row, record in enumerate(self._records)}
        self._text_bytes = sum(len(record.text) for record in self._records)
        self._size = len(kept)
        self._soonest = float(self._expires.min()) if self._size else float("inf")

    def _view(self) -> View:
        end = self._size
        return View(
            self._vectors[:end],
            self._groups[:end],
            self._expires[:end],
            self._records,
            None if self._answers is None else self._answers[:end],
        )


def _are_unit(vectors: FloatArray) -> bool:
    """Whether each row has the length 1, which also means that all numbers are finite."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        return bool((np.abs(squares - 1.0) < 1e-3).all())


def _grown(array: Any, capacity: int) -> Any:
    import numpy as np

    grown = np.zeros((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
