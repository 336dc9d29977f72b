-- KEYS: window, and the list that the old package may have left, where it is looked for
-- ARGV: how many of the newest to leave out, how many at most, bytes at most,
--       how many at least, whatever their size, id after which to begin ('' for the start)
-- Returns 'OLD' where there is such a list; else {1 if there may be more, id, message, id, message ...},
-- oldest first.
--#include session/pages.lua
local after, window, old = ARGV[5], unpack(KEYS)
if old and redis.call('EXISTS', old) == 1 then return 'OLD' end
local there, limit = redis.call('XLEN', window) - tonumber(ARGV[1]), tonumber(ARGV[2])
local function read(from, count) return redis.call('XRANGE', window, from, '+', 'COUNT', count) end
local from, left = after == '' and '-' or '(' .. after, math.min(there, limit)
take(read, from, left, tonumber(ARGV[3]), tonumber(ARGV[4]))
if there > limit then out[1] = 1 end
return out
