"""Follow-ups that mean nothing without what was said before. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

from lix_cache.matching.guards.lexicon.follow_ups import (
    CJK_FOLLOW_UPS,
    GREETINGS,
    OPENERS,
    POINTERS,
    REPLIES,
    YOU,
)
from lix_cache.matching.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.matching.guards.reading import Reading, read

__all__ = ["is_elliptical"]

_MOST_CHARS = 160
#: A follow-up is short, and says little: an opener before more begins a sentence of its own.
_MOST_WORDS = 7
_MOST_SAID = 2


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    return re.compile(OPENERS, re.VERBOSE), re.compile(CJK_FOLLOW_UPS, re.VERBOSE)


def is_elliptical(query: str) -> bool:
    """Whether a query answers or goes on from another one: "yes please", "what about tomorrow"."""
    text = query.strip()
    if not text:
        return True
    return read(text).once(_of) if len(text) <= _MOST_CHARS else False


def _of(reading: Reading) -> bool:
    openers, unspaced = _patterns()
    if not reading.text.isascii() and unspaced.search(reading.folded.lstrip("¿¡ ")):
        return True
    words = reading.words
    if not words:
        return True
    if len(words) > _MOST_WORDS + 3 or reading.unspaced:
        return False
    said = [word for word in words if not _says_nothing(word, reading.language)]
    if not said and len(words) <= _MOST_WORDS:
        points = any(word in POINTERS for word in words)
        return points or (len(words) <= 3 and not any(word in YOU for word in words))
    text = " ".join(words)
    opener = openers.match(text)
    return opener is not None and len(said) <= _MOST_SAID and len(text) > opener.end()


def _says_nothing(word: str, language: str) -> bool:
    if word in GREETINGS:
        return False
    return word in REPLIES or word in FUNCTION_WORDS.get(language, frozenset())
