"""Errors as a user should see them: what happened, what to do, no traceback."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup, TyperOption

from lix_cache import (
    ArchiveBusy,
    ArchiveCorrupt,
    ArchiveMismatch,
    ConfigError,
    InvalidInput,
    LixCacheError,
    RedisAuthError,
    RedisUnavailable,
)
from lix_cache._advice import PRIVATE_REDIS, for_command_line
from lix_cache.cli.output import to_stderr, visible

#: Newer versions of Typer show the type of every option, that of flags as well: "--json <bool>".
_show_type: Any = getattr(TyperOption, "display_type_rich", None)
if _show_type is not None:
    TyperOption.display_type_rich = lambda self, ctx: (  # type: ignore[method-assign]
        None if self.is_flag else _show_type(self, ctx)
    )

__all__ = ["PROBLEM", "WRONG_USE", "FlowingGroup", "SayingGroup", "complain"]

PROBLEM = 1
WRONG_USE = 2
_INTERRUPTED = 130
#: Typer names no base of its errors about the arguments; this one has a ``message``.
_UsageError: Any = typer.BadParameter.__base__

_NEXT = (
    (RedisAuthError, "'lix-cache doctor' says what the user may not do"),
    (ArchiveCorrupt, "'lix-cache verify' says which bytes are damaged; the rest can be read"),
    (ArchiveBusy, "try again when the other process is done"),
    (ArchiveMismatch, "the options are --archive-dir and --prefix; a command wants them before its name"),
    (ConfigError, "'lix-cache --help' lists the options and how settings are read"),
)


def complain(text: str, advice: str = "") -> None:
    """Write one red line to stderr, and what to do below it."""
    console = to_stderr()
    # What follows a line end stays indented: nothing quoted can look like a line of ours.
    shown = visible(text, lines=True).replace("\n", "\n  ")
    console.print(Text(f"error: {shown}", style="red"), soft_wrap=True)
    if advice:
        console.print(Text(f"  → {advice}"), soft_wrap=True)


class FlowingGroup(TyperGroup):
    """A command group whose help is as wide as the terminal.

    Typer keeps the line ends of all paragraphs but the first, so a docstring that is wider than the
    terminal would be broken twice.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.help = _flowing(command.help)
        return command

    def get_help(self, ctx: Any) -> str:
        self.help = _flowing(self.help)
        return super().get_help(ctx)


def _flowing(text: str | None) -> str | None:
    if text is None:
        return None
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


class SayingGroup(FlowingGroup):
    """A command group that says what went wrong and ends with a code for it.

    1: a problem was found, or the store could not be reached; 2: wrong use.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _visible_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _visible_usage(), self._place_of_options(ctx):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(_INTERRUPTED) from None
        except (LixCacheError, OSError) as error:
            if ctx.params.get("traceback"):
                raise
            advice = next((text for kind, text in _NEXT if isinstance(error, kind)), "")
            if isinstance(error, RedisUnavailable):
                advice = _start_or_wait(error, is_embedded=bool(ctx.params.get("embedded")))
            complain(_words(error), advice)
            wrong = isinstance(error, (ConfigError, InvalidInput))
            raise typer.Exit(WRONG_USE if wrong else PROBLEM) from None

    @contextmanager
    def _place_of_options(self, ctx: Any) -> Iterator[None]:
        """Say of an option of all commands, which a command does not know, where it stands."""
        try:
            yield
        except _UsageError as error:
            name = getattr(error, "option_name", "")
            if name and name in {option for one in self.params for option in one.opts}:
                command = ctx.invoked_subcommand or "COMMAND"
                error.message = f"{name} stands before the command: lix-cache {name} ... {command} ..."
                if hasattr(error, "possibilities"):
                    error.possibilities = None
            raise


def _start_or_wait(error: RedisUnavailable, *, is_embedded: bool) -> str:
    """Return what to do about a server that is away, by whether it says that there may be none."""
    if PRIVATE_REDIS in str(error) and not is_embedded:
        return "start it, name another server with --redis-url, or use a private one with --embedded"
    # A server is there and cannot serve, or is one of several: a private one would look like an empty one.
    return "wait for it, or name another server with --redis-url"


@contextmanager
def _visible_usage() -> Iterator[None]:
    """Make what a complaint about the arguments quotes of them harmless."""
    try:
        yield
    except _UsageError as error:
        error.message = visible(error.message, lines=True)
        raise


def _words(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return for_command_line(str(error))
    if isinstance(error, LixCacheError):
        return error.strerror
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
