"""The indexes of the scopes that were used last, within one limit of memory for the whole process. No I/O."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakSet

from lix_cache.semantic.index import ScopeIndex

__all__ = ["IndexBudget", "IndexPool"]


@dataclass
class _Kept:
    index: ScopeIndex
    nbytes: int
    used: int


class IndexBudget:
    """What pools may take together. It holds none of them: one that is gone takes nothing."""

    def __init__(self) -> None:
        self._pools: WeakSet[IndexPool] = WeakSet()
        self._uses = itertools.count()
        self.lock = threading.Lock()

    def renew_locks(self) -> None:
        """In a forked child: let no lock be held by a thread that was not forked with it."""
        self.lock = threading.Lock()
        for pool in list(self._pools):
            pool.forget()

    def add(self, pool: IndexPool) -> None:
        """Count a pool's memory from now on."""
        with self.lock:
            self._pools.add(pool)

    def next_use(self) -> int:
        """Return a number larger than those of all uses before."""
        return next(self._uses)

    @property
    def limit_bytes(self) -> int:
        """The largest limit of the pools."""
        with self.lock:
            return self._limit()

    @property
    def nbytes(self) -> int:
        """Memory that all indexes of the process take, about."""
        with self.lock:
            return sum(pool.nbytes for pool in self._pools)

    def _limit(self) -> int:
        return max((pool.wanted_bytes for pool in self._pools), default=0)

    def make_room(self) -> None:
        """Let the indexes go that were not used for longest. Under the lock.

        The last one may be larger than the limit: it is in use.
        """
        pools = [pool for pool in self._pools if len(pool)]
        total, count, limit = sum(pool.nbytes for pool in pools), sum(map(len, pools)), self._limit()
        while total > limit and count > 1:
            total -= min(pools, key=IndexPool.longest_unused).drop_longest_unused()
            pools = [pool for pool in pools if len(pool)]
            count -= 1


_OF_THIS_PROCESS = IndexBudget()


class IndexPool:
    """The indexes of one server.

    Args:
        wanted_bytes: memory that the indexes of the process may take for this pool's sake.
        budget: that of the process by default.
    """

    def __init__(self, wanted_bytes: int = 0, budget: IndexBudget = _OF_THIS_PROCESS) -> None:
        self.wanted_bytes = wanted_bytes
        self.budget = budget
        self.forget()
        budget.add(self)

    def forget(self) -> None:
        """Begin anew, as in a forked child: an index may have been forked in the middle of a change."""
        self._indexes: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    def allow(self, wanted_bytes: int) -> None:
        """Raise the limit, if it is lower."""
        with self.budget.lock:
            self.wanted_bytes = max(self.wanted_bytes, wanted_bytes)

    def get(self, scope: str, dim: int) -> ScopeIndex:
        """Return the scope's index, empty if it is new here."""
        budget = self.budget
        with budget.lock:
            kept = self._indexes.get(scope)
            if kept is not None:
                kept.used = budget.next_use()
                self._indexes.move_to_end(scope)
                return kept.index
            index = ScopeIndex(dim)
            self._indexes[scope] = _Kept(index, index.nbytes, budget.next_use())
            self._bytes += index.nbytes
            budget.make_room()
            return index

    def settle(self, scope: str) -> None:
        """Note the size of an index that has changed, and let the longest unused ones of the process go."""
        with self.budget.lock:
            kept = self._indexes.get(scope)
            if kept is None or kept.nbytes == kept.index.nbytes:
                return
            size = kept.index.nbytes
            self._bytes += size - kept.nbytes
            kept.nbytes = size
            self.budget.make_room()

    def longest_unused(self) -> int:
        """Return when the index that was not used for longest was used. There must be one."""
        return next(iter(self._indexes.values())).used

    def drop_longest_unused(self) -> int:
        """Let that index go. Returns the bytes it took."""
        _, kept = self._indexes.popitem(last=False)
        self._bytes -= kept.nbytes
        return kept.nbytes

    @property
    def nbytes(self) -> int:
        """Memory that the indexes of this server take, about."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._indexes)


def _after_fork_in_child() -> None:
    _OF_THIS_PROCESS.renew_locks()


os.register_at_fork(after_in_child=_after_fork_in_child)
