"""The memory tier: sequences whose state an engine holds now, within a budget of bytes and of slots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from lix_cache.kv.engine import Live
from lix_cache.kv.manifest import Mark
from lix_cache.kv.prompts import Prompt
from lix_cache.kv.purges import Seen

__all__ = ["Entry", "MemoryTier"]


@dataclass
class Entry:
    """A session whose state is in memory.

    Attributes:
        tenant, session: whose it is.
        live: its state.
        marks: where its rendered text and its tokens meet.
        prompt: of the last call.
        checkpoints: name → tokens at which a state of its own is kept.
        saved: tokens that are on disk.
        used: when it was used last, by the monotonic clock.
        tried: when it was last written in vain, by the same.
        is_named: the caller knows its name; any prompt without a session may go on from another one.
        seen: the purges that were known when it was taken into memory.
        lock: held while it is computed, saved or thrown away.
    """

    tenant: str
    session: str
    live: Live
    marks: list[Mark] = field(default_factory=list)
    prompt: Prompt | None = None
    checkpoints: dict[str, int] = field(default_factory=dict)
    saved: int = 0
    used: float = 0.0
    tried: float = 0.0
    is_named: bool = True
    seen: Seen = (None, None)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def is_dirty(self) -> bool:
        return len(self.live.ids) != self.saved

    @property
    def size(self) -> int:
        snapshots = sum(one.size for state in self.live.snapshots.values() for one in state.values())
        return self.live.size + snapshots


class MemoryTier:
    """The entries, least recently used first to go. Its owner saves and releases what goes.

    Args:
        budget_bytes: the most bytes of all states.
        most: the most sequences, which an engine may limit.
    """

    def __init__(self, budget_bytes: int, most: int) -> None:
        self._budget = budget_bytes
        self._most = most
        self._entries: dict[tuple[str, str], Entry] = {}
        self._lock = threading.Lock()

    def get(self, tenant: str, session: str) -> Entry | None:
        with self._lock:
            return self._entries.get((tenant, session))

    def put(self, entry: Entry) -> None:
        with self._lock:
            self._entries[entry.tenant, entry.session] = entry

    def remove(self, entry: Entry) -> None:
        with self._lock:
            if self._entries.get((entry.tenant, entry.session)) is entry:
                del self._entries[entry.tenant, entry.session]

    def all(self, tenant: str | None = None) -> list[Entry]:
        """Return the entries, of a tenant or all, least recently used first."""
        with self._lock:
            found = [one for one in self._entries.values() if tenant in (None, one.tenant)]
        return sorted(found, key=lambda one: one.used)

    @property
    def size(self) -> int:
        return sum(one.size for one in self.all())

    def surplus(self, keep: Entry | None = None, room: int = 0) -> Iterator[Entry]:
        """Yield entries, least recently used first, as long as so many new ones do not fit.

        One that its owner does not remove, because it is being computed, stays: then the next one must go.
        """
        for entry in self.all():
            if entry is keep:
                continue
            with self._lock:
                is_enough = len(self._entries) + room <= self._most
            if is_enough and self.size <= self._budget:
                return
            yield entry
