-- KEYS: scopes, contexts   ARGV: how many at most.   Forgets some scopes that have expired; returns how many.
--#include clock.lua
local scopes, contexts = KEYS[1], KEYS[2]
local late = redis.call('ZRANGEBYSCORE', scopes, '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for i = 1, #late do
  redis.call('ZREM', scopes, late[i])
  redis.call('HDEL', contexts, late[i])
end
return #late
