-- KEYS: window, high water, ticket   ARGV: none
-- Returns how many messages are there, the last one's id or '', the ms that every later message in
-- a new window exceeds, and the nonces of those that were sent twice. From here on what was read of
-- the archive is not put back. A stream whose messages were all taken back goes at once: an add would
-- find it, not ask for the high water, and may get an id of this millisecond, which counts as deleted.
--#include clock.lua
-- How many of the newest messages are looked at for late copies: as in refuse.lua.
local LATE_AMONG = 1000
local window, high_water, ticket = unpack(KEYS)
local newest = redis.call('XREVRANGE', window, '+', '-', 'COUNT', LATE_AMONG)
local last = newest[1] and newest[1][1] or ''
local high = math.max(now, tonumber(redis.call('GET', high_water) or '0'))
if last ~= '' then high = math.max(high, tonumber(string.match(last, '^%d+'))) end
high = string.format('%.0f', high)
redis.call('SET', high_water, high)
redis.call('UNLINK', ticket)
if last == '' then redis.call('UNLINK', window) end
local reply = {redis.call('XLEN', window), last, high}
for i = 1, #newest do
  local message = newest[i][2][2]
  local flags = string.byte(message) or 0
  if math.floor(flags / 32) % 2 == 1 then reply[#reply + 1] = string.sub(message, 2, 7) end
end
return reply
