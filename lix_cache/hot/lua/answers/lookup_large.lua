--#include answers/scope.lua
--#include answers/touch.lua
--#include answers/follow.lua
--#include answers/exact.lua
-- ARGV: as lookup, then from how many entries on the vector set answers
-- Returns as lookup, or {'search', now, reported}: ask nearest. From half as many entries on the
-- vector set is filled; until it has nearly all of them, clients follow the log themselves.
local count, from = call('HLEN', entries), tonumber(ARGV[8])
if 2 * count >= from then
  local place = follow(8)
  if place and count >= from and #call('XRANGE', log, '(' .. place, '+', 'COUNT', 33) <= 32 then
    return {'search', digits(now), wrong}
  end
end
--#include answers/news.lua
