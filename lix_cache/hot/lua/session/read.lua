-- KEYS: window, active, ticket, and the list that the old package may have left, where it is looked for
-- ARGV: session id, how many, bytes at most, TTL in ms, id to look below ('+': from the newest
--       on), 6 random bytes
-- Returns 'OLD' where there is such a list; {1 if there may be more of what was asked for, id, message, id,
-- message ...}, newest first; where there is no window {false, ticket}: what rehydrate asks for, '' where
-- it cannot be kept. Readers that come before the session is put back share one. A server that takes no
-- writes for now (full, not persisting) can still be read: that the use of the session goes unnoted is no
-- reason to refuse.
--#include clock.lua
--#include session/pages.lua
local window, active, ticket_key, old = unpack(KEYS)
-- How long a session that was not there may take to be put back.
local TICKET_MS = 60000
if old and redis.call('EXISTS', old) == 1 then return 'OLD' end
local function read(from, count) return redis.call('XREVRANGE', window, from, '-', 'COUNT', count) end
take(read, ARGV[5] == '+' and '+' or '(' .. ARGV[5], tonumber(ARGV[2]), tonumber(ARGV[3]), 1)
if #out == 1 and redis.call('EXISTS', window) == 0 then
  local ticket = redis.call('GET', ticket_key)
  if not ticket then
    -- Made here, so that a read that is carried out twice makes two; and not of the time alone.
    ticket = time[1] .. '.' .. time[2] .. ':' .. ARGV[6]
    local kept = redis.pcall('SET', ticket_key, ticket, 'PX', TICKET_MS)
    if not kept.ok then ticket = '' end
  end
  return {false, ticket}
end
redis.pcall('PEXPIRE', window, ARGV[4])
redis.pcall('ZADD', active, string.format('%.0f', now), ARGV[1])
return out
