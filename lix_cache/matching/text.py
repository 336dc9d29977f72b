"""The text that the exact tier compares. Pure.

Two texts with one normal form are answered by one entry without another look, so the form
drops only what carries no meaning, and only from one line of plain prose: spaces and line ends
around it, and the other encoding of an accented letter. Everything else stays as it is. Case
("Polish", "polish"), quotes, runs of spaces ("abc  def" is another password), tabs, marks that
cannot be seen, compatibility characters ("5²" is not "52") and those that Unicode calls equal
though they look different to a program (the Greek question mark is not ";"): each can be what
is asked about. Where a text may be code, or has several lines, nothing is dropped at all.

A form that keeps too much costs a look by the semantic tier, which has guards. One that drops
too much serves a wrong answer.
"""

from __future__ import annotations

import re
import string
import unicodedata

__all__ = ["LONGEST", "MOST_MARKS", "long_runs", "may_be_code", "normalise"]

#: Longer texts are not looked at: they are their own form. No policy lets them into a cache.
LONGEST = 20_000

#: Unicode's stream-safe bound on the marks of one letter. Putting n of them in order takes n² steps.
MOST_MARKS = 30

_AROUND = " \r\n"
_PLAIN = frozenset(string.ascii_letters + string.digits + " .,;:!?'-")
_PUNCTUATION = frozenset("()%€£¥’…–—¿¡、。，？！：；")
# An apostrophe or a hyphen that does not join two letters may be a quote or a flag; a stop with
# a letter behind it may be a file's name or an attribute; a bracket within a word is a call.
_NO_PROSE = re.compile(
    r"(?<![^\W_])['’-]|['’-](?![^\W_])|[.,;:!?](?![\s\d.,;:!?…'’)]|\Z)|(?<!\s)\((?<!\A\()|\)(?![\s.,;:!?…]|\Z)|%(?<!\d%)"
)
_UNSPELT = re.compile(r"[^\w\x00-\x7f]+")


def normalise(text: str) -> str:
    """Return the form under which the exact tier keeps a query.

    Idempotent, and linear in the text's length. Empty if there is nothing but white space.
    """
    if len(text) > LONGEST:
        return text
    inner = text.strip(_AROUND)
    if not inner or inner.isspace():
        return ""
    if may_be_code(inner):
        return text
    if inner.isascii():
        return inner
    return text if long_runs(inner) else unicodedata.normalize("NFC", inner)


def may_be_code(text: str) -> bool:
    """Whether a text, without white space around it, is anything but one line of plain prose."""
    odd = set(text) - _PLAIN
    return not all(map(_is_prose, odd)) or _NO_PROSE.search(text) is not None


def _is_prose(char: str) -> bool:
    """Whether a character is a letter, a digit, a mark or a stop that NFC does not replace by another."""
    known = char.isalnum() or char in _PUNCTUATION or unicodedata.category(char)[0] == "M"
    return known and unicodedata.normalize("NFC", char) == char


def long_runs(text: str) -> bool:
    """Whether there may be more marks in a row than any language writes on one letter."""
    return any(match.end() - match.start() > MOST_MARKS for match in _UNSPELT.finditer(text))
