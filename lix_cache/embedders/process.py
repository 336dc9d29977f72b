"""A value that every process makes for itself, when it is first needed.

Models bring threads of their own, and threads do not survive a fork: a model that the
parent loaded would wait in the child for ever, and so would its destructor.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["PerProcess"]

T = TypeVar("T")

_alive: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


class PerProcess(Generic[T]):
    """Makes a value at the first call, once in each process, in the thread that comes first.

    A failure to make it is raised and not kept: the next call tries again.

    Args:
        make: takes nothing.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[T] | None = None
        _alive.add(self)

    def __call__(self) -> T:
        """Return the value, made now if need be."""
        made = self._made
        if made is None:
            with self._lock:
                made = self._made
                if made is None:
                    made = self._made = (self._make(),)
        return made[0]

    def forget(self) -> None:
        """Drop the value, in a child that must not use its parent's."""
        # Another thread may have held the lock at the fork, and is not here to let it go.
        self._lock = threading.Lock()
        if self._made is not None:
            # Never destroyed: a destructor would wait for threads that the fork left behind.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._made[0]))
            self._made = None


def _forget() -> None:
    for value in list(_alive):
        value.forget()


# At import: "once" cannot be told by a note that an interruption may come before or after.
os.register_at_fork(after_in_child=_forget)
