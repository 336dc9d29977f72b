"""Negation: what one text denies and the other says. Pure.

A cue denies the first word of content that follows it (in some languages, or goes before it).
Two texts disagree if one denies what the other says, and the other denies nothing, in
whatever words: "can I withdraw" and "why can't I withdraw" do, "can't withdraw" and "withdrawing
fails" do not. Where both deny something, only the order guard looks further.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.lexicon.negations import (
    IMPLICIT,
    IMPLICIT_SUBSTRINGS,
    NEGATIONS,
    NEGATIVE_SUBSTRINGS,
    NEUTRAL_PHRASES,
)
from lix_cache.matching.guards.reading import Memo, Reading, stem

__all__ = ["compare_negation", "denied_words"]

# In these the cue stands behind the verb, often at the clause's end.
_BOTH_WAYS = frozenset({"de", "nl", "da", "tr", "kk", "fr"})


@lru_cache(maxsize=32)
def _neutral(language: str) -> re.Pattern[str] | None:
    pattern = NEUTRAL_PHRASES.get(language)
    return re.compile(pattern, re.VERBOSE if "\n" in pattern else 0) if pattern else None


@lru_cache(maxsize=8)
def _cues(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    return re.compile(NEGATIVE_SUBSTRINGS[language]), re.compile(IMPLICIT_SUBSTRINGS[language])


def compare_negation(a: Reading, b: Reading) -> str | None:
    """Return what one text denies and the other does not, or None."""
    if a.language in NEGATIVE_SUBSTRINGS or b.language in NEGATIVE_SUBSTRINGS:
        return _by_substrings(a, b) if a.language == b.language else None
    if (cue := _added(a, b) or _added(b, a)) is not None:
        return f"{cue} / the same without it"
    if a.once(_denies) == b.once(_denies):
        return None
    # "The app does not work" and "how does the app work" differ in more than a negation.
    if 3 * len(a.content_set & b.content_set) < 2 * max(len(a.content_set), len(b.content_set)):
        return None
    one, says = (a, b) if a.once(_denies) else (b, a)
    denied = one.once(denied_words)
    word = min(denied & says.content_set, default=None)
    return f"not {word} / {word}" if word else None


def _added(a: Reading, b: Reading) -> str | None:
    """Return the negation that is all that one text has more than the other: "is", "is not"."""
    if len(a.words) != len(b.words) + 1:
        return None
    pairs = enumerate(zip(a.words, b.words, strict=False))
    place = next((i for i, (mine, other) in pairs if mine != other), len(b.words))
    word = a.words[place]
    # What a text begins with answers something: "no, it is broken".
    if not place or word not in NEGATIONS.get(a.language, frozenset()):
        return None
    if a.words[place + 1 :] != b.words[place:]:
        return None
    neutral = _neutral(a.language)
    return None if neutral is not None and neutral.search(a.folded) else word


def _denies(reading: Reading) -> bool:
    """Whether a text denies anything, with a negation or with a word that holds one."""
    cues = NEGATIONS.get(reading.language, frozenset())
    return _any(reading, cues) or any(_implicit.of(reading.counts))


_implicit = Memo(lambda word: word.startswith(IMPLICIT))


def _any(reading: Reading, cues: frozenset[str]) -> bool:
    if not cues.isdisjoint(reading.counts):
        return True
    return any(word[-3:] == "n't" for word in reading.counts)


def _by_substrings(a: Reading, b: Reading) -> str | None:
    """Compare texts of one language without spaces, where what a cue denies is not to be told."""
    first, second = a.once(_cue), b.once(_cue)
    if bool(first) == bool(second) or not _much_alike(a, b):
        return None
    says = b if first else a
    if _cues(says.language)[1].search(says.folded):
        return None
    return f"{first or second} / not denied"


def _cue(reading: Reading) -> str:
    neutral = _neutral(reading.language)
    text = neutral.sub(" ", reading.folded) if neutral else reading.folded
    match = _cues(reading.language)[0].search(text)
    return match.group() if match else ""


def _much_alike(a: Reading, b: Reading) -> bool:
    shared = len(a.content_set & b.content_set)
    return shared * 2 >= min(len(a.content_set), len(b.content_set))


def denied_words(reading: Reading) -> frozenset[str]:
    """Return the stems that stand under a negation."""
    language = reading.language
    cues = NEGATIONS.get(language)
    if cues is None or not _any(reading, cues):
        return frozenset()
    words = reading.words
    places = _places(words, cues)
    neutral = _neutral(language) if places else None
    if neutral is not None and neutral.search(reading.folded):
        words = Reading(neutral.sub(" ", reading.folded)).words
        places = _places(words, cues)
    glue = FUNCTION_WORDS.get(language, frozenset())
    steps = (1, -1) if language in _BOTH_WAYS else (1,)
    found = (_nearest(words, place, step, glue) for place in places for step in steps)
    return frozenset(word for word in found if word)


def _places(words: tuple[str, ...], cues: frozenset[str]) -> list[int]:
    return [i for i, word in enumerate(words) if word in cues or word.endswith("n't")]


def _nearest(words: tuple[str, ...], place: int, step: int, glue: frozenset[str]) -> str:
    """Return the stem of the first word of content on one side of a cue, or ""."""
    for i in range(place + step, place + 7 * step, step):
        if not 0 <= i < len(words):
            break
        if words[i] not in glue:
            return stem(words[i])
    return ""
