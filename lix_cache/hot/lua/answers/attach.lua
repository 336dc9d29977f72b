-- ARGV: number and nonce of an entry, row for the log
-- Adds the vector of an entry's response, if the entry is alive and has none. Returns 1 if it did.
--#include answers/scope.lua
local number = ARGV[1]
local meta = call('HGET', entries, number)
if not meta or nonce_of(meta) ~= ARGV[2] or expires(meta) <= now then return 0 end
if call('HEXISTS', exact, 'answer:' .. number) == 1 then return 0 end
local row = redis.pcall('XADD', log, '*', 'answer', ARGV[3])
if type(row) ~= 'string' then return 0 end
call('HSET', exact, 'answer:' .. number, row)
return 1
