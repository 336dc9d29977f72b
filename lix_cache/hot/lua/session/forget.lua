-- KEYS: window, active, overflow   ARGV: session id, smallest id to keep
-- Drops what ends saw. What was added since stays, however much later this is carried out. Returns the
-- id of the first message that is left, or ''.
local window, active, overflow = unpack(KEYS)
redis.call('XTRIM', window, 'MINID', '=', ARGV[2])
redis.call('HDEL', overflow, ARGV[1])
local first = redis.call('XRANGE', window, '-', '+', 'COUNT', 1)
if #first == 1 then return first[1][1] end
redis.call('UNLINK', window)
redis.call('ZREM', active, ARGV[1])
return ''
