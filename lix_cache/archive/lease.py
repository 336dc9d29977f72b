"""The right to change a session, whatever the tier: a file's lock, or a note on object storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Lease"]


class Lease(Protocol):
    """The right to move, clear or delete a session, for one holder at a time among all processes."""

    @property
    def is_held(self) -> bool:
        """Whether it has not been let go."""

    def release(self) -> None:
        """Let it go; harmless if it is. Never raises, for it is called where errors would be lost."""

    def __enter__(self) -> Lease: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
