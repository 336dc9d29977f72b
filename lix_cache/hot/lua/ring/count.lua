-- KEYS: scopes   ARGV: none.   Returns how many scopes of the session are alive.
--#include clock.lua
return redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf')
