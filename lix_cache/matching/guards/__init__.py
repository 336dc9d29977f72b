"""Guards: what two texts say that a vector does not see. Pure text, no model, no I/O.

Near vectors say that two questions are about the same. A guard objects where they still ask
for different things: another number, a "not", the other direction, another name, the same
words in other roles. No guard proves that two texts mean the same; docs/guards.md says how
often each is right and wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lix_cache.matching.guards.classes import compare_classes
from lix_cache.matching.guards.code import compare_code
from lix_cache.matching.guards.elliptical import is_elliptical
from lix_cache.matching.guards.names import compare_literals, compare_names
from lix_cache.matching.guards.negation import compare_negation
from lix_cache.matching.guards.numbers import compare_numbers
from lix_cache.matching.guards.opposites import compare_directions
from lix_cache.matching.guards.order import compare_order
from lix_cache.matching.guards.reading import MAX_CHARS, Reading, read
from lix_cache.matching.guards.remainder import compare_remainders
from lix_cache.matching.guards.roles import compare_roles
from lix_cache.matching.guards.symbols import compare_symbols
from lix_cache.matching.guards.writing import compare_writing
from lix_cache.matching.text import normalise

__all__ = ["GUARDS", "Objection", "check", "is_elliptical"]

_COMPARISONS: dict[str, Callable[[Reading, Reading], str | None]] = {
    "numbers": compare_numbers,
    "direction": compare_directions,
    "negation": compare_negation,
    "class": compare_classes,
    "literal": compare_literals,
    "name": compare_names,
    "symbol": compare_symbols,
    "code": compare_code,
    "remainder": compare_remainders,
    "order": compare_order,
    "roles": compare_roles,
    "writing": compare_writing,
}

#: The names of all guards, in the order in which they are asked.
GUARDS: tuple[str, ...] = ("length", "elliptical", *_COMPARISONS)
_ALL = frozenset(GUARDS)


@dataclass(frozen=True)
class Objection:
    """Why one text must not be answered with the answer to the other.

    Attributes:
        guard: which of GUARDS objects.
        detail: what differs, for people.
    """

    guard: str
    detail: str


def check(query: str, cached: str, *, enabled: frozenset[str] | None = None) -> Objection | None:
    """Return the first objection to answering ``query`` with the answer to ``cached``, or None.

    It does not matter which text is which. Equal texts (see lix_cache.matching.text) are never
    objected to. Time grows in proportion to the length; texts of more than 8,000 characters
    are not compared but objected to.

    Args:
        query: the question that is asked.
        cached: the question whose answer is at hand.
        enabled: names of the guards to ask; all of them by default.
    """
    if query == cached:
        return None
    # In one order, in either order of the texts: the answer is then the same.
    first, second = (query, cached) if query <= cached else (cached, query)
    asked = _ALL if enabled is None else enabled
    if "length" in asked and max(len(first), len(second)) > MAX_CHARS:
        return Objection("length", f"more than {MAX_CHARS:,} characters")
    a, b = read(first), read(second)
    # Most texts differ in a word: their forms need not be made.
    if a.words == b.words and normalise(first) == normalise(second):
        return None
    if "elliptical" in asked:
        for text in (first, second):
            if is_elliptical(text):
                return Objection("elliptical", text)
    for guard, compare in _COMPARISONS.items():
        if guard in asked:
            detail = compare(a, b)
            if detail is not None:
                return Objection(guard, detail)
    return None
