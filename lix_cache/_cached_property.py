"""A property that is worked out once for each object, without a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cached_property"]

T = TypeVar("T")


class cached_property(Generic[T]):  # noqa: N801 - it is used as the one of functools
    """As ``functools.cached_property`` is from Python 3.12 on, in the versions before as well.

    There, one lock serves all objects of a class. A process that forks while another of its threads is
    inside leaves the child a lock that is never let go, and the child waits for it for ever.

    Two threads may both work the value out. The first one stays, and both get it.
    """

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        self._work_out = work_out
        self.__doc__ = work_out.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> cached_property[T] | T:
        if instance is None:
            return self
        # Not looked up first: what is there is found before this is called.
        value: T = instance.__dict__.setdefault(self._name, self._work_out(instance))
        return value
