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
from collections.abc import Iterator, Sequence

from lix_cache.semantic.guards.lexicon.function_words import FUNCTION_WORDS
from lix_cache.semantic.guards.lexicon.order_words import ARTICLES, HANGUL_PARTICLES, UNSPACED_GLUE
from lix_cache.semantic.guards.reading import Reading, stem

__all__ = ["compare_order"]

_LETTERS_OF_A_KEY = 5
_LEAST_SHARED = 0.6
_MANY_BREAKS = 4
_KANA_RUN = re.compile("[\u30a0-\u30ff]+|[\u3040-\u309f]+")


def compare_order(a: Reading, b: Reading) -> str | None:
    """Return the words that have changed places, or None."""
    here, there = _keys(a), _keys(b)
    here_counts, there_counts = Counter(here), Counter(there)
    glue = _glue(a) | _glue(b)
    content = [key for key in here if key not in glue]
    shared = {key for key in content if here_counts[key] == there_counts.get(key) == 1}
    if len(shared) < 2 or len(shared) < _LEAST_SHARED * max(len(content), _size(there, glue)):
        return None
    mine = [key for key in here if key in shared]
    place = {key: i for i, key in enumerate(key for key in there if key in shared)}
    breaks = _breaks([place[key] for key in mine])
    if breaks < _MANY_BREAKS - 1:
        return None
    exchanged = _exchanged(here, there, shared, -1) or _exchanged(here, there, shared, 1)
    if exchanged:
        return " and ".join(exchanged)
    return f"order of {', '.join(mine[:4])}" if breaks >= _MANY_BREAKS else None


def _glue(reading: Reading) -> frozenset[str]:
    if reading.language in {"zh", "ja"}:
        return UNSPACED_GLUE
    words = FUNCTION_WORDS.get(reading.language, frozenset())
    return frozenset(map(_key, words)) | frozenset(HANGUL_PARTICLES)


def _size(keys: Sequence[str], glue: frozenset[str]) -> int:
    return sum(key not in glue for key in keys)


def _key(word: str) -> str:
    return stem(word)[:_LETTERS_OF_A_KEY]


def _keys(reading: Reading) -> list[str]:
    return [_key(word) for word in _tokens(reading) if word not in ARTICLES]


def _tokens(reading: Reading) -> Iterator[str]:
    if reading.language == "ko":
        for word in reading.words:
            yield from _without_particle(word)
    else:
        yield from reading.words


def _without_particle(word: str) -> tuple[str, ...]:
    for particle in HANGUL_PARTICLES:
        if word.endswith(particle) and len(word) > len(particle):
            return word[: -len(particle)], particle
    return (word,)


def _breaks(order: Sequence[int]) -> int:
    """Count the places where a permutation of 0 … n-1 does not go on by one, the ends included."""
    framed = (-1, *order, len(order))
    return sum(after != before + 1 for before, after in zip(framed, framed[1:], strict=False))


def _exchanged(here: Sequence[str], there: Sequence[str], shared: set[str], step: int) -> list[str]:
    """Return two words, each of which now has the neighbour (before or behind) that the other had."""
    mine, theirs = _neighbours(here, shared, step), _neighbours(there, shared, step)
    moved = {(mine[word], theirs[word]): word for word in shared if mine[word] != theirs[word]}
    for (before, after), word in moved.items():
        other = moved.get((after, before))
        if other is not None:
            return sorted((word, other))
    return []


def _neighbours(keys: Sequence[str], shared: set[str], step: int) -> dict[str, str]:
    framed = ("", *keys, "")
    return {key: framed[i + step] for i, key in enumerate(framed) if key in shared}
