-- ARGV: scope.   Drops a scope. Returns how many entries it had. What was reported as wrong
-- stays remembered.
--#include answers/scope.lua
local count = call('HLEN', entries)
call('UNLINK', vectors, followed, unpack(KEYS, 1, OWN_KEYS))
call('ZREM', scopes, ARGV[1])
call('HDEL', contexts, ARGV[1])
return count
