"""A snapshot of a shard, of which parts are read as they are needed. docs/object-layout.md"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lix_cache.archive.objects import layout, snapshot
from lix_cache.archive.objects.order import Entry, Packed, unpacked
from lix_cache.archive.objects.records import decoded
from lix_cache.errors import CodecError

if TYPE_CHECKING:
    from lix_cache.archive.catalogue import Place
    from lix_cache.archive.objects.records import State
    from lix_cache.storage.objects import Bucket

__all__ = ["OpenSnapshot", "SnapshotGone"]

#: Blocks of states that a process keeps.
_BLOCKS_KEPT = 256


class SnapshotGone(Exception):
    """The snapshot was collected, for a newer one is there. Never leaves the shard."""


class OpenSnapshot:
    """What a snapshot says. The holder of the shard's lock calls it.

    Args:
        bucket: where it is.
        shard: of which it is.
        header: what stands in front of it; an empty one where there is no snapshot yet.

    Every method but the properties raises SnapshotGone.
    """

    def __init__(self, bucket: Bucket, shard: int, header: snapshot.Header) -> None:
        self.header = header
        self._bucket = bucket
        self._name = layout.snap_name(shard, self.header.number)
        self._blocks: OrderedDict[int, dict[str, bytes]] = OrderedDict()
        #: The run that was read last: the next page begins where this one ends.
        self._run: tuple[int, list[Packed]] = (-1, [])

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
        for index in range(len(self.header.blocks)):
            yield from self._block(index).items()

    def states_from(self, name: str) -> tuple[dict[str, bytes], str | None]:
        """Return the next states from a stored id on, and the id before which they are all there are."""
        firsts = self.header.blocks
        index = max(0, bisect_right(firsts, name, key=lambda block: block.first) - 1)
        if index >= len(firsts):
            return {}, None
        found = {one: data for one, data in self._block(index).items() if one >= name}
        return found, firsts[index + 1].first if index + 1 < len(firsts) else None

    def places(self) -> Iterator[Packed]:
        """Yield all sessions by last use, the last used at the end, as they stand there."""
        for index in range(len(self.header.runs)):
            yield from self.run(index)

    def runs_before(self, place: Place | None) -> int:
        """Return how many runs there are with anything before a place."""
        runs = self.header.runs
        return len(runs) if place is None else bisect_left(runs, place, key=lambda run: run.first)

    def run(self, index: int) -> list[Packed]:
        """Return what a run says, the last used at the end."""
        if self._run[0] != index:
            run = self.header.runs[index]
            self._run = index, list(snapshot.placed(self._read(run), run, self._name))
        return self._run[1]

    def entry(self, one: Packed) -> Entry:
        """Return what a run says of a session."""
        try:
            return unpacked(one)
        except CodecError as error:
            raise decoded("snapshot", self._name, error) from None

    def _block(self, index: int) -> dict[str, bytes]:
        found = self._blocks.get(index)
        if found is None:
            block = self.header.blocks[index]
            found = self._blocks[index] = snapshot.entries(self._read(block), block, self._name)
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found

    def _read(self, piece: snapshot.Block | snapshot.Run) -> bytes:
        data = self._bucket.get(self._name, piece.offset, piece.length)
        if data is None:
            raise SnapshotGone
        return data
