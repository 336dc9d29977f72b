"""Names that were meant: is one a slip of another?"""

from __future__ import annotations

import difflib

__all__ = ["did_you_mean", "is_nearly", "is_short_for"]


def did_you_mean(name: str, known: list[str], what: str = "settings") -> str:
    """Return the end of an error about an unknown name of a setting, or of what else has names."""
    by_letters = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_letters, n=1)
    if close:
        return f"; did you mean {by_letters[close[0]]!r}?"
    return f"; known {what}: {', '.join(sorted(known)) or 'none'}"


def is_nearly(own: str, known: str) -> bool:
    """Tell a slip from another word: letters that were swapped, lost, doubled or mistaken, or the case."""
    a, b = own.upper().replace("_", ""), known.replace("_", "")
    if abs(len(a) - len(b)) > 3:
        return False
    return _slips(a, b) <= max(1, len(b) // 8) or difflib.SequenceMatcher(None, a, b).ratio() >= 0.9


def is_short_for(own: str, known: str, *, whole_words: bool) -> bool:
    """Tell an abbreviation: words cut short (``ARCH_DIR``), or letters left out (``REDIS_PWD``).

    Args:
        own: words between underscores.
        known: what they may stand for.
        whole_words: also where whole words are left out (``HOST`` for ``REDIS_HOST``).
    """
    mine, theirs = own.upper().strip("_").split("_"), known.split("_")
    if not whole_words and len(mine) != len(theirs):
        return False
    rest = iter(theirs)
    return all(any(_is_cut(word, whole) for whole in rest) for word in mine)


def _is_cut(word: str, whole: str) -> bool:
    if word == whole:
        return True
    letters = iter(whole)
    return len(word) >= 3 and word[0] == whole[0] and all(letter in letters for letter in word)


def _slips(a: str, b: str) -> int:
    """Return how many letters to change, add, drop or swap with the next one make one of the other."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            least = min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                least = min(least, older[j - 2] + 1)
            row.append(least)
    return row[-1]
