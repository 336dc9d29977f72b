-- KEYS: window, ticket, refused nonces   ARGV: TTL in ms, id, nonce or '', id, nonce or '' ...
-- Takes out what the archive says is gone, and has nothing put back that was read before. However late this
-- is carried out, an id that another message has by then stays: each goes only with its nonce, and where it
-- has none only while it has none. Adds of the same message that are still on their way are refused: who
-- added it by a key learns in this way that its nonce stands for what is gone. Returns how many went.
local window, ticket, refused = unpack(KEYS)
local gone = 0
redis.call('UNLINK', ticket)
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] ~= '' then redis.pcall('SADD', refused, ARGV[i + 1]) end
  local row = redis.call('XRANGE', window, ARGV[i], ARGV[i])[1]
  if row then
    local message = row[2][2]
    local has_nonce = (string.byte(message) or 0) % 2 == 1
    local nonce = has_nonce and string.sub(message, 2, 7) or ''
    if nonce == ARGV[i + 1] then gone = gone + redis.call('XDEL', window, ARGV[i]) end
  end
end
redis.pcall('PEXPIRE', refused, ARGV[1])
return gone
