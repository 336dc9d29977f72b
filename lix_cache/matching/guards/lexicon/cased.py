"""Words that mean something else with a capital, or in capitals."""

from __future__ import annotations

__all__ = ["ACRONYMS", "BITS", "CAPITALISED", "MEASURED"]

#: With a capital inside a sentence: a people, a place, a month, a person, a feast.
CAPITALISED = frozenset(
    """
    august bath bill china chase cork drew earnest frank german grant job jack lent march mark may mercury mobile nice
    pat pole poles polish reading rob rose scotch sue swede swedes titanic turkey violet will
    """.split()
)

#: In capitals. Not those that are plain from what is said around them ("my pin").
ACRONYMS = frozenset("act aids arm era ice ira it led ram sat us who".split())

#: What stands behind the prefix of a unit, in small letters: milli- with m, mega- with M.
MEASURED = frozenset(["", *"a ah b bit bps byte g hz j l m mol n pa s t v w wh".split()])

#: Last letters of units of data: in bits and in bytes.
BITS = frozenset("bB")
