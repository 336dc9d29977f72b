"""Negation: what one text denies and the other says. Pure.

A cue denies the first word of content that follows it (in some languages, or goes before it).
Two texts disagree if one denies what the other says, and the other denies nothing, in
whatever words: "can I withdraw" and "why can't I withdraw" do, "can't withdraw" and "withdrawing
fails" do not. Where both deny something, only the order guard looks further. Words that nearly
deny ("hardly", "rarely", "few") are cues too: "animals that rarely sleep" do not sleep.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain, filterfalse

from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.lexicon.negations import (
    IMPLICIT,
    IMPLICIT_SUBSTRINGS,
    INTENSIFIERS,
    NEGATIONS,
    NEGATIVE_SUBSTRINGS,
    NEUTRAL_PHRASES,
    NOT_BEFORE_FEW,
    SCARCE,
)
from lix_cache.matching.guards.reading import Memo, Reading, stem, stems, words_only_in

__all__ = ["compare_negation", "denied_words"]

# In these the cue stands behind the verb, often at the clause's end.
_BOTH_WAYS = frozenset({"de", "nl", "da", "tr", "kk", "fr"})


#: "Reply" and "apply" are no adverbs.
_SHORT = 5


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
    if _denies(a, b) == _denies(b, a):
        return None
    # "The app does not work" and "how does the app work" differ in more than a negation.
    mine, theirs = a.once(_said), b.once(_said)
    if 3 * len(mine & theirs) < 2 * max(len(mine), len(theirs)):
        return None
    one, says = (a, b) if a.once(_places) else (b, a)
    word = min(one.once(denied_words) & says.content_set, default=None)
    return f"not {word} / {word}" if word else None


def _added(a: Reading, b: Reading) -> str | None:
    """Return the negation that is all that one text has more than the other: "is", "is not"."""
    if len(a.words) != len(b.words) + 1 or not (places := a.once(_places)):
        return None
    pairs = enumerate(zip(a.words, b.words, strict=False))
    place = next((i for i, (mine, other) in pairs if mine != other), len(b.words))
    if place not in places or a.words[place + 1 :] != b.words[place:]:
        return None
    neutral = _neutral(a.language)
    return None if neutral is not None and neutral.search(a.folded) else a.words[place]


def _denies(reading: Reading, other: Reading) -> bool:
    """Whether a text denies anything, with a negation or with a word that holds one.

    Such a word that both texts have makes no difference: "I can cancel it", "I can't cancel it".
    """
    return bool(reading.once(_places)) or any(_implicit.of(words_only_in(reading, other)))


_implicit = Memo(lambda word: word.startswith(IMPLICIT))


def _said(reading: Reading) -> frozenset[str]:
    """Return the words of content but for the cues and what goes with them."""
    rest = reading.content_set - _stems_of_cues(reading.language)
    return frozenset(filterfalse(_is_contracted, rest))


@lru_cache(maxsize=32)
def _stems_of_cues(language: str) -> frozenset[str]:
    return frozenset(stems.of(NEGATIONS.get(language, frozenset()) | INTENSIFIERS))


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
    places = reading.once(_places)
    if not places:
        return frozenset()
    language, words = reading.language, reading.words
    neutral = _neutral(language)
    if neutral is not None and neutral.search(reading.folded):
        reading = Reading(neutral.sub(" ", reading.folded))
        words, places = reading.words, _cues_among(reading, language)
    glue = FUNCTION_WORDS.get(language, frozenset())
    steps = (1, -1) if language in _BOTH_WAYS else (1,)
    return frozenset(chain.from_iterable(_nearest(words, i, step, glue) for i in places for step in steps))


def _places(reading: Reading) -> list[int]:
    return _cues_among(reading, reading.language)


def _cues_among(reading: Reading, language: str) -> list[int]:
    cues = NEGATIONS.get(language, frozenset()) & reading.counts.keys()
    cues = cues.union(_contracted.known(reading.counts))
    if not cues:
        return []
    words = reading.words
    # What a text begins with answers something if a mark follows: "no, it is broken".
    first = int(bool(words) and not reading.chunks[0][-1].isalnum())
    return [
        i
        for i, word in enumerate(words)
        if word in cues
        and i >= first
        # "A few" and "the last few" are some, "few" is not many.
        and not (word in SCARCE and i and words[i - 1] in NOT_BEFORE_FEW)
    ]


def _is_contracted(word: str) -> bool:
    """Whether a word holds a negation: "don't", "n'est"."""
    return word[-3:] == "n't" or word[:2] == "n'"


_contracted = Memo(_is_contracted)


def _nearest(words: tuple[str, ...], place: int, step: int, glue: frozenset[str]) -> list[str]:
    """Return the stem of the first word of content on one side of a cue, and words that only intensify it."""
    found = []
    for i in range(place + step, place + 7 * step, step):
        if not 0 <= i < len(words):
            break
        if words[i] not in glue:
            found.append(stem(words[i]))
            if words[i] not in INTENSIFIERS and not (words[i][-2:] == "ly" and len(words[i]) > _SHORT):
                break
    return found
