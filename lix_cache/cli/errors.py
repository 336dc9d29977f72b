"""Errors as a user should see them: what happened, what to do, no traceback."""

from __future__ import annotations

import errno
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from lix_cache import (
    ArchiveBusy,
    ArchiveCorrupt,
    ConfigError,
    InvalidInput,
    LixCacheError,
    RedisAuthError,
    RedisUnavailable,
)
from lix_cache.cli.output import to_stderr, visible

__all__ = ["PROBLEM", "WRONG_USE", "SayingGroup", "complain"]

PROBLEM = 1
WRONG_USE = 2
_INTERRUPTED = 130

_NEXT = (
    (
        RedisUnavailable,
        "start it, name another server with --redis-url, or use a private one with --embedded",
    ),
    (RedisAuthError, "'lix-cache doctor' says what the user may not do"),
    (ArchiveCorrupt, "'lix-cache verify' says which bytes are damaged; the rest can be read"),
    (ArchiveBusy, "try again when the other process is done"),
    (ConfigError, "'lix-cache --help' lists the options and how settings are read"),
)


def complain(text: str, advice: str = "") -> None:
    """Write one red line to stderr, and what to do below it."""
    console = to_stderr()
    console.print(Text(f"error: {visible(text, lines=True)}", style="red"), soft_wrap=True)
    if advice:
        console.print(Text(f"  → {advice}"), soft_wrap=True)


class SayingGroup(TyperGroup):
    """A command group that says what went wrong and ends with a code for it.

    1: a problem was found, or the store could not be reached; 2: wrong use.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(_INTERRUPTED) from None
        except (LixCacheError, OSError) as error:
            if ctx.params.get("traceback") or getattr(error, "errno", None) == errno.EPIPE:
                raise
            advice = next((text for kind, text in _NEXT if isinstance(error, kind)), "")
            complain(_words(error), advice)
            wrong = isinstance(error, (ConfigError, InvalidInput))
            raise typer.Exit(WRONG_USE if wrong else PROBLEM) from None


def _words(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if isinstance(error, LixCacheError):
        return error.strerror
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
