-- KEYS: window, active, ticket
-- ARGV: session id, TTL in ms, ticket, the largest id of the session, id, message, id, message ...
-- Puts archived messages back under their own ids. Returns 1; 0 where the session is hot already; -1
-- where it was moved, cleared or deleted since the ticket was given: what was read may be outdated.
--#include clock.lua
local window, active, ticket = unpack(KEYS)
if redis.call('EXISTS', window) == 1 then return 0 end
if redis.call('GET', ticket) ~= ARGV[3] then return -1 end
redis.call('UNLINK', ticket)
for i = 5, #ARGV, 2 do redis.call('XADD', window, ARGV[i], 'm', ARGV[i + 1]) end
-- Where the last ones were taken out the window ends earlier; it must not look as if Redis had gone back.
redis.pcall('XSETID', window, ARGV[4])
redis.call('ZADD', active, string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', window, ARGV[2])
return 1
