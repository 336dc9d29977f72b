-- KEYS: window   ARGV: nonce, id to look below ('+': from the newest on), how many to look at
-- Returns {id, length} of the message that has the nonce; the id to go on from; or nil where
-- there are no more.
local window, nonce, start = KEYS[1], ARGV[1], ARGV[2]
if start ~= '+' then start = '(' .. start end
local rows = redis.call('XREVRANGE', window, start, '-', 'COUNT', ARGV[3])
for i = 1, #rows do
  if string.sub(rows[i][2][2], 2, 7) == nonce then
    return {rows[i][1], redis.call('XLEN', window)}
  end
end
if #rows < tonumber(ARGV[3]) then return false end
return rows[#rows][1]
