"""The Lua of single-flight across processes: who runs a function, and how that ended.

A flight's key holds the token of whoever runs the function, for as long as its deadline lets
it; and for a moment afterwards ``+token`` if the answer was stored, so that others look for
it, or ``-token`` if it was not, so that they do not wait for one another in vain. A flight that was
abandoned leaves nothing: the first of those who wait takes it over.
"""

from __future__ import annotations

from lix_cache.hot.scripts import script

__all__ = ["GIVE_BACK", "TAKE"]

# KEYS: flight   ARGV: token, deadline in ms, an ended flight that was looked at, or ''
# Returns the token if the flight is the caller's from now on, else what the key holds.
TAKE = script(
    """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[3] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
)

# KEYS: flight   ARGV: token, '+', '-' or '' (abandoned), how long that is to be seen in ms
# Ends a flight. Returns 1; 0 if it was no longer the caller's, and somebody else's stays.
GIVE_BACK = script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2] .. ARGV[1], 'PX', ARGV[3]) end
return 1
"""
)
