-- KEYS: scopes, then the vectors and the responses of each scope that is to go   ARGV: those scopes
-- Drops their entries.
local scopes = KEYS[1]
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('ZREM', scopes, unpack(ARGV))
return #ARGV
