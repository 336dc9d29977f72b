-- KEYS: window, active, overflow, high water, ticket
-- ARGV: session id, smallest id to keep ('' to keep all), largest ms that is archived,
--       length that counts as overflow, id of the oldest message that was archived
-- Forgets what the archive has. Returns how many are left; -1 where it did nothing. A server that hung
-- may carry this out long after the caller gave up, when the window is another one: then its oldest
-- message is not the one that was archived. Nor is it where another mover's trim, or the taking back
-- of a message, came between: so the answer sends the caller to look again.
--#include clock.lua
local window, active, overflow, high_water, ticket = unpack(KEYS)
local session, keep_from = ARGV[1], ARGV[2]
if keep_from ~= '' then
  local oldest = redis.call('XRANGE', window, '-', '+', 'COUNT', 1)
  if #oldest == 1 and oldest[1][1] ~= ARGV[5] then return -1 end
  redis.call('XTRIM', window, 'MINID', '=', keep_from)
end
local left = redis.call('XLEN', window)
if left < tonumber(ARGV[4]) then redis.call('HDEL', overflow, session) end
if left == 0 then
  redis.call('UNLINK', window, ticket)
  redis.call('ZREM', active, session)
  local high = math.max(now, tonumber(ARGV[3]), tonumber(redis.call('GET', high_water) or '0'))
  redis.call('SET', high_water, string.format('%.0f', high))
end
return left
