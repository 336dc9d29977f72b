-- KEYS: lease   ARGV: who, TTL in ms.   Returns 1 if the lease is the caller's now.
-- A server that takes no writes (its memory is full) gives it to all that ask: they are the ones
-- that can make room, and correctness does not rest on the lease.
local lease, who = KEYS[1], ARGV[1]
local holder = redis.call('GET', lease)
if holder and holder ~= who then return 0 end
redis.pcall('SET', lease, who, 'PX', ARGV[2])
return 1
