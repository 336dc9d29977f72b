"""What is left of two texts without what they share at both ends. Pure.

A long prompt is one vector, and most of it is the same from one request to the next: a document, an
instruction, a form. What differs is the question. So where the common beginning and end make most of
the shorter text, only what lies between is compared: two rests that share less than half of their
words of content ask for different things.
"""

from __future__ import annotations

from itertools import takewhile
from operator import eq

from lix_cache.semantic.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.semantic.guards.reading import Reading, stems

__all__ = ["compare_remainders"]

#: Of the shorter text's words.
_MOSTLY = 0.6
#: Words in common. In a short question a synonym is all that differs between two wordings.
_LONG = 25


def compare_remainders(a: Reading, b: Reading) -> str | None:
    """Return what differs between two texts that are mostly the same, or None."""
    first, second = a.words, b.words
    if min(len(first), len(second)) < _LONG or first == second:
        return None
    start = _common(first, second)
    most = min(len(first), len(second)) - start
    end = min(_common(first[::-1], second[::-1]), most)
    if start + end < max(_LONG, _MOSTLY * min(len(first), len(second))):
        return None
    glue = FUNCTION_WORDS.get(a.language, frozenset())
    mine, theirs = (
        {stems[word] for word in words[start : len(words) - end] if word not in glue}
        for words in (first, second)
    )
    if not mine and not theirs:
        return None
    if 2 * len(mine & theirs) >= max(1, min(len(mine), len(theirs))):
        return None
    return f"{_shown(first, start, end)} / {_shown(second, start, end)}"


def _common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    return sum(1 for _ in takewhile(bool, map(eq, first, second)))


def _shown(words: tuple[str, ...], start: int, end: int) -> str:
    rest = words[start : len(words) - end]
    return " ".join(rest[:6]) + (" …" if len(rest) > 6 else "")
