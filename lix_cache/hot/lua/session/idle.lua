-- KEYS: active   ARGV: idle for at least so many ms, how many to pass over, how many at most
-- Returns the session ids that have been idle for longest.
--#include clock.lua
local latest = string.format('%.0f', now - tonumber(ARGV[1]))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', latest, 'LIMIT', ARGV[2], ARGV[3])
