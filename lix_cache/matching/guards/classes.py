"""Closed classes: Monday is not Tuesday, Python is not Java. Pure.

Two texts disagree if each names a member of a class that the other does not.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lix_cache.matching.guards.lexicon.classes import CJK_CLASSES, CLASSES
from lix_cache.matching.guards.reading import Memo, Reading, words_only_in

__all__ = ["compare_classes"]

_Members = dict[str, tuple[tuple[str, int], ...]]


@lru_cache(maxsize=1)
def _spaced() -> _Members:
    members: _Members = {}
    for name, table in CLASSES.items():
        for number, line in enumerate(table.strip().splitlines()):
            for word in line.split():
                members[word] = (*members.get(word, ()), (name, number))
    return members


@lru_cache(maxsize=1)
def _members() -> Memo[tuple[tuple[str, int], ...]]:
    spaced = _spaced()
    return Memo(lambda word: spaced.get(word, ()) or spaced.get(word.removesuffix("'s"), ()))


@lru_cache(maxsize=1)
def _unspaced() -> tuple[_Members, re.Pattern[str]]:
    members: _Members = {}
    # Members are not paired with those of the other table, so classes have names of their own.
    for name, table in ((f"{name} in words of CJK", table) for name, table in CJK_CLASSES.items()):
        for number, group in enumerate(table.split(",")):
            for word in group.split():
                members[word] = (*members.get(word, ()), (name, number))
    return members, re.compile("|".join(sorted(members, key=len, reverse=True)))


def _named(reading: Reading) -> dict[str, dict[int, str]]:
    """Return class -> member -> word of the text."""
    found: dict[str, dict[int, str]] = {}
    members = _members()
    for word in members.known(reading.counts):
        for name, number in members[word]:
            found.setdefault(name, {})[number] = word
    if not reading.text.isascii():
        table, pattern = _unspaced()
        for match in pattern.finditer(reading.folded):
            for name, number in table[match.group()]:
                found.setdefault(name, {})[number] = match.group()
    return found


def compare_classes(a: Reading, b: Reading) -> str | None:
    """Return the two members, or None."""
    # What one text names and the other does not, is a word that only one of them has.
    if (
        a.is_spaced
        and b.is_spaced
        and not all(any(map(_members().__getitem__, words_only_in(*pair))) for pair in ((a, b), (b, a)))
    ):
        return None
    first = a.once(_named)
    if not first:
        return None
    second = b.once(_named)
    for name in first.keys() & second.keys():
        mine, theirs = first[name], second[name]
        here, there = mine.keys() - theirs.keys(), theirs.keys() - mine.keys()
        if here and there:
            return f"{name}: {mine[min(here)]} / {theirs[min(there)]}"
    return None
