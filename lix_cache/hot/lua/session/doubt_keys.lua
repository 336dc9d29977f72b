-- KEYS: known keys   ARGV: none
-- From now on the archive is asked for keys that are not known: this server went back, or was away.
--#include clock.lua
local KEYS_MS = 86400000
local known_keys = KEYS[1]
if redis.call('EXISTS', known_keys) == 1 then
  redis.pcall('HSET', known_keys, 's', string.format('%.0f', now + KEYS_MS))
end
return 1
