"""A snapshot of a shard, of which parts are read as they are needed. docs/object-layout.md"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.archive.objects import layout, snapshot
from lix_cache.archive.objects.order import Entry, Packed, unpacked
from lix_cache.archive.objects.records import decoded
from lix_cache.errors import CodecError

if TYPE_CHECKING:
    from lix_cache.archive.catalogue import Place
    from lix_cache.archive.objects.records import State
    from lix_cache.storage.objects import Bucket

__all__ = ["KEPT_BYTES", "SCAN_BYTES", "Kept", "OpenSnapshot", "SnapshotGone"]

#: Memory for what a process keeps of the snapshots of all shards of an archive.
KEPT_BYTES = 64 * 2**20
#: A look at all states reads so much at once: a store asks a price for requests, not for bytes.
SCAN_BYTES = 2**20
#: What an entry takes in memory besides its bytes.
_ENTRY_BYTES = 200
P = TypeVar("P", snapshot.Block, snapshot.Run)


class SnapshotGone(Exception):
    """The snapshot was collected, for a newer one is there. Never leaves the shard."""


class Kept:
    """Blocks and runs that were read last, of all shards. Safe between threads, empty after a fork.

    Args:
        budget: bytes of memory, about.
    """

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._budget = budget
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        #: The last used at the end, each with its bytes.
        self._found: dict[tuple[str, int], tuple[Any, int]] = {}
        self.bytes = 0

    def get(self, name: str, offset: int) -> Any:
        """Return what was kept of an object; None if nothing was."""
        if self._pid != os.getpid():
            # What held the lock did not come along with a fork.
            self._begin()
        with self._lock:
            one = self._found.pop((name, offset), None)
            if one is None:
                return None
            self._found[name, offset] = one
            return one[0]

    def put(self, name: str, offset: int, found: Any, size: int) -> None:
        """Keep something of so many bytes, and forget what was not used for longest."""
        with self._lock:
            _, before = self._found.pop((name, offset), (None, 0))
            self._found[name, offset] = found, size
            self.bytes += size - before
            while self.bytes > self._budget:
                self.bytes -= self._found.pop(next(iter(self._found)))[1]


class OpenSnapshot:
    """What a snapshot says. The holder of the shard's lock calls it.

    Args:
        bucket: where it is.
        shard: of which it is.
        header: what stands in front of it; an empty one where there is no snapshot yet.
        kept: takes what is read for one session or one page.

    Every method but the properties raises SnapshotGone.
    """

    def __init__(self, bucket: Bucket, shard: int, header: snapshot.Header, kept: Kept) -> None:
        self.header = header
        self._bucket = bucket
        self._name = layout.snap_name(shard, self.header.number)
        self._kept = kept

    @property
    def number(self) -> int:
        """The first segment of which it says nothing."""
        return self.header.number

    def state(self, session_id: str) -> State | None:
        """Return the state of a session; None if nothing is remembered of it."""
        index = snapshot.block_for(self.header, session_id)
        data = None if index is None else self._block(index).get(session_id)
        return None if data is None else self.decoded(data)

    def decoded(self, data: bytes) -> State:
        """Return a state as it stands there."""
        return snapshot.state_in(data, self._name)

    def states(self) -> Iterator[tuple[str, bytes]]:
        """Yield all states by their stored ids, sorted, as they stand there."""
        begin: str | None = ""
        while begin is not None:
            found, begin = self.states_from(begin)
            yield from found.items()

    def states_from(self, name: str) -> tuple[dict[str, bytes], str | None]:
        """Return the next states from a stored id on, and the id before which they are all there are.

        One request. Nothing is kept: a look at all would drive out what is asked for again.
        """
        blocks = self.header.blocks
        begin = max(0, bisect_right(blocks, name, key=lambda block: block.first) - 1)
        some = _together(blocks, begin)
        found: dict[str, bytes] = {}
        for block, data in self._read(some):
            found.update(snapshot.entries(data, block, self._name))
        end = begin + len(some)
        left = {one: data for one, data in found.items() if one >= name}
        return left, blocks[end].first if end < len(blocks) else None

    def places(self) -> Iterator[Packed]:
        """Yield all sessions by last use, the last used at the end, as they stand there."""
        runs, begin = self.header.runs, 0
        while some := _together(runs, begin):
            for run, data in self._read(some):
                yield from snapshot.placed(data, run, self._name)
            begin += len(some)

    def runs_before(self, place: Place | None) -> int:
        """Return how many runs there are with anything before a place."""
        runs = self.header.runs
        return len(runs) if place is None else bisect_left(runs, place, key=lambda run: run.first)

    def run(self, index: int) -> list[Packed]:
        """Return what a run says, the last used at the end."""
        run = self.header.runs[index]
        found: list[Packed] | None = self._kept.get(self._name, run.offset)
        if found is None:
            found = [one for _, data in self._read([run]) for one in snapshot.placed(data, run, self._name)]
            self._keep(run, found)
        return found

    def entry(self, one: Packed) -> Entry:
        """Return what a run says of a session."""
        try:
            return unpacked(one)
        except CodecError as error:
            raise decoded("snapshot", self._name, error) from None

    def _block(self, index: int) -> dict[str, bytes]:
        block = self.header.blocks[index]
        found: dict[str, bytes] | None = self._kept.get(self._name, block.offset)
        if found is None:
            [(_, data)] = self._read([block])
            found = snapshot.entries(data, block, self._name)
            self._keep(block, found)
        return found

    def _keep(self, piece: snapshot.Block | snapshot.Run, found: dict[str, bytes] | list[Packed]) -> None:
        size = piece.length + _ENTRY_BYTES * len(found)
        self._kept.put(self._name, piece.offset, found, size)

    def _read(self, pieces: Sequence[P]) -> list[tuple[P, bytes]]:
        """Return pieces that lie one behind the other with their bytes: one request."""
        if not pieces:
            return []
        begin, last = pieces[0].offset, pieces[-1]
        data = self._bucket.get(self._name, begin, last.offset + last.length - begin)
        if data is None:
            raise SnapshotGone
        return [(one, data[one.offset - begin : one.offset - begin + one.length]) for one in pieces]


def _together(pieces: Sequence[P], begin: int) -> Sequence[P]:
    """Return the pieces from an index on that one request is to read: one at least, if there is any."""
    end = begin
    while end < len(pieces) and (
        end == begin or pieces[end].offset + pieces[end].length - pieces[begin].offset <= SCAN_BYTES
    ):
        end += 1
    return pieces[begin:end]
