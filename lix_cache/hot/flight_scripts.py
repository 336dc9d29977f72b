"""The Lua of single-flight across processes: who runs a function, and how that ended.

A flight's key holds the token of the caller that runs the function, for as long as its deadline lets
it; and for a moment afterwards ``+token`` if the answer was stored, so that others look for
it, or ``-token`` if it was not, so that they do not wait for one another in vain. A flight that was
abandoned leaves nothing: the first of those who wait takes it over.
"""

from __future__ import annotations

from lix_cache.hot.scripts import Script

__all__ = ["GIVE_BACK", "TAKE"]

TAKE = Script("flight/take")
GIVE_BACK = Script("flight/give_back")
