"""Role order: the same words in other places. Pure.

Look at the words of content that both texts have exactly once, and at their order in each.
Where two neighbours of one text are no neighbours in the other, in that order, is a break.
Moving one phrase ("In 1972 he went …" / "he went … in 1972") makes at most three breaks;
exchanging two words makes four, and so does moving two phrases apart. So

* four breaks are an objection, and
* three are, if two words have exchanged what stands before them or what stands behind them
  ("from Tokyo to Paris" / "from Paris to Tokyo").

The rule has no language and no weights. It looks only at texts that share most of their words:
others say the same, or not, in other words. It is linear in the number of words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, filterfalse, pairwise

from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.lexicon.order_words import (
    AFTER_A_LABEL,
    ARTICLES,
    HANGUL_PARTICLES,
    JOINING,
    UNSPACED_GLUE,
)
from lix_cache.matching.guards.lexicon.role_words import PRONOUNS
from lix_cache.matching.guards.reading import Memo, Reading, stem
from lix_cache.matching.guards.roles import are_one_fact

__all__ = ["compare_order"]

_LETTERS_OF_A_KEY = 5
_LEAST_SHARED = 0.75
_MANY_BREAKS = 4
#: In a short question words change places without a change of meaning ("card lost abroad", "lost my
#: card abroad"): on five sets of real questions 2 of 107 objections to those were right.
_LONG = 5


def compare_order(a: Reading, b: Reading) -> str | None:
    """Return the words that have changed places, or None."""
    if a.words == b.words:
        return None
    counts, others = _contents(a, b), _contents(b, a)
    most = _LEAST_SHARED * max(counts.total(), others.total())
    if min(counts.total(), others.total()) < most:
        return None
    both = counts.keys() & others.keys()
    if len(both) < 2 or sum([min(counts[key], others[key]) for key in both]) < most:
        return None
    shared = {key for key in both if counts[key] == 1 == others[key]}
    if len(shared) < 2:
        return None
    here, there = list(a.once(_keys)), list(b.once(_keys))
    order = [key for key in here if key in shared]
    if order == [key for key in there if key in shared]:
        return None
    _agree_on_lists(here, there, shared)
    place = {key: i for i, key in enumerate([key for key in there if key in shared])}
    breaks = _breaks([place[key] for key in order])
    if breaks < _MANY_BREAKS - 1:
        return None
    exchanged = _exchanged(here, there, shared, -1) or _exchanged(here, there, shared, 1)
    if exchanged and not are_one_fact(a, b):
        return " and ".join(exchanged)
    if exchanged or breaks < _MANY_BREAKS or len(a.content_set & b.content_set) < _LONG:
        return None
    return f"order of {', '.join(order[:4])}"


def _contents(reading: Reading, other: Reading) -> Counter[str]:
    """Count the words that are glue in neither text's language."""
    counts = reading.once(_own_contents)
    # A pronoun says who it is only where its case differs: "I sue him", "he sues me".
    drop = _NAMES_OF_PRONOUNS - _in_other_case(reading, other)
    if reading.language != other.language:
        drop |= _glue_of(other.language)
    drop &= counts.keys()
    if drop:
        counts = counts.copy()
        for key in drop:
            del counts[key]
    return counts


def _in_other_case(reading: Reading, other: Reading) -> frozenset[str]:
    mine, theirs = PRONOUNS.keys() & reading.counts.keys(), PRONOUNS.keys() & other.counts.keys()
    here, there, same = (
        frozenset([PRONOUNS[word] for word in words]) for words in (mine, theirs, mine & theirs)
    )
    return (here & there) - same


def _own_contents(reading: Reading) -> Counter[str]:
    return Counter(filterfalse(_glue_of(reading.language).__contains__, reading.once(_keys)))


@lru_cache(maxsize=32)
def _glue_of(language: str) -> frozenset[str]:
    if language in {"zh", "ja"}:
        return UNSPACED_GLUE
    words = FUNCTION_WORDS.get(language, frozenset())
    if language == "en":
        words -= PRONOUNS.keys()
    return frozenset(map(_key, words)) | frozenset(HANGUL_PARTICLES)


