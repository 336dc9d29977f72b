-- KEYS: window, refused nonces   ARGV: TTL in ms, nonce, id, nonce, id ...
-- Each message is stored under that id, or deleted. Adds of it that are still on their way are refused
-- from now on, and the copies that have come are dropped. A server that takes no writes (its memory
-- is full) refuses adds by itself.
local window, refused = unpack(KEYS)
-- How many of the newest messages are looked at for late copies.
local LATE_AMONG = 1000
local known = {}
for i = 2, #ARGV, 2 do
  known[ARGV[i]] = ARGV[i + 1]
  redis.pcall('SADD', refused, ARGV[i])
end
redis.pcall('PEXPIRE', refused, ARGV[1])
local rows = redis.call('XREVRANGE', window, '+', '-', 'COUNT', LATE_AMONG)
for i = 1, #rows do
  local id = known[string.sub(rows[i][2][2], 2, 7)]
  if id and id ~= rows[i][1] then redis.call('XDEL', window, rows[i][1]) end
end
return 1
