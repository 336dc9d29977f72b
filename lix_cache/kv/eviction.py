"""Which files go when there is no room. Pure.

Leaves first: a file that another needs stays as long as that one does, so what remains of a chain is
always a beginning of it. Among leaves the least recently used goes first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Kept", "Key", "chosen", "victims"]

#: Fingerprint and name of a state file.
Key = tuple[str, str]


@dataclass
class Kept:
    """A state file that is there.

    Attributes:
        size: bytes of it.
        used: when it was used last.
        needs: name of the file it needs, or "".
        tenants: whose it is: one, but for what was tampered with.
        pinned: whether a session that has it is pinned.
        sessions: paths of the manifests that name it.
    """

    size: int
    used: float
    needs: str = ""
    tenants: set[str] = field(default_factory=set)
    pinned: bool = False
    sessions: set[str] = field(default_factory=set)


def chosen(
    files: Mapping[Key, Kept],
    over: int,
    kept: Collection[Key],
    tenant: str | None = None,
    gone: Collection[Key] = (),
) -> tuple[list[Key], bool]:
    """Return files to remove, each before the one it needs; and whether that is room enough.

    Args:
        files: all that is there.
        over: bytes that must go.
        kept: those that must stay.
        tenant: of this tenant alone.
        gone: those that are as good as removed.
    """
    found: list[Key] = []
    if over > 0:
        for key in victims({key: file for key, file in files.items() if key not in gone}, kept, tenant):
            found.append(key)
            over -= files[key].size
            if over <= 0:
                break
    return found, over <= 0


def victims(files: Mapping[Key, Kept], kept: Collection[Key], tenant: str | None = None) -> Iterator[Key]:
    """Yield what may go, in the order in which it goes: :func:`chosen`."""
    children = Counter((key[0], file.needs) for key, file in files.items() if file.needs)

    def may_go(key: Key, file: Kept) -> bool:
        ours = tenant is None or tenant in file.tenants
        return ours and not file.pinned and key not in kept and not children[key]

    leaves = [(file.used, key) for key, file in files.items() if may_go(key, file)]
    heapq.heapify(leaves)
    while leaves:
        _, key = heapq.heappop(leaves)
        parent = (key[0], files[key].needs)
        children[parent] -= 1
        yield key
        # The empty name, of what needs nothing, is no file's.
        if parent in files and may_go(parent, files[parent]):
            heapq.heappush(leaves, (files[parent].used, parent))
