"""What to do where there is no Redis: to a program, and to a user of the command line."""

from __future__ import annotations

__all__ = ["NAMED_REDIS", "PRIVATE_REDIS", "advice_at", "for_command_line", "note_private"]

#: How to come by a Redis, for programs.
PRIVATE_REDIS = "Where there is none, ensure_redis() starts a private one"
#: The same where ensure_redis() was told which one to use.
NAMED_REDIS = (
    "LIX_CACHE_REDIS_URL names this server, so no private one is started: correct the variable, or unset it"
)
_WAS_PRIVATE = (
    "It is the private server that ensure_redis() started for this process: start the process again, and "
    "the server comes back with its data"
)

#: Sockets of the private servers that this process has used. A forked child uses its parent's.
_private: set[str] = set()


def note_private(socket: str) -> None:
    """Remember that a private server listens there."""
    _private.add(socket)


def advice_at(socket: str) -> str:
    """Return how to come by a Redis where the one at a socket cannot be reached; "" for a TCP address."""
    return _WAS_PRIVATE if socket in _private else PRIVATE_REDIS


def for_command_line(text: str) -> str:
    """Return what an error says to a user of the command line, who calls no function."""
    return text.replace(PRIVATE_REDIS, "Where there is none, 'lix-cache --embedded' starts a private one")
