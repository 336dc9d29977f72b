"""Regular expressions from a configuration, refused if they could take for ever. Pure.

Python's matcher backtracks. From one starting place it may try every way in which a pattern
can match, so what is bounded here is the number of those ways: for a sequence the product
over its items, for alternatives the sum, and for a repetition the sum of the powers. A
pattern of "(a+)+" has more ways than there are atoms; "foo.*bar" has as many as the text has
characters.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lix_cache.errors import ConfigError

__all__ = ["WINDOW", "compile_pattern", "matches"]

#: Characters that a pattern sees at once. Each window holds the last quarter of the one before.
WINDOW = 4_000

#: What may repeat for ever repeats at most as often as a window has characters.
_LONGEST = WINDOW
_MOST_WAYS = 5 * _LONGEST
_LONGEST_PATTERN = 1_000
_MANY = 10**9
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUP = re.compile(r"\((?:\?(?::|[aiLmsux-]+:|P<\w+>|<?[=!]|[aiLmsux]+\)|#[^)]*\)|>)?)?")


@lru_cache(maxsize=256)
def compile_pattern(pattern: str, where: str = "a pattern") -> re.Pattern[str]:
    """Compile a pattern, without regard to case.

    Args:
        pattern: a regular expression of ``re``.
        where: which setting it is of, for the error.

    Raises:
        ConfigError: no regular expression, or one that could take for ever.
    """
    if not isinstance(pattern, str) or not pattern:
        raise ConfigError(f"{where} must be a regular expression as a str, got {pattern!r}")
    if len(pattern) > _LONGEST_PATTERN:
        raise ConfigError(f"{where} must have at most {_LONGEST_PATTERN} characters, got {len(pattern)}")
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{where} is no regular expression: {pattern!r}: {error}") from None
    ways = _Ways(pattern).count()
    if ways > _MOST_WAYS:
        raise ConfigError(
            f"{where} could take for ever on some texts: {pattern!r}. Bound its repetitions, as in "
            "\\d{1,9} for \\d+, use at most one * or +, repeat no group that repeats or chooses, and "
            "use no back-references"
        )
    return compiled


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text: a tenth of a second at worst for each 3,000 characters.

    In texts longer than a window, a match of more than 1,000 characters may be missed.
    """
    compiled = compile_pattern(pattern)
    step = WINDOW * 3 // 4
    last = max(1, len(text) - WINDOW // 4)
    return any(compiled.search(text, start, start + WINDOW) for start in range(0, last, step))


class _Ways:
    """Counts in how many ways a pattern can match from one place, up to _MANY."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def count(self) -> int:
        ways = self._alternatives()
        # What is not understood counts as too much.
        return ways if self._at == len(self._pattern) else _MANY

    def _alternatives(self) -> int:
        total, product = 0, 1
        while self._at < len(self._pattern):
            c = self._pattern[self._at]
            if c == ")":
                break
            if c == "|":
                total, product = total + product, 1
                self._at += 1
                continue
            product = min(_MANY, product * self._repeated(self._item()))
        return min(_MANY, total + product)

    def _item(self) -> int:
        pattern, c = self._pattern, self._pattern[self._at]
        if c == "\\":
            escaped = pattern[self._at + 1 : self._at + 2]
            self._at += 2
            return _MANY if escaped.isdigit() and escaped != "0" else 1
        if c == "[":
            self._at = self._end_of_class()
            return 1
        if c == "(":
            return self._group()
        self._at += 1
        return 1

    def _group(self) -> int:
        opening = _GROUP.match(self._pattern, self._at)
        if opening is None or self._pattern.startswith(("(?P=", "(?("), self._at):
            self._at = len(self._pattern) + 1
            return _MANY
        self._at = opening.end()
        if opening.group().endswith(")"):
            return 1
        ways = self._alternatives()
        self._at += 1
        return ways

    def _end_of_class(self) -> int:
        at = self._at + 1
        if self._pattern.startswith("^", at):
            at += 1
        first = True
        while at < len(self._pattern):
            c = self._pattern[at]
            if c == "]" and not first:
                return at + 1
            at += 2 if c == "\\" else 1
            first = False
        return at + 1

    def _repeated(self, ways: int) -> int:
        least, most = self._quantifier()
        if (least, most) == (1, 1):
            return ways
        if ways == 1:
            return most - least + 1
        total = 0
        for times in range(least, most + 1):
            total += min(_MANY, ways ** min(times, 64))
            if total >= _MANY:
                return _MANY
        return total

    def _quantifier(self) -> tuple[int, int]:
        least, most = 1, 1
        c = self._pattern[self._at : self._at + 1]
        braces = _BRACES.match(self._pattern, self._at) if c == "{" else None
        if c and c in "*+?":
            least, most = {"*": (0, _LONGEST), "+": (1, _LONGEST), "?": (0, 1)}[c]
            self._at += 1
        elif braces is not None and (braces.group(1) or braces.group(3)):
            low, comma, high = braces.groups()
            least = int(low or 0)
            most = int(high) if high else _LONGEST if comma else least
            self._at = braces.end()
        else:
            return 1, 1
        if self._pattern[self._at : self._at + 1] in {"?", "+"}:
            self._at += 1  # lazy and possessive repetitions try no more ways
        return min(least, _LONGEST), min(most, _LONGEST)
