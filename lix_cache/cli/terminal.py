"""What a terminal gets: text that cannot command it, in letters it has, for as long as it listens."""

from __future__ import annotations

import codecs
import io
import os
import sys
import traceback
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = [
    "SafeConsole",
    "has_reader",
    "in_plain_letters",
    "is_harmless",
    "prepare_streams",
    "show_traceback",
    "visible",
]

#: Invisible, but they join and shape letters: without them emoji and many scripts fall apart.
_JOINERS = frozenset("\u200c\u200d")
#: Signs that enclose or precede digits. Unicode calls them format characters, and they are printed.
_PRINTED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
#: Spaces, and letters that this Python's Unicode does not know yet or leaves to others.
_CATEGORIES = frozenset(("Zs", "Cn", "Co"))

#: What the program itself prints, for encodings that do not have it.
_PLAIN = {
    "✓": "ok", "✗": "x", "–": "-", "—": "-", "…": "...", "→": "->", "×": "x", "≥": ">=", "·": ".",
    "█": "#", "│": "|", "└": "+", "─": "-", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "━": "-", "•": "*",
}  # fmt: skip
_ERRORS = "lix-cache-plain"


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return text that is safe on a terminal: what is not printable becomes its escape, ``\x1b``.

    Escaped are controls (C0, DEL, C1), whatever turns the direction of text, and everything
    else that is there and not seen.

    Args:
        text: untrusted.
        lines: keep line ends and tabs, and what joins and shapes letters in running text.
    """
    if text.isprintable():
        return text
    return "".join(c if is_harmless(c, lines=lines) else c.encode("unicode_escape").decode() for c in text)


def is_harmless(character: str, *, lines: bool = True) -> bool:
    """Tell whether a terminal shows a character and does nothing else with it."""
    if character.isprintable():
        return True
    if not lines:
        return False
    return (
        character in "\n\t"
        or character in _JOINERS
        or character in _PRINTED
        or unicodedata.category(character) in _CATEGORIES
    )


class SafeConsole(Console):
    """A console whose text cannot command the terminal, whatever was put into it.

    What is known to come from outside is made visible where it is printed, because its width
    counts. This is for what was forgotten, and for libraries that print through it.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(visible(segment.text, lines=True), segment.style)


# -- the streams of the process ------------------------------------------------------------


class _Outlet(io.FileIO):
    """A descriptor to write to, whose reader may leave.

    A reader that closes its end has seen enough: what follows goes nowhere, and the command
    ends as it would have. ``head`` is no failure, and damage that was found stays found.
    """

    is_deaf = False

    def write(self, data: Any, /) -> int:
        if not self.is_deaf:
            try:
                return super().write(data)
            except BrokenPipeError:
                self.is_deaf = True
            except BlockingIOError:
                raise
            except OSError:
                # Said once: what is still in the buffer would fail again, at the interpreter's end.
                self.is_deaf = True
                raise
        return memoryview(data).nbytes


def has_reader() -> bool:
    """Tell whether anything written to stdout may still be read."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not getattr(raw, "is_deaf", False)


def prepare_streams() -> None:
    """Let stdout and stderr take every text, whatever their encoding, and outlive their readers."""
    codecs.register_error(_ERRORS, _in_plain_letters)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            # Closed before we began: the next file opened would get its number, and our text.
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            setattr(sys, name, _stream(descriptor, "utf-8", at_once=False))
        elif isinstance(stream, io.TextIOWrapper):
            at_once = stream.line_buffering or descriptor == 2
            setattr(sys, name, _stream(descriptor, stream.encoding, at_once=at_once))


def _stream(descriptor: int, encoding: str, *, at_once: bool) -> io.TextIOWrapper:
    outlet = io.BufferedWriter(_Outlet(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(outlet, encoding=encoding, errors=_ERRORS, line_buffering=at_once)


def in_plain_letters(text: str) -> str:
    """Return text as a stream writes it that has ASCII alone."""
    return "".join(c if c.isascii() else _PLAIN.get(c) or c.encode("unicode_escape").decode() for c in text)


def _in_plain_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return in_plain_letters(part), error.end


def show_traceback(error: BaseException) -> None:
    """Print a traceback. An error may quote anything, lines that look like those of ours too."""
    for part in traceback.format_exception(error):
        sys.stderr.write(visible(part.rstrip("\n"), lines=True).replace("\n", "\n  ") + "\n")
