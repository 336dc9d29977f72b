"""Numbers, days and months that are written in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from lix_cache.matching.guards.han_numbers import LARGEST
from lix_cache.matching.guards.lexicon.number_words import (
    MONTHS,
    NUMBER_WORDS,
    ORDINAL_ENDINGS,
    ORDINAL_WORDS,
    SCALES,
    SCALES_OF,
    UNITS,
)
from lix_cache.matching.guards.reading import Memo, Reading

__all__ = ["Quantity", "day_of", "in_words"]


class Quantity(NamedTuple):
    """One number of a text.

    Attributes:
        values: what it can stand for.
        unit: canonical unit, or "".
        shown: as it stands in the text.
    """

    values: frozenset[str]
    unit: str
    shown: str


_GERMAN = re.compile(r"(ein|zwei|drei|vier|funf|sechs|sieben|acht|neun)und(\w+zig|dreissig)$")
_DUTCH = re.compile(r"(een|twee|drie|vier|vijf|zes|zeven|acht|negen)en(\w+tig)$")
_JOINERS = {"and", "et", "y", "e", "und", "en", "og"}
_ONES = {"one", "a", "un", "uno", "una", "um", "uma", "ein", "eine", "een"}
_GO_ON = _JOINERS | _ONES
_OF = {"of", "de", "di", "del", "van"}
# Months that are another word more often, unless a day or a year stands beside them.
_VAGUE_MONTHS = {
    "en": {"may", "march", "mars"},
    "it": {"mai"},
    "fr": {"mars"},
    "es": {"marco"},
    "pt": {"marco"},
}


def day_of(month: int, day: int) -> str:
    """Return the value of a day of the year, or of a month where the day is 0."""
    return f"m{month}d{day}" if day else f"m{month}"


def in_words(reading: Reading) -> Iterator[Quantity]:
    """Return the numbers that a text writes in words, and its months."""
    words = reading.words
    table = NUMBER_WORDS.get(reading.language, {})
    scales = _scales(reading.language)
    counting = _counting(reading.language)
    known = frozenset(counting.known(reading.counts))
    done = 0
    for i in [i for i, word in enumerate(words) if word in known] if known else ():
        if i < done:
            continue
        word = words[i]
        after = words[i + 1] if i + 1 < len(words) else ""
        if word in table and word not in scales and after not in known and after not in _GO_ON:
            # Most are one word, and say the same each time.
            yield Quantity(frozenset({str(table[word])}), UNITS.get(after, ""), word)
        elif _value(word, table) is not None or (
            word in scales and len(word) > 2 and not _ends_in_digit(words, i - 1)
        ):
            quantity, done = _run(words, i, table, scales)
            yield quantity
        elif word in ORDINAL_WORDS:
            yield Quantity(frozenset({str(ORDINAL_WORDS[word])}), "", word)
        elif (
            word in {"second", "seconde"}
            and reading.language in {"en", "fr"}
            and i
            and words[i - 1] not in table
        ):
            yield Quantity(frozenset({"2"}), "", word)
        elif word in MONTHS:
            yield from _month(words, i, reading.language)


@lru_cache(maxsize=32)
def _counting(language: str) -> Memo[bool]:
    """Return what says whether a word may be a number, a part of one, or a month."""
    table, scales = NUMBER_WORDS.get(language, {}), _scales(language)
    others = scales.keys() | ORDINAL_WORDS.keys() | MONTHS.keys() | {"second", "seconde"}
    return Memo(lambda word: word in others or _value(word, table) is not None)


@lru_cache(maxsize=32)
def _scales(language: str) -> dict[str, int]:
    return {**SCALES, **SCALES_OF.get(language, {})}


def _ends_in_digit(words: tuple[str, ...], i: int) -> bool:
    return i >= 0 and words[i][-1:].isdigit()


def _value(word: str, table: dict[str, int]) -> int | None:
    return table.get(word, _compound(word, table) if len(word) > 8 else None)


def _compound(word: str, table: dict[str, int]) -> int | None:
    for pattern in (_GERMAN, _DUTCH):
        match = pattern.match(word)
        if match and match.group(2) in table:
            return table[match.group(2)] + {"ein": 1, "een": 1}.get(
                match.group(1), table.get(match.group(1), 0)
            )
    return None


def _run(
    words: tuple[str, ...], i: int, table: dict[str, int], scales: dict[str, int]
) -> tuple[Quantity, int]:
    """Read number words from the i-th on: hundreds, tens and ones, thousands, millions."""
    start, total, part, last = i, 0, 0, 0
    while i < len(words):
        word = words[i]
        value = 1 if word in _ONES and 20 <= last < 100 else _value(word, table)
        scale = scales.get(word) if len(word) > 1 and word not in UNITS else None
        if scale is not None:
            part, total = (max(part, 1) * scale, total) if scale == 100 else (0, total + max(part, 1) * scale)
            part, last = min(part, LARGEST), scale
        elif value is not None:
            if i > start and not _goes_on(last, value):
                break
            # "Quatre-vingt" is four times twenty.
            part, last = part + (76 if (last, value) == (4, 20) else value), value
        elif not (word in _JOINERS and start < i < len(words) - 1 and _continues(words[i + 1], table, last)):
            break
        i += 1
    unit = UNITS.get(words[i], "") if i < len(words) else ""
    return Quantity(frozenset({str(total + part)}), unit, " ".join(words[start:i])), i


def _goes_on(last: int, value: int) -> bool:
    return last >= 100 or (20 <= last < 100 and value < 20) or (last == 4 and value == 20)


def _continues(word: str, table: dict[str, int], last: int) -> bool:
    return (word in table and _goes_on(last, table[word])) or (word in _ONES and last >= 20)


def _month(words: tuple[str, ...], i: int, language: str) -> Iterator[Quantity]:
    month = MONTHS[words[i]]
    near = [i - 1, i - 2 if words[i - 1] in _OF else -1, i + 2 if words[i + 1 : i + 2] == ("the",) else i + 1]
    numbers = [_day_number(words[j]) if 0 <= j < len(words) else 0 for j in near]
    day = next((n for n in numbers if 1 <= n <= 31), 0)
    is_month = words[i] not in _VAGUE_MONTHS.get(language, ()) and (
        len(words[i]) > 3 or words[i] in {"mai", "may"}
    )
    if is_month or any(numbers):
        yield Quantity(frozenset({day_of(month, day)}), "", words[i])


def _day_number(word: str) -> int:
    if word in ORDINAL_WORDS:
        return ORDINAL_WORDS[word]
    digits = word[:-2] if word[-2:] in ORDINAL_ENDINGS else word
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) in (1, 2, 4) else 0
