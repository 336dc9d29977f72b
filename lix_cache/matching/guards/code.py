"""Code in a question: the same words around other signs, or another token in the same place. Pure.

No list of operators is complete, and none is needed: where two texts have the same words, what else
is written between them is the question. ``i++`` is not ``++i``, ``a{2}`` not ``a{2,}``, ``?.`` not
``??``, ``:)`` not ``:(``. And where one token was put in another's place, and a sign in either says that
it is code, they are two: ``%s`` and ``%d``, ``2>&1`` and ``1>&2``, ``len(x)`` and ``sum(x)``.

Signs of prose are left out: marks behind a word, quotes, hyphens, apostrophes, brackets around words.
"""

from __future__ import annotations

import re

from lix_cache.matching.guards.lexicon.number_words import UNITS
from lix_cache.matching.guards.reading import Reading, fold

__all__ = ["compare_code"]

#: What prose has as well, in the places where prose has it.
_OF_PROSE = re.compile(
    r"""(?<=[\w)%"'])[.,;:!?]+(?=["')\]]*(?:\s|\Z)) | (?<!\S)([.,;:!?-])\1*(?=["'”»]*(?:\s|\Z))
      | (?m:^[\ \t]*[*]\s) | \.{2,} | ["`“”„«»‘’]
      | (?<=\w)['’\-–—/,.:]+(?=\w) | (?<=\w)'(?=\s|\Z) | (?<=\d)\s?% | (?<!\S)[#@](?=\w)
      | (?<!\S)/(?!\S) | (?<!\S)\((?=\w) | (?<=[\w\s])\)(?=[\s.,;:!?]|\Z) | _
      | \(\) | \$(?=\d) | (?<=\d)\s?\$ | (?<!\S)\*{1,2}(?=\w[^*\n]*\w\*) | (?<=\w)\*{1,2}(?!\S)""",
    re.VERBOSE,
)
_SIGNS = re.compile(r"[!-/:-@\[-`{-~]+")
_WORDS = re.compile(r"[^\W_]+")
#: A sign that makes a token code: within it, or before a word.
_CODE = re.compile(r"[%\\$=<>^|~{}\[\]]|\w\(|\w[@#&*+]|[@#&*+]\w")
_FACE = re.compile(r"[:;=]-?[()\[\]|/\\]+")
#: A word so short behind a number is its unit, in scripts that part words by spaces.
_UNIT = re.compile(r"[a-zA-Z\u00aa-\u052f\u2126\u212a\u212b]{1,4}")
_AMOUNT = re.compile(r"\W?\d[\d.,]*\W?")
_NUMBER = re.compile(r"\d[\d.,]*")
_END = ".,;:!?"
_LONGEST = 40


def compare_code(a: Reading, b: Reading) -> str | None:
    """Return what is written in two ways, or None."""
    if a.words == b.words:
        mine, theirs = a.once(_signs), b.once(_signs)
        changed = sorted(set(mine) ^ set(theirs))
        # A face that one text makes says nothing; another one than the other's does.
        if changed and ((mine and theirs) or not all(_FACE.fullmatch(sign) for _, sign in changed)):
            return " ".join(sign for _, sign in changed[:5])
    return _replaced(a, b)


def _signs(reading: Reading) -> tuple[tuple[int, str], ...]:
    """Return the signs of a text, each with the number of words before it."""
    if _SIGNS.search(reading.text) is None:
        return ()
    # What is left out leaves a space: the words around it stay two.
    text = _OF_PROSE.sub(" ", reading.text)
    found, words, place = [], 0, 0
    for match in _SIGNS.finditer(text):
        words += len(_WORDS.findall(text, place, match.start()))
        found.append((words, match.group()))
        place = match.end()
    return tuple(found)


def _replaced(a: Reading, b: Reading) -> str | None:
    """Find a token of code that stands in another's place, with the same tokens around it."""
    mine, theirs = a.chunks, b.chunks
    if len(mine) != len(theirs) or len(mine) > _LONGEST:
        return None
    changed = [(here, there) for here, there in zip(mine, theirs, strict=True) if here != there]
    if not changed or len(changed) > 2:
        return None
    for one, other in changed:
        here, there = one.rstrip(_END) or one, other.rstrip(_END) or other
        if fold(here) == fold(there) or (_AMOUNT.fullmatch(here) and _AMOUNT.fullmatch(there)):
            continue  # what differs in a number is for the guard of numbers
        if (_CODE.search(here) and _CODE.search(there)) or _are_units(one, here, there, mine):
            return f"{here} / {there}"
    return None


def _are_units(one: str, here: str, there: str, chunks: tuple[str, ...]) -> bool:
    """Whether two tokens stand behind the same number: 5 mg and 5 µg, 100kr and 100zł."""
    number, its = _NUMBER.match(here), _NUMBER.match(there)
    if number and its:
        if number.group() != its.group():
            return False
        here, there = here[number.end() :], there[its.end() :]
    else:
        place = chunks.index(one)
        if number or its or not place or _NUMBER.fullmatch(chunks[place - 1]) is None:
            return False
    if fold(here) in UNITS and fold(there) in UNITS:
        return False  # names of units that the guard of numbers knows
    are_short = _UNIT.fullmatch(here) is not None and _UNIT.fullmatch(there) is not None
    return are_short and here.rstrip("s") != there.rstrip("s")
