"""Opposite directions: one text says one pole of an axis, the other text the other. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from lix_cache.matching.guards.lexicon.opposites import (
    CJK_OPPOSITES,
    CONTRASTS,
    ENDINGS,
    NOT_OPPOSITES,
    PREFIXES,
    STRONG,
    SWITCHING,
    WEAK,
)
from lix_cache.matching.guards.negation import denied_words
from lix_cache.matching.guards.reading import Memo, Reading, stem, stems, words_only_in

__all__ = ["compare_directions"]


_LONGEST_WORD = 40


class _Pole(NamedTuple):
    axis: int
    side: int
    weak: bool


class _Tables(NamedTuple):
    exact: dict[str, tuple[_Pole, ...]]
    prefixes: dict[str, tuple[_Pole, ...]]
    lengths: tuple[int, ...]
    starts: frozenset[str]
    unspaced: dict[str, tuple[_Pole, ...]]
    pattern: re.Pattern[str]


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    exact: dict[str, tuple[_Pole, ...]] = {}
    prefixes: dict[str, tuple[_Pole, ...]] = {}
    unspaced: dict[str, tuple[_Pole, ...]] = {}
    axis = 0
    for table, weak in ((STRONG, False), (WEAK, True), (CJK_OPPOSITES, False)):
        for line in table.strip().splitlines():
            axis += 1
            for side, words in enumerate(line.split("|")):
                for word in words.split():
                    pole = _Pole(axis, side, weak)
                    if table is CJK_OPPOSITES:
                        unspaced[word] = (*unspaced.get(word, ()), pole)
                    elif word[-1] == "*":
                        prefixes[word[:-1]] = (*prefixes.get(word[:-1], ()), pole)
                    else:
                        exact[word] = (*exact.get(word, ()), pole)
    lengths = tuple(sorted({len(prefix) for prefix in prefixes}))
    longest_first = sorted(unspaced, key=len, reverse=True)
    starts = frozenset(prefix[:3] for prefix in prefixes) | {
        prefix[:2] for prefix in prefixes if len(prefix) < 3
    }
    return _Tables(exact, prefixes, lengths, starts, unspaced, re.compile("|".join(longest_first)))


def _poles_of(word: str) -> tuple[_Pole, ...]:
    tables = _tables()
    if len(word) >= _LONGEST_WORD:
        return ()
    found = tables.exact.get(word, ())
    if word[:3] not in tables.starts and word[:2] not in tables.starts:
        return found
    for length in tables.lengths:
        if length > len(word):
            break
        found += tables.prefixes.get(word[:length], ())
    return found


_poles = Memo(_poles_of)


#: Axis -> side -> words of the text, the earliest first; "" in scripts without spaces.
_Axes = dict[int, dict[int, list[str]]]


def _axes(reading: Reading) -> tuple[_Axes, _Axes]:
    """Return the strong and the weak axes of which a text has a pole."""
    strong: _Axes = {}
    weak: _Axes = {}
    for word in _poles.known(reading.counts):
        for pole in _poles[word]:
            axes = weak if pole.weak else strong
            axes.setdefault(pole.axis, {}).setdefault(pole.side, []).append(word)
    if not reading.text.isascii():
        tables = _tables()
        for found in dict.fromkeys(tables.pattern.findall(reading.folded)):
            for pole in tables.unspaced[found]:
                strong.setdefault(pole.axis, {}).setdefault(pole.side, []).append("")
    return strong, weak


def compare_directions(a: Reading, b: Reading) -> str | None:
    """Return the opposites, or None."""
    # A pole whose opposite the other text has is a word that this text alone has.
    if not (a.is_spaced and b.is_spaced) or (
        _has_pole(words_only_in(a, b)) and _has_pole(words_only_in(b, a))
    ):
        found = _strong(a, b) or _weak(a, b)
        if found is not None:
            return found
    only_here, only_there = a.content_set - b.content_set, b.content_set - a.content_set
    if not only_here or not only_there:
        return None
    return (
        _prefixed(a, only_here, b, only_there)
        or _prefixed(b, only_there, a, only_here)
        or _contrasted(only_here, only_there)
    )


def _has_pole(words: frozenset[str]) -> bool:
    return any(_poles.of(words))


def _strong(a: Reading, b: Reading) -> str | None:
    first, second = a.once(_axes)[0], b.once(_axes)[0]
    for axis in first.keys() & second.keys():
        mine, theirs = first[axis], second[axis]
        if len(mine) == len(theirs) == 1 and mine.keys() != theirs.keys():
            here, there = _word(a, mine), _word(b, theirs)
            if _equally_denied(here, a, there, b):
                return f"{here} / {there}"
    return None


def _equally_denied(here: str, a: Reading, there: str, b: Reading) -> bool:
    """Whether a pole is as much denied in its text as the other one: "not right" is wrong."""
    return (stem(here) in a.once(denied_words)) == (stem(there) in b.once(denied_words))


def _word(reading: Reading, sides: dict[int, list[str]]) -> str:
    word = next(iter(sides.values()))[0]
    if word:
        return word
    match = _tables().pattern.search(reading.folded)
    return match.group() if match else ""


def _weak(a: Reading, b: Reading) -> str | None:
    if a.language != b.language:
        return None
    first, second = a.once(_axes)[1], b.once(_axes)[1]
    for axis in first.keys() & second.keys():
        mine, theirs = first[axis], second[axis]
        if len(mine) == len(theirs) == 1 and mine.keys() != theirs.keys():
            (here,), (there,) = mine.values(), theirs.values()
            if _neighbours(a, here) & _neighbours(b, there) and _equally_denied(here[0], a, there[0], b):
                return f"{here[0]} / {there[0]}"
    return None


def _neighbours(reading: Reading, poles: list[str]) -> set[tuple[str, str]]:
    """Return the words of content just before and just after these words, and on which side."""
    words, content = reading.words, reading.content_set
    near = set()
    wanted = frozenset(poles)
    for place in [i for i, word in enumerate(words) if word in wanted]:
        for side, step in (("before", -1), ("after", 1)):
            for i in range(place + step, place + 4 * step, step):
                if not 0 <= i < len(words):
                    break
                if stems[words[i]] in content:
                    near.add((side, stems[words[i]]))
                    break
    if not SWITCHING.isdisjoint(reading.counts):
        near.add(("verb", ""))
    return near


def _prefixed(a: Reading, only_here: frozenset[str], b: Reading, only_there: frozenset[str]) -> str | None:
    """Find a word of one text that the other has with "un-", "dis-" and the like instead."""
    for longer in sorted([word for word in only_there if word.startswith(PREFIXES)]):
        for prefix in PREFIXES:
            word = longer[len(prefix) :]
            if (
                longer.startswith(prefix)
                and 4 <= len(word) <= 30
                and word in only_here
                and word not in NOT_OPPOSITES
                and _equally_denied(word, a, longer, b)
            ):
                return f"{word} / {longer}"
    return None


def _contrasted(only_here: frozenset[str], only_there: frozenset[str]) -> str | None:
    """Find two words that begin in contrast and end alike, or the other way round."""
    for word in sorted(only_here):
        for mine, other in _BEGINNINGS:
            rest = word[len(mine) :]
            if word.startswith(mine) and len(rest) >= 3 and other + rest in only_there:
                return f"{word} / {other}{rest}"
        for mine, other in _ENDINGS:
            rest = word[: -len(mine)]
            if word.endswith(mine) and len(rest) >= 3 and rest + other in only_there:
                return f"{word} / {rest}{other}"
    return None


_BEGINNINGS = (*CONTRASTS, *((other, one) for one, other in CONTRASTS))
_ENDINGS = (*ENDINGS, *((other, one) for one, other in ENDINGS))
