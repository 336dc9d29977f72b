"""The text that the exact tier compares. Pure.

Two texts with one normal form are answered by one entry without another look, so the form
drops only what nobody can mean: the other encoding of one character, and white space that
prose does not count. Case stays ("Polish", "polish"), punctuation stays, compatibility
characters stay ("5²" is not "52"). Where white space may be code or a literal, it stays too.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["normalise"]

_RUN = re.compile(r"\s+")
_LINE_END = re.compile(r"\r+\n")
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
# Signs that a run of spaces could be part of what is asked about: a line structure, a code
# span, a literal in double quotes, or in single ones that are not an apostrophe.
_LITERAL = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029`\"“”«»「『]|(?<!\w)'")

# All of those signs that are printable ASCII. (An apostrophe within a word takes the long way.)
_PLAIN_LITERALS = frozenset("`\"'")


def normalise(text: str) -> str:
    """Return the form under which the exact tier keeps a query.

    NFC; nothing blank before and after; line ends as ``\\n``; and, in a text of one line
    without code spans or quoted literals, each run of white space as one space. Idempotent,
    and linear in the text's length.
    """
    if text.isascii() and text.isprintable() and _PLAIN_LITERALS.isdisjoint(text):
        return " ".join(text.split())  # most queries: the same by fewer steps
    text = _LINE_END.sub("\n", unicodedata.normalize("NFC", text)).rstrip()
    # The first line's indentation belongs to the shape of a block; blank lines before it do not.
    text = _BLANK_LINES.sub("", text)
    if "\n" not in text:
        text = text.strip()
    return text if _LITERAL.search(text) else _RUN.sub(" ", text)
