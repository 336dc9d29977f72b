-- KEYS: scopes   ARGV: start of a vectors key, start of a responses key, how many at most
-- Drops the entries of some scopes of a session. The keys dropped are not declared; they carry the
-- same hash tag, and only the session's own index names them. Returns how many scopes there were.
local scopes = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1)
for i = 1, #scopes do redis.call('UNLINK', ARGV[1] .. scopes[i], ARGV[2] .. scopes[i]) end
if #scopes > 0 then redis.call('ZREM', KEYS[1], unpack(scopes)) end
return #scopes
