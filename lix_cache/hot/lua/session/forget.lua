-- KEYS: window, active, overflow, known keys, known keys of before   ARGV: session id, smallest id to keep
-- Drops what ends saw, and by which keys it was added. What was added since stays, however much later
-- this is carried out. Returns the id of the first message that is left, or ''.
local window, active, overflow, known_keys, known_before = unpack(KEYS)
redis.call('XTRIM', window, 'MINID', '=', ARGV[2])
redis.call('HDEL', overflow, ARGV[1])
redis.call('UNLINK', known_keys, known_before)
local first = redis.call('XRANGE', window, '-', '+', 'COUNT', 1)
if #first == 1 then return first[1][1] end
redis.call('UNLINK', window)
redis.call('ZREM', active, ARGV[1])
return ''
