"""Which stored state begins a sequence, and which files of a sequence are to be stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from lix_cache.kv.block_file import Description
from lix_cache.kv.engine import Engine, Live
from lix_cache.kv.identity import (
    BLOCK_TOKENS,
    Fingerprint,
    Ids,
    as_ids,
    chain_of,
    partial_name,
    tenant_digest,
)
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.memory import MemoryTier
from lix_cache.kv.miss import common_prefix
from lix_cache.kv.reader import KvReader
from lix_cache.kv.saving import Piece
from lix_cache.kv.tensors import State

__all__ = [
    "Stored",
    "Want",
    "copied",
    "covering",
    "kept_files",
    "load",
    "names_of",
    "nearest_known",
    "pieces",
    "stored",
]

#: Sessions on disk that a prompt is compared with.
_MOST_COMPARED = 64


@dataclass(frozen=True)
class Want:
    """What a state must be the state of.

    Attributes:
        fingerprint: of the model.
        tenant: whose it is.
        ids: the sequence.
        encoding: of the files.
        chain: names of its blocks.
    """

    fingerprint: Fingerprint
    tenant: str
    ids: Ids
    encoding: str
    chain: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chain", chain_of(self.fingerprint, self.tenant, self.ids))

    def block(self, number: int) -> tuple[str, Description, Ids]:
        """Return name, description and ids of a full block, counted from 1."""
        first = (number - 1) * BLOCK_TOKENS
        about = self._about("block", self.chain[number - 1], first, BLOCK_TOKENS)
        return self.chain[number], about, self.ids[first : first + BLOCK_TOKENS]

    def partial(self, kind: str, count: int) -> tuple[str, Description, Ids]:
        """Return name, description and ids of the tail or snapshot at so many tokens."""
        link = self.chain[count // BLOCK_TOKENS]
        first = 0 if kind == "snapshot" else count // BLOCK_TOKENS * BLOCK_TOKENS
        about = self._about(kind, link, first, count - first)
        return partial_name(link, self.ids, count), about, self.ids[first:count]

    def _about(self, kind: str, parent: str, first: int, count: int) -> Description:
        tenant = tenant_digest(self.tenant).hex()
        return Description(kind, self.fingerprint.hex, tenant, parent, first, count, self.encoding)


@dataclass(frozen=True)
class Stored:
    """Files that are there, by their names. What is in them is checked when they are loaded.

    Attributes:
        blocks: how many leading blocks.
        partial: tokens of the tail behind them, or of the snapshot; 0 if there is none.
        kind: of that one.
    """

    blocks: int = 0
    partial: int = 0
    kind: str = "tail"

    @property
    def tokens(self) -> int:
        return self.partial or self.blocks * BLOCK_TOKENS


def stored(store: KvReader, want: Want, exports: str) -> Stored:
    """Return the longest beginning of a sequence that is stored, one token less than all of it at most."""
    most = len(want.ids) - 1
    if exports == "snapshots":
        for number in range(most // BLOCK_TOKENS, -1, -1):
            found = _partial(store, want, number, most, "snapshot")
            if found:
                return Stored(0, found, "snapshot")
        return Stored()
    blocks = 0
    while (blocks + 1) * BLOCK_TOKENS <= most and store.has(want.fingerprint, want.chain[blocks + 1]):
        blocks += 1
    return Stored(blocks, _partial(store, want, blocks, most, "tail"))


def covering(want: Want, count: int, exports: str) -> Stored:
    """Return the files of a whole sequence that hold its first tokens: the last may hold more of it."""
    if exports == "snapshots":
        return Stored(0, len(want.ids), "snapshot")
    blocks = count // BLOCK_TOKENS
    if count % BLOCK_TOKENS == 0:
        return Stored(blocks)
    if (blocks + 1) * BLOCK_TOKENS <= len(want.ids):
        return Stored(blocks + 1)
    return Stored(blocks, len(want.ids))


def _partial(store: KvReader, want: Want, number: int, most: int, kind: str) -> int:
    for count, name in store.partials(want.fingerprint, want.chain[number]):
        fits = number * BLOCK_TOKENS < count <= most if kind == "tail" else 0 < count <= most
        if fits and count // BLOCK_TOKENS == number and want.partial(kind, count)[0] == name:
            return count
    return 0


def names_of(want: Want, found: Stored) -> list[str]:
    """Return the names of files."""
    return [name for name, _, _ in _files(want, found)]


def _files(want: Want, found: Stored) -> list[tuple[str, Description, Ids]]:
    files = [want.block(number) for number in range(1, found.blocks + 1)]
    if found.partial:
        files.append(want.partial(found.kind, found.partial))
    return files


def load(store: KvReader, want: Want, found: Stored) -> tuple[list[State], int]:
    """Return the states that were found, as far as they are what they should be, and their tokens."""
    files = _files(want, found)
    states: list[State] = [*store.load(want.fingerprint, files)]
    store.used(want.fingerprint, [name for name, _, _ in files[: len(states)]])
    if not states:
        return [], 0
    _, last, _ = files[len(states) - 1]
    return states, last.first + last.tokens


def pieces(engine: Engine, live: Live, want: Want, checkpoints: Mapping[str, int]) -> list[Piece]:
    """Return the files of a sequence: blocks, the tail or snapshot of where it stands, and checkpoints."""
    made = []

    def add(kind: str, count: int, export: Callable[[], State]) -> None:
        if kind == "block":
            name, about, ids = want.block(count // BLOCK_TOKENS)
        else:
            name, about, ids = want.partial(kind, count)
        needs = want.chain[about.first // BLOCK_TOKENS] if about.first else ""
        made.append(Piece(name, needs, about, ids, export))

    end = len(want.ids)
    if engine.exports == "snapshots":
        for count in sorted(checkpoints.values()):
            if count in live.snapshots and count < end:
                add("snapshot", count, lambda count=count: live.snapshots[count])  # type: ignore[misc]
        add("snapshot", end, lambda: engine.export(live, 0, end))
        return made
    for first in range(0, end - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        add(
            "block",
            first + BLOCK_TOKENS,
            lambda first=first: engine.export(live, first, first + BLOCK_TOKENS),  # type: ignore[misc]
        )
    for count in sorted({*checkpoints.values(), end}):
        first = count // BLOCK_TOKENS * BLOCK_TOKENS
        if first < count <= end:
            add("tail", count, lambda first=first, count=count: engine.export(live, first, count))  # type: ignore[misc]
    return made


def kept_files(before: Manifest, want: Want, kind: str, checkpoints: Mapping[str, int]) -> dict[str, str]:
    """Return what a session keeps of what it had: all but tails and snapshots that it has outgrown."""
    kept = {}
    for name, needs in before.files.items():
        count = int(name.split("-")[1]) if "-" in name else 0
        outgrown = (
            0 < count < len(want.ids)
            and count not in checkpoints.values()
            and want.partial(kind, count)[0] == name
        )
        if not outgrown:
            kept[name] = needs
    return kept


def nearest_known(
    memory: MemoryTier,
    store: KvReader | None,
    fingerprint: Fingerprint,
    tenant: str,
    ids: Ids,
    own: tuple[Ids, str],
) -> tuple[Ids, str]:
    """Return the sequence of a tenant that has most in common with a prompt, and whose it is.

    Not the session's own alone: a state of another one may be what the prompt goes on from.

    Args:
        memory, store: where sequences are known.
        fingerprint: of the model.
        tenant: whose they are.
        ids: the prompt.
        own: the session's own sequence, and its id. Of equals, it is the nearest.
    """
    if common_prefix(ids, own[0]) in (len(own[0]) or -1, len(ids)):
        return own
    known = [own, *((as_ids(one.live.ids), one.session) for one in memory.all(tenant))]
    if store is not None:
        on_disk = store.manifests(fingerprint, tenant)
        known += [(one.ids, one.session) for one in islice(on_disk, _MOST_COMPARED)]
    return max(known, key=lambda one: common_prefix(ids, one[0]))


def copied(
    engine: Engine, memory: MemoryTier, tenant: str, ids: Ids, fewest: int
) -> tuple[State, list[int], int] | None:
    """Return a copy of the longest state of a tenant in memory that begins a prompt.

    A copy, for its session goes on as it is, whatever becomes of the prompt. A state that is being computed
    is left alone, and one that can only be copied whole if most of it would be cut off.

    Returns:
        The state, its tokens, and how many of them begin the prompt; None if there are too few.
    """
    found = [(_usable(engine, one.live, ids), one) for one in memory.all(tenant)]
    for _, entry in sorted(found, key=lambda pair: -pair[0]):
        if not entry.lock.acquire(blocking=False):
            continue
        try:
            live = entry.live
            count = _usable(engine, live, ids) if memory.get(tenant, entry.session) is entry else 0
            # One of a model before says nothing to the model of now.
            if count < fewest or live.fingerprint not in (None, engine.fingerprint):
                continue
            if count in live.snapshots:
                return live.snapshots[count], live.ids[:count], count
            end = len(live.ids) if engine.exports == "snapshots" else count
            return engine.export(live, 0, end), live.ids[:end], count
        finally:
            entry.lock.release()
    return None


def _usable(engine: Engine, live: Live, ids: Ids) -> int:
    """Return how many tokens of a state a prompt can take over; one at least is computed."""
    count = min(common_prefix(ids, as_ids(live.ids)), len(ids) - 1)
    if not engine.cuts:
        return max((at for at in (*live.snapshots, len(live.ids)) if at <= count), default=0)
    return count if engine.exports == "blocks" or 2 * count >= len(live.ids) else 0
