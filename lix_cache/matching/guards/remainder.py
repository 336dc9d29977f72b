"""What is left of two texts without what they share at both ends. Pure.

A long prompt is one vector, and most of it is the same from one request to the next: a document, an
instruction, a form. What differs is the question. So where the common beginning and end make most of
the shorter text, only what lies between is compared: two rests that share less than three quarters of
their words of content ask for different things. The same goes for the sentences that only one of the
texts has, where they are few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.reading import Reading, stems

__all__ = ["compare_remainders"]

#: Of the shorter text's words.
_MOSTLY = 0.6
#: Words in common. In a short question a synonym is all that differs between two paraphrases.
_LONG = 40
#: In scripts without spaces a character is a word.
_LONG_UNSPACED = 100
#: Of the words of content in the longer rest: two questions about one document have some in common.
_SHARED = 0.75
_SENTENCE = re.compile(r"[.!?:;\n。！？](?:(?<![.!?:;])|\s)")


def compare_remainders(a: Reading, b: Reading) -> str | None:
    """Return what differs between two texts that are mostly the same, or None."""
    first, second = a.words, b.words
    least = _LONG_UNSPACED if a.unspaced else _LONG
    if min(len(first), len(second)) < least or first == second:
        return None
    start = _common(first, second)
    most = min(len(first), len(second)) - start
    end = min(_common(reversed(first), reversed(second)), most)
    rests = first[start : len(first) - end], second[start : len(second) - end]
    if start + end < max(least, _MOSTLY * min(len(first), len(second))):
        # Texts that were put together from the same parts may differ in more than one place.
        rests = _other_sentences(a, b)
        if min(len(first) - len(rests[0]), len(second) - len(rests[1])) < max(
            least, _MOSTLY * min(len(first), len(second))
        ):
            return None
    glue = FUNCTION_WORDS.get(a.language, frozenset())
    mine, theirs = ({stems[word] for word in rest if word not in glue} for rest in rests)
    if not mine and not theirs:
        return None
    if mine and theirs and len(mine & theirs) >= _SHARED * max(len(mine), len(theirs)):
        return None
    return " / ".join(map(_shown, rests))


def _other_sentences(a: Reading, b: Reading) -> tuple[tuple[str, ...], tuple[str, ...]]:
    first, second = a.once(_sentences), b.once(_sentences)
    common = frozenset(first).intersection(second)
    if not common or common == {""}:
        return a.words, b.words
    mine, theirs = (
        Reading(" ".join([part for part in parts if part not in common])).words for parts in (first, second)
    )
    return mine, theirs


def _sentences(reading: Reading) -> list[str]:
    return [part.strip() for part in _SENTENCE.split(reading.folded)]


def _common(first: Iterable[str], second: Iterable[str]) -> int:
    """Return how many words are the same from the beginning on."""
    same = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same += 1
    return same


def _shown(rest: tuple[str, ...]) -> str:
    return " ".join(rest[:6]) + (" …" if len(rest) > 6 else "")