def _key(word: str) -> str:
    return PRONOUNS.get(word) or stem(word)[:_LETTERS_OF_A_KEY]


_NAMES_OF_PRONOUNS = frozenset(PRONOUNS.values())


_key_of = Memo(_key)


def _keys(reading: Reading) -> tuple[str, ...]:
    """Return what stands for each word, in order."""
    articles = ARTICLES.get(reading.language, frozenset())
    return tuple(_key_of.of(filterfalse(articles.__contains__, _tokens(reading))))


def _agree_on_lists(here: list[str], there: list[str], shared: set[str]) -> None:
    """Bring what both texts join by "and" or "or" into one order: "a or b" is "b or a"."""
    if JOINING.isdisjoint(here) or JOINING.isdisjoint(there):
        return
    joined = {(here[i - 1], here[i + 1]) for i in range(1, len(here) - 1) if here[i] in JOINING}
    for i in range(1, len(there) - 1):
        first, second = there[i - 1], there[i + 1]
        if there[i] in JOINING and (second, first) in joined and first in shared and second in shared:
            there[i - 1], there[i + 1] = second, first


def _tokens(reading: Reading) -> Iterable[str]:
    if reading.language == "en" and not _AMBIGUOUS.isdisjoint(reading.counts):
        return _with_labels(reading)
    if reading.language != "ko":
        return reading.words
    return chain.from_iterable(_parts.of(reading.words))


def _with_labels(reading: Reading) -> Iterable[str]:
    """Return the words, with a capital where "a" is a name ("from A to B"), and "she" for "her"."""
    found = list(reading.words)
    places = [i for i, word in enumerate(found) if word in _AMBIGUOUS]
    capitals = [False] * len(places)
    if not reading.text.isupper() and _CAPITAL_A.search(reading.text):
        starts = [match.start() for match in _HER_OR_A.finditer(reading.text)]
        if len(starts) == len(places):
            capitals = [_CAPITAL_A.match(reading.text, start) is not None for start in starts]
    glue = FUNCTION_WORDS["en"]
    for place, capital in zip(places, capitals, strict=True):
        following = found[place + 1] if place + 1 < len(found) else ""
        if found[place] == "her":
            found[place] = "she" if not following or following in glue else "her"
        elif capital or not following or following in AFTER_A_LABEL:
            found[place] = "A"
    return found


#: Articles and the like, or not.
_AMBIGUOUS = frozenset(("a", "her"))


#: The first word of a sentence has a capital anyway.
_CAPITAL_A = re.compile(r"A(?<=\sA)(?<![.!?:]\sA)(?![\w'])")
_HER_OR_A = re.compile(r"[aAhH](?<![\w'].)(?:(?<=[aA])|(?<=[hH])[eE][rR])(?![\w'])")


def _without_particle(word: str) -> tuple[str, ...]:
    for particle in HANGUL_PARTICLES:
        if word.endswith(particle) and len(word) > len(particle):
            return word[: -len(particle)], particle
    return (word,)


_parts = Memo(_without_particle)


def _breaks(order: Sequence[int]) -> int:
    """Count the places where a permutation of 0 … n-1 does not go on by one, the ends included."""
    framed = (-1, *order, len(order))
    return sum(after != before + 1 for before, after in pairwise(framed))


def _exchanged(here: Sequence[str], there: Sequence[str], shared: set[str], step: int) -> list[str]:
    """Return two words, each of which now has the neighbour (before or behind) that the other had."""
    mine, theirs = _neighbours(here, shared, step), _neighbours(there, shared, step)
    moved = {(mine[word], theirs[word]): word for word in mine if mine[word] != theirs[word]}
    for (before, after), word in moved.items():
        other = moved.get((after, before))
        if other is not None:
            return sorted((word, other))
    return []


def _neighbours(keys: Sequence[str], shared: set[str], step: int) -> dict[str, str]:
    framed = ("", *keys, "")
    return {key: framed[i + step] for i, key in enumerate(framed) if key in shared}
