"""What the gateway itself refuses, as a status, a word and a sentence. Pure."""

from __future__ import annotations

from lix_cache.errors import LixCacheError

__all__ = ["CannotListen", "CannotServe", "Refused"]


class Refused(LixCacheError):
    """A request that the gateway does not pass on.

    Attributes:
        status: of HTTP.
        code: a word for programs, such as ``body_too_large``.
        retry_after: seconds, where waiting helps.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)


class CannotListen(LixCacheError):
    """The gateway's address cannot be had; says why."""


class CannotServe(LixCacheError):
    """None of several processes could begin to serve."""
