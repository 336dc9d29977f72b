"""Negation: what one text denies and the other does not. Pure.

A cue denies the words of content that follow it (in some languages, those around it). Two
texts disagree if a word denied by one stands in the other and nothing there denies it: "can I
withdraw" and "why can't I withdraw" do; "it has not arrived" and "still waiting for it" do not.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lix_cache.semantic.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.semantic.guards.lexicon.negations import NEGATIONS, NEGATIVE_SUBSTRINGS, NEUTRAL_PHRASES
from lix_cache.semantic.guards.reading import Reading, stem

__all__ = ["compare_negation"]

#: How many words of content behind a cue it denies.
_REACH = 2
# In these the cue stands behind the verb, often at the clause's end.
_BOTH_WAYS = frozenset({"de", "nl", "da", "tr", "kk", "fr"})


@lru_cache(maxsize=32)
def _neutral(language: str) -> re.Pattern[str] | None:
    pattern = NEUTRAL_PHRASES.get(language)
    return re.compile(pattern, re.VERBOSE if "\n" in pattern else 0) if pattern else None


@lru_cache(maxsize=8)
def _cues(language: str) -> re.Pattern[str]:
    return re.compile(NEGATIVE_SUBSTRINGS[language])


def compare_negation(a: Reading, b: Reading) -> str | None:
    """Return what one text denies and the other does not, or None."""
    if a.language in NEGATIVE_SUBSTRINGS or b.language in NEGATIVE_SUBSTRINGS:
        return _by_count(a, b) if a.language == b.language else None
    denied_here, denied_there = _denied(a), _denied(b)
    if not denied_here and not denied_there:
        return None
    for denied, other, denied_by_other in ((denied_here, b, denied_there), (denied_there, a, denied_here)):
        for word in denied - denied_by_other:
            if word in other.content_set:
                return f"not {word} / {word}"
    return None


def _by_count(a: Reading, b: Reading) -> str | None:
    mine, theirs = (_count(reading) % 2 for reading in (a, b))
    if mine == theirs or not _much_alike(a, b):
        return None
    return "denied / not denied"


def _count(reading: Reading) -> int:
    text = reading.folded
    neutral = _neutral(reading.language)
    return len(_cues(reading.language).findall(neutral.sub(" ", text) if neutral else text))


def _much_alike(a: Reading, b: Reading) -> bool:
    shared = len(a.content_set & b.content_set)
    return shared * 2 >= min(len(a.content_set), len(b.content_set))


def _denied(reading: Reading) -> frozenset[str]:
    """Return the stems that stand under a negation."""
    language = reading.language
    cues = NEGATIONS.get(language)
    if cues is None:
        return frozenset()
    words = reading.words
    places = _places(words, cues)
    neutral = _neutral(language) if places else None
    if neutral is not None and neutral.search(reading.folded):
        words = Reading(neutral.sub(" ", reading.folded)).words
        places = _places(words, cues)
    glue = FUNCTION_WORDS.get(language, frozenset())
    denied: set[str] = set()
    for place in places:
        denied.update(_reach(words, place, 1, glue))
        if language in _BOTH_WAYS:
            denied.update(_reach(words, place, -1, glue))
    return frozenset(denied)


def _places(words: tuple[str, ...], cues: frozenset[str]) -> list[int]:
    return [i for i, word in enumerate(words) if word in cues or word.endswith("n't")]


def _reach(words: tuple[str, ...], place: int, step: int, glue: frozenset[str]) -> list[str]:
    found: list[str] = []
    i = place + step
    while 0 <= i < len(words) and abs(i - place) <= 6 and len(found) < _REACH:
        if words[i] not in glue:
            found.append(stem(words[i]))
        i += step
    return found
