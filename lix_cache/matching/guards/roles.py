"""Who does what to whom: the same words with doer and done-to exchanged. Pure.

The order guard asks for two exchanged neighbours, and a question of two words of content has none: "who
beat Germany" and "who did Germany beat". In a question of English the subject follows the helping verb,
and where there is none, the question word is the subject. A passive with "by" exchanges both. So of two
questions that say the same words, one exchange makes another question, and two make the same one:

    who | beat Germany      who did | Germany beat          another subject: objected to
    who | beat Germany      who was | beaten by Germany     the same, but a passive: objected to
    who did | Germany beat  who was | beaten by Germany     another, and a passive: the same fact

A form of "to be" without "by" says too little ("who is France's president"), unless a preposition is left at
one end ("who is Tom older than"). Some other languages show
in the question word what is asked for (wer, wen).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.lexicon.role_words import (
    AGENT,
    AUXILIARIES,
    BE,
    GAPS,
    LEMMAS,
    PREPOSITIONS,
    PRONOUNS,
    QUESTION_WORDS,
)
from lix_cache.matching.guards.reading import Reading, stem

__all__ = ["are_one_fact", "compare_roles"]

#: In a longer text a question is one sentence of several.
_MOST_WORDS = 40


class _Clause(NamedTuple):
    rest: tuple[str, ...]  # what is said behind the helping verb; all there is where there is none
    is_helped: bool
    is_passive: bool
    ends: bool | None  # of a form of "to be" without "by": whether a preposition is left at the end
    asks: str  # the question word, if it may be the subject


def compare_roles(a: Reading, b: Reading) -> str | None:
    """Return the subjects of two questions that say the same of exchanged things, or None."""
    if a.language != b.language or max(len(a.words), len(b.words)) > _MOST_WORDS:
        return None
    if a.language in GAPS:
        return _by_gap(a, b)
    subjects = _exchanged(a, b)
    return f"{subjects[0]} / {subjects[1]} as the subject" if subjects else None


def are_one_fact(a: Reading, b: Reading) -> bool:
    """Whether one text is the passive of the other: the order of their words differs by rights."""
    return max(len(a.words), len(b.words)) <= _MOST_WORDS and _exchanged(a, b) == ()


def _exchanged(a: Reading, b: Reading) -> tuple[str, ...] | None:
    """Return the subjects of two questions with exchanged roles, () if a passive says the same, or None."""
    first, second = a.once(_clause), b.once(_clause)
    if first is None or second is None:
        return None
    if (first.ends is None) != (second.ends is None) or (
        first.ends is not None and first.ends == second.ends
    ):
        return None
    if not (first.is_helped and second.is_helped):
        # Without a helping verb the subject is the question word, and where its noun ends is not known.
        alone = first.asks in _ALONE and second.asks in _ALONE
        if not first.asks or not second.asks or not (first.is_helped or second.is_helped or alone):
            return None
    many = min(len(first.rest), len(second.rest))
    # "Which team beat Germany": the helping verb of the other text tells where its noun ends.
    one, other = (
        clause.rest if clause.is_helped else clause.rest[-many:] if many else () for clause in (first, second)
    )
    if many < 2 or sorted(one) != sorted(other):
        return None
    if (one[0] == other[0]) != (first.is_passive == second.is_passive):
        return one[0], other[0]
    # Subject, verb and object the other way round: of more words a passive moves the wrong ones as well.
    return () if first.is_passive != second.is_passive and one == other[::-1] else None


def _clause(reading: Reading) -> _Clause | None:
    """Read the question of a text in English; None: there is none, or its roles are not to be told."""
    words = reading.words
    if reading.language != "en" or not words:
        return None
    start = next((i for i, word in enumerate(words) if word in QUESTION_WORDS), None)
    place = next(
        (
            i
            for i in range(start or 0, len(words))
            if words[i] in AUXILIARIES and words[max(0, i - 1)] != "to"
        ),
        None,
    )
    if start is None and place != 0:
        return None
    is_passive = AGENT in words and any(word[-2:] == "ed" or word in LEMMAS for word in words)
    ends = words[-1] in PREPOSITIONS if place is not None and words[place] in BE and not is_passive else None
    if ends is None and not BE.isdisjoint(words) and not is_passive:
        return None
    rest = words[start or 0 :] if place is None else words[place + 1 :]
    asks = "" if start is None else words[start]
    if asks == "how" and words[(start or 0) + 1 : (start or 0) + 2] not in (("many",), ("much",)):
        asks = ""
    is_passive = is_passive and not BE.isdisjoint(words)
    return _Clause(_keys(rest), place is not None, is_passive, ends, asks if asks in _SUBJECTS else "")


#: Question words that may be the subject, and those that are it without a noun.
_SUBJECTS = frozenset(("who", "whom", "what", "which", "whose", "how"))
_ALONE = frozenset(("who", "whom", "what"))


def _keys(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what stands for the words of content and the pronouns, with one form for each verb."""
    glue = FUNCTION_WORDS["en"]
    return tuple(
        [PRONOUNS.get(word) or _lemma(word) for word in words if word in PRONOUNS or word not in glue]
    )


def _lemma(word: str) -> str:
    word, known = LEMMAS.get(word, word), ""
    # "Succeeded" is "succeed", and that has an ending too.
    while word != known:
        word, known = stem(word), word
    return word


@lru_cache(maxsize=8)
def _patterns(language: str) -> tuple[re.Pattern[str], ...]:
    return tuple(map(re.compile, GAPS[language]))


def _by_gap(a: Reading, b: Reading) -> str | None:
    """Compare what is asked for in languages whose question words tell it."""
    first, second = a.once(_gap), b.once(_gap)
    if not first or not second or first == second:
        return None
    mine, theirs = a.content_set, b.content_set
    if 2 * len(mine & theirs) < max(len(mine), len(theirs)):
        return None
    return f"{first} / {second}"


def _gap(reading: Reading) -> str:
    agent, doer, done_to, passive = _patterns(reading.language)
    text = reading.folded.lstrip("¿¡ ")
    if agent.search(text):
        return "the doer"
    if done_to.search(text):
        return "the one it is done to"
    if not doer.search(text):
        return ""
    return "the one it is done to" if passive.search(text) else "the doer"
