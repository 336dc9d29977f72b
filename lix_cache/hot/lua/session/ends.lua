-- KEYS: window, high water, ticket   ARGV: none
-- Returns how many messages are there, the last one's id or '', and the ms that every later message in
-- a new window exceeds. From here on what was read of the archive is not put back.
--#include clock.lua
local window, high_water, ticket = unpack(KEYS)
local last = redis.call('XREVRANGE', window, '+', '-', 'COUNT', 1)
local high = math.max(now, tonumber(redis.call('GET', high_water) or '0'))
if #last == 1 then high = math.max(high, tonumber(string.match(last[1][1], '^%d+'))) end
high = string.format('%.0f', high)
redis.call('SET', high_water, high)
redis.call('UNLINK', ticket)
return {redis.call('XLEN', window), #last == 1 and last[1][1] or '', high}
