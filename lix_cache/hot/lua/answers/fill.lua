-- ARGV: how many entries to take over at most, from how many entries on
-- Lets the vector set of a scope that is large, or half way to it, catch up.
-- Returns how many entries it has.
--#include answers/scope.lua
--#include answers/follow.lua
if 2 * call('HLEN', entries) >= tonumber(ARGV[2]) then follow(tonumber(ARGV[1])) end
return call('EXISTS', vectors) == 1 and call('VCARD', vectors) or 0
