"""What to do where there is no Redis: to a program, and to a user of the command line."""

from __future__ import annotations

__all__ = ["PRIVATE_REDIS", "for_command_line"]

#: How to come by a Redis, for programs.
PRIVATE_REDIS = "Where there is none, ensure_redis() starts a private one"


def for_command_line(text: str) -> str:
    """Return what an error says to a user of the command line, who calls no function."""
    return text.replace(PRIVATE_REDIS, "Where there is none, 'lix-cache --embedded' starts a private one")
