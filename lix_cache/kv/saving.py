"""What is given to the store to save, and what it says it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lix_cache.kv.block_file import Description
from lix_cache.kv.identity import Ids
from lix_cache.kv.tensors import State

__all__ = ["Piece", "Saved"]


@dataclass(frozen=True)
class Piece:
    """A state file to write, if it is not there.

    Attributes:
        name: of the file.
        needs: name of the file it needs, or "".
        about: what it says of itself.
        ids: its token ids.
        export: returns the tensors; called only if the file is not there.
    """

    name: str
    needs: str
    about: Description
    ids: Ids
    export: Callable[[], State] = field(repr=False)


@dataclass
class Saved:
    """What a save did.

    Attributes:
        written: files that were written.
        shared: files that were there.
        bytes: that were written.
        left_out: files for which there was no room.
        tokens: of the sequence that resume from disk now.
        is_purged: nothing was written, for the session was purged since it was taken into memory.
    """

    written: int = 0
    shared: int = 0
    bytes: int = 0
    left_out: int = 0
    tokens: int = 0
    is_purged: bool = False
