-- ARGV: names of labels
-- Returns {entries that have not expired, queries with a report, bytes}, and these labels as text.
--#include answers/scope.lua
local bytes = 0
for i = 1, OWN_KEYS + 1 do
  local size = redis.pcall('MEMORY', 'USAGE', KEYS[i])
  if type(size) == 'number' then bytes = bytes + size end
end
-- Estimated: of a vector set with an expiry, MEMORY USAGE answers nonsense or ends the server
-- (seen with 8.10.2).
if call('EXISTS', vectors) == 1 then
  bytes = bytes + call('VCARD', vectors) * (800 + call('VDIM', vectors))
end
local reply = {call('ZCOUNT', expiry, '(' .. digits(now), '+inf'), call('HLEN', reported), bytes}
for i = 1, #ARGV do reply[#reply + 1] = call('HGET', labels, ARGV[i]) or '0' end
return reply
