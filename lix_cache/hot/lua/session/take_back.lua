-- KEYS: window, known keys   ARGV: how many messages, their ids, digests of their keys
-- Takes messages back, if none of them has left the window. Returns 1 if so, else 0.
local window, known_keys = unpack(KEYS)
local count = tonumber(ARGV[1])
for i = 2, count + 1 do
  if #redis.call('XRANGE', window, ARGV[i], ARGV[i]) == 0 then return 0 end
end
for i = 2, count + 1 do redis.call('XDEL', window, ARGV[i]) end
for i = count + 2, #ARGV do redis.call('HDEL', known_keys, ARGV[i]) end
return 1
