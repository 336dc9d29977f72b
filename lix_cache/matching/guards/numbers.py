"""Numbers, units, dates, times and versions: what two texts count must be the same. Pure.

Each number becomes a set of the values it can stand for ("1.000" is 1000 or 1.000, "5/6" is
the fifth of June or the sixth of May); two match if they can stand for one value.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from lix_cache.matching.guards.han_numbers import han_numbers
from lix_cache.matching.guards.lexicon.number_words import (
    DAY_HALVES,
    MONTHS,
    ORDINAL_ENDINGS,
    SCALES,
    UNITS,
)
from lix_cache.matching.guards.reading import Reading
from lix_cache.matching.guards.spelt_numbers import Quantity, day_of, in_words

__all__ = ["Quantity", "compare_numbers", "quantities"]


_DIGITS = re.compile("[0-9][0-9]*")
#: Reading one takes microseconds. A text with more of them is a table, and no two tables are one.
_MOST_NUMBERS = 500
_TOKEN = re.compile(
    r"""
    (?P<ymd>(?<![0-9a-z_.])(?P<y>\d{4})([-/.])(?P<mo>\d{1,2})\3(?P<d>\d{1,2})(?![0-9a-z_]))
  | (?P<cjkdate>(?:(?P<cy>\d{4})\s?年\s?)?(?P<cm>\d{1,2})\s?月(?:\s?(?P<cd>\d{1,2})\s?[日号])?)
  | (?P<slash>(?<![0-9a-z_./])(?P<s1>\d{1,2})(?:
        /(?P<s2>\d{1,2})(?:/(?P<s3>\d{4}|\d{2}))?(?![0-9a-z_/]|\.\d)
      | \.(?P<t2>\d{1,2})\.(?P<t3>\d{4})(?!\d)))
  | (?P<clock>(?<![0-9a-z_.:])(?P<h>\d{1,2})[:h](?P<min>\d{2})(?::\d{2})?
        (?:\s?(?P<ap>[ap])\.?m\b)?(?![0-9a-z_:]))
  | (?P<hour>(?<![0-9a-z_.:])(?P<hh>\d{1,2})\s?(?P<hap>[ap])\.?m\b)
  | (?P<version>(?<![0-9a-z_.])v\.?\s?(?P<ver>\d+(?:\.\d+)*)(?![0-9a-z_]))
  | (?P<number>(?<![a-z_а-я])
        (?:(?P<cur>us\$|[$€£¥₹₽])\s?)?(?P<sign>(?<![^\s(])[-−])?
        (?P<digits>\d+(?:[.,'_]\d+)*|\d*\.\d+)
        (?P<spaced>(?:[\ \u00a0\u202f\u2009]\d{3})*(?![\d]))
        (?P<suffix>[^\W\d_]+|\s?[%°€$£¥₹₽℃℉](?:[cf]\b)?)?)
    """,
    re.VERBOSE,
)
_AFTER = re.compile(r"[\s-]?([^\W\d_]+(?:\.m\b)?)")
# Where scripts have digits of their own: looking at each Han character would take far longer.
_FOREIGN_DIGIT = re.compile(r"[\u0660-\u1fff\ua620-\uabff\uff10-\uff19\U000104a0-\U0001fbff](?<=\d)")
#: So many characters before its first digit may a number begin ("us$ -.5"), and with which.
_BEFORE_DIGIT = 6
_BEGINS = frozenset("uv.-−$€£¥₹₽")
_SEPARATOR = re.compile(r"[.,'_]")


def quantities(reading: Reading) -> tuple[Quantity, ...]:
    """Return the numbers of a text, in no particular order, each once."""
    found: dict[tuple[frozenset[str], str], Quantity] = {}
    text = reading.once(_with_plain_digits)
    every = (*_digits(text), *in_words(reading), *_in_cjk(text))
    half = _half_of_day(reading) if every else ""
    for quantity in every:
        if half and not quantity.unit:
            quantity = quantity._replace(values=quantity.values | _hours(quantity.values, half))
        found.setdefault((quantity.values, quantity.unit), quantity)
    return tuple(found.values())


def _with_plain_digits(reading: Reading) -> str:
    folded = reading.folded
    if folded.isascii():
        return folded
    return _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), folded)


def _half_of_day(reading: Reading) -> str:
    """Return "a" or "p" where words say which half of the day is meant, "ap" where they say both."""
    text = "" if reading.text.isascii() else reading.folded
    return "".join(
        half
        for half, (words, unspaced) in _halves().items()
        if not words.isdisjoint(reading.counts) or (text and unspaced.search(text))
    )


@lru_cache(maxsize=1)
def _halves() -> dict[str, tuple[frozenset[str], re.Pattern[str]]]:
    return {
        half: (frozenset(words), re.compile("|".join(word for word in words if not word.isascii())))
        for half, words in DAY_HALVES.items()
    }


def _hours(values: frozenset[str], half: str) -> set[str]:
    """Return what a plain number stands for if it is an hour."""
    hours = {int(value) for value in values if value.isdigit() and len(value) < 3 and int(value) <= 24}
    known = half if half in {"a", "p"} else None
    return {time for hour in hours for time in _times(hour, 0, known if hour <= 12 else None)}


# -- digits --------------------------------------------------------------------------------


def _digits(text: str) -> Iterator[Quantity]:
    # As finditer would, but looking only where a digit is near.
    at = 0
    digit = _DIGITS.search(text)
    while digit is not None:
        first = digit.start()
        match = None
        before = max(at, first - _BEFORE_DIGIT)
        starts = [i for i, c in enumerate(text[before:first], before) if c in _BEGINS]
        for start in (*starts, first):
            match = _TOKEN.match(text, start)
            if match is not None:
                yield from _of_match(match, text)
                break
        at = first + 1 if match is None else match.end()
        digit = _DIGITS.search(text, at)


def _of_match(match: re.Match[str], text: str) -> Iterator[Quantity]:
    shown = match.group().strip()
    get = match.group
    kind = match.lastgroup
    if kind == "number":
        quantity = _number(match, text)
        if quantity is not None:
            yield quantity
    elif kind == "slash":
        yield from _slash(match, shown)
    elif kind == "clock":
        yield Quantity(frozenset(_times(int(get("h")), int(get("min")), get("ap"))), "", shown)
    elif kind == "hour":
        yield Quantity(frozenset(_times(int(get("hh")), 0, get("hap"))), "", shown)
    elif kind == "version":
        yield Quantity(frozenset({get("ver")}), "", shown)
    elif kind == "ymd":
        yield from _date({(int(get("mo")), int(get("d")))}, get("y"), shown)
    else:
        yield from _date({(int(get("cm")), int(get("cd") or 0))}, get("cy"), shown)


def _date(days: set[tuple[int, int]], year: str | None, shown: str) -> Iterator[Quantity]:
    """Give a date as a date written in words is given: the day of the month, the day, the year."""
    yield Quantity(frozenset(day_of(month, day) for month, day in days), "", shown)
    if all(day for _, day in days):
        yield Quantity(frozenset(str(day) for _, day in days), "", shown)
    if year:
        yield Quantity(frozenset({_integer(year)}), "", year)


def _slash(match: re.Match[str], shown: str) -> Iterator[Quantity]:
    first = match.group("s1")
    second, year = match.group("s2") or match.group("t2"), match.group("s3") or match.group("t3")
    a, b = int(first), int(second)
    days = {(m, d) for m, d in ((a, b), (b, a)) if 1 <= m <= 12 and 1 <= d <= 31}
    if not days:
        yield Quantity(frozenset({shown}), "", shown)
    elif year:
        century = "" if len(year) == 4 else "20" if int(year) < 70 else "19"
        yield from _date(days, century + year, shown)
    else:
        # A date or a fraction; written the other way round it is neither of the same.
        yield Quantity(frozenset({f"{a}/{b}", *(day_of(m, d) for m, d in days)}), "", shown)


def _times(hour: int, minute: int, half: str | None) -> set[str]:
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
        return {f"t{hour}:{minute:02}"}
    return {f"t{hour}:{minute:02}"} | ({f"t{hour + 12}:{minute:02}"} if hour <= 12 else set())


def _number(match: re.Match[str], text: str) -> Quantity | None:
    digits, spaced, suffix, currency, sign = match.group("digits", "spaced", "suffix", "cur", "sign")
    end = match.end()
    suffix = (suffix or "").strip()
    if suffix in ORDINAL_ENDINGS:
        suffix = ""
    month = MONTHS.get(suffix)
    if suffix and suffix not in UNITS and suffix not in SCALES and suffix != "m" and month is None:
        if suffix.isascii():
            return None  # "3d", "737s": a name, see names.py
        suffix, end = "", match.end("spaced")
    if spaced and len(digits) <= 3 and digits.isdigit():
        digits += "".join(c for c in spaced if c.isdigit())
    elif spaced:
        end = match.end("digits")
        suffix = ""
    shown = match.group().strip()
    scale = SCALES.get(suffix)
    if currency and suffix == "m":
        scale = 1_000_000
    unit = UNITS.get(currency or "", "")
    if not unit and scale is None:
        unit = UNITS.get(suffix, "")
    if not suffix or scale is not None:
        word = _word_after(end, text)
        if scale is None and word in SCALES and len(word) > 1:
            scale = SCALES[word]
            end = _AFTER.match(text, end).end()  # type: ignore[union-attr]
            word = _word_after(end, text)
        unit = unit or UNITS.get(word, "")
    values = _values(digits, exact=not unit)
    if scale is not None:
        values = {_scaled(value, scale) for value in values}
    if sign:
        values = {f"-{value}" for value in values}
    return Quantity(frozenset(values), unit, shown)


def _word_after(position: int, text: str) -> str:
    match = _AFTER.match(text, position)
    return match.group(1) if match else ""


def _values(digits: str, *, exact: bool) -> set[str]:
    """Return what a run of digits and separators can stand for, as decimal text.

    Args:
        digits: such as ``1,000.50``.
        exact: keep zeros at the end of a fraction: without a unit 3.10 may be a version.
    """
    if digits.isdigit():
        return {digits if len(digits) > 2 and digits[0] == "0" else _integer(digits)}
    groups = _SEPARATOR.split(digits)
    signs = [c for c in digits if not c.isdigit()]
    tail = groups[-1]
    if len(signs) == 1:
        if signs[0] in "'_":
            return {_integer(groups[0] + tail)}
        values = {_fraction(groups[0], tail, exact=exact or len(tail) == 3)}
        if len(tail) == 3 and 1 <= len(groups[0]) <= 3 and groups[0] != "0":
            values.add(_integer(groups[0] + tail))
            if signs[0] == ",":
                values.discard(_integer(groups[0]))
        return values
    if len(set(signs)) == 1:
        if all(len(group) in (2, 3) for group in groups[1:]) and len(tail) == 3:
            return {_integer("".join(groups))}
        return {digits}
    if len(set(signs[:-1])) == 1 and signs[-1] not in signs[:-1]:
        return {_fraction("".join(groups[:-1]), tail, exact=exact)}
    return {digits}


def _integer(digits: str) -> str:
    # Not by int(): Python converts no more than some 4,300 digits.
    return digits.lstrip("0") or "0"


def _fraction(whole: str, fraction: str, *, exact: bool) -> str:
    whole = _integer(whole)
    if not fraction.strip("0") and len(fraction) < 3:
        return whole
    return f"{whole}.{fraction if exact else fraction.rstrip('0')}".rstrip(".")


def _scaled(value: str, scale: int) -> str:
    whole, _, fraction = value.partition(".")
    if not whole.isdigit() or len(fraction) > len(str(scale)) - 1:
        return f"{value}x{scale}"
    zeros = len(str(scale)) - 1
    return _integer(whole + fraction.ljust(zeros, "0"))


def _in_cjk(text: str) -> Iterator[Quantity]:
    for value, counted, shown in han_numbers(text):
        yield Quantity(frozenset({value}), UNITS.get(counted, ""), shown)


# -- the comparison ------------------------------------------------------------------------


def _is_table(reading: Reading) -> bool:
    text = reading.once(_with_plain_digits)
    if len(text) <= _MOST_NUMBERS or sum(map(text.count, "0123456789")) <= _MOST_NUMBERS:
        return False
    return len(_DIGITS.findall(text)) > _MOST_NUMBERS


def compare_numbers(a: Reading, b: Reading) -> str | None:
    """Return what differs in number, or None."""
    if a.once(_is_table) or b.once(_is_table):
        return f"more than {_MOST_NUMBERS} numbers"
    first, second = a.once(quantities), b.once(quantities)
    if first == second:
        return None
    left, right = _unmatched(first, second), _unmatched(second, first)
    if left and right:
        return f"{left[0].shown} / {right[0].shown}"
    rest = [q for q in left or right if q.values != frozenset({"1"})]
    if rest:
        return f"{rest[0].shown} / no such number"
    return _units_differ(first, second)


def _unmatched(these: tuple[Quantity, ...], others: tuple[Quantity, ...]) -> list[Quantity]:
    known = frozenset().union(*[other.values for other in others])
    return [q for q in these if known.isdisjoint(q.values)]


def _units_differ(first: tuple[Quantity, ...], second: tuple[Quantity, ...]) -> str | None:
    by_value: dict[str, list[Quantity]] = {}
    for other in second:
        for value in other.values:
            by_value.setdefault(value, []).append(other)
    for q in first:
        # Numbers are told apart by value and unit, so there are few of one value.
        same = [other for value in sorted(q.values) for other in by_value.get(value, ())] if q.unit else []
        if same and all(other.unit and other.unit != q.unit for other in same):
            return f"{q.shown} in {q.unit} / {same[0].shown} in {same[0].unit}"
    return None
