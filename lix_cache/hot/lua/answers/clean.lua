-- ARGV: how many at most.   Drops expired entries and returns how many.
--#include answers/scope.lua
local count = expire_some(tonumber(ARGV[1]))
if count > 0 then trim_dropped() end
return count
