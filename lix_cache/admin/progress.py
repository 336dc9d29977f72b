"""How far a long call has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["OnProgress", "silent"]

#: Called with how many are done, and how many there are.
OnProgress: TypeAlias = "Callable[[int, int], None]"


def silent(done: int, total: int) -> None:
    """Report no progress."""
