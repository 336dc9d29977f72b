"""Regular expressions from a configuration, matched in linear time by RE2. Pure.

Python's matcher backtracks, and whether a pattern lets it do so for ever cannot be told from
its text by anything shorter than a parser of its whole grammar. RE2 never backtracks: a search
takes one pass, whatever pattern and text. (The module ``regex`` has a timeout instead. Until it
fires the event loop stands, and what is cached would depend on how busy the machine is.)

RE2 knows no look-around and no back-references, and its ``\\d``, ``\\w``, ``\\s`` and ``\\b`` know
ASCII alone. A boundary beside a letter that it does not know is never found, so what should have
been kept out of the cache would get in; such a pattern is refused.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from lix_cache.errors import ConfigError, MissingExtra

__all__ = ["Patterns"]

_LONGEST_PATTERN = 1_000
#: RE2's steps for all patterns of a setting together: what each character costs at worst. A class
#: of Unicode, such as ``\pL``, has 1,200.
_MOST_STEPS = 5_000
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ADVICE = (
    "RE2 has no look-around, back-references, possessive or atomic groups, and calls \\Z \\z; see "
    "https://github.com/google/re2/wiki/Syntax"
)


class Patterns:
    """The patterns of one setting, without regard to case.

    Args:
        patterns: regular expressions of RE2.
        where: which setting they are of, for errors.

    Raises:
        ConfigError: one is no regular expression of RE2, or they are too large.
        MissingExtra: RE2 is not installed.
    """

    def __init__(self, patterns: tuple[str, ...], where: str) -> None:
        self._compiled = [
            (pattern, _compiled(pattern, f"{where}[{i}]")) for i, pattern in enumerate(patterns)
        ]
        steps = sum(int(compiled.programsize) for _, compiled in self._compiled)
        if steps > _MOST_STEPS:
            raise ConfigError(
                f"{where}: the patterns have {steps} steps of RE2, of at most {_MOST_STEPS}. Counted "
                "repetitions are written out, so lower their bounds or use * and +; a class such as \\pL "
                "has some 1,200"
            )

    def find(self, text: str) -> str | None:
        """Return the first pattern that is found in a text, or None. Linear in the text's length."""
        if not self._compiled:
            return None
        # Half a surrogate pair has no UTF-8, and no pattern can mean it.
        data = text.encode("utf-8", "replace")
        return next((pattern for pattern, one in self._compiled if one.search(data) is not None), None)


@lru_cache(maxsize=256)
def _compiled(pattern: str, where: str) -> Any:
    if not pattern:
        raise ConfigError(f"{where} must be a regular expression, and is empty")
    if len(pattern) > _LONGEST_PATTERN:
        raise ConfigError(f"{where} must have at most {_LONGEST_PATTERN} characters, got {len(pattern)}")
    escapes = set(_ESCAPE.findall(pattern))
    if escapes & {"b", "B"} and (not pattern.isascii() or escapes & {"p", "P", "x"}):
        raise ConfigError(
            f"{where}: \\b and \\B know ASCII letters alone, so it would not find what it means; "
            "write (^|[^\\pL]) and ([^\\pL]|$) instead"
        )
    try:
        import re2
    except ImportError as error:
        raise MissingExtra("google-re2", "patterns", where) from error
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    # Where it was found is not needed.
    options.never_capture = True
    try:
        # Queries are matched in this form (see text.py).
        return re2.compile(unicodedata.normalize("NFC", pattern), options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else ""
    except UnicodeEncodeError:
        reason = "half a surrogate pair"
    # Raised out here, and without what RE2 quotes: a text at the wrong place may be a secret.
    raise ConfigError(f"{where} is no regular expression of RE2: {reason.partition(':')[0]}. {_ADVICE}")
