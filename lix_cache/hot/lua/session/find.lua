-- KEYS: window   ARGV: id to look below ('+': from the newest on), how many to look at, nonces
-- Returns {length, id to go on from or '' where there are no more, nonce, id, nonce, id ...}.
local window, start, most = KEYS[1], ARGV[1], ARGV[2]
if start ~= '+' then start = '(' .. start end
local wanted = {}
for i = 3, #ARGV do wanted[ARGV[i]] = true end
local rows = redis.call('XREVRANGE', window, start, '-', 'COUNT', most)
local out = {redis.call('XLEN', window), ''}
if #rows == tonumber(most) then out[2] = rows[#rows][1] end
for i = 1, #rows do
  local nonce = string.sub(rows[i][2][2], 2, 7)
  if wanted[nonce] then
    out[#out + 1] = nonce
    out[#out + 1] = rows[i][1]
  end
end
return out
