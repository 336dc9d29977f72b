-- KEYS: list   ARGV: start of a message's key, how many
-- Returns number, message, number, message ... of the oldest, oldest first. One that is gone is ''. It
-- stops early where they come to 64 MiB.
local numbers = redis.call('LRANGE', KEYS[1], -tonumber(ARGV[2]), -1)
local out, bytes = {}, 0
for i = #numbers, 1, -1 do
  if bytes > 67108864 then break end
  out[#out + 1] = numbers[i]
  out[#out + 1] = redis.call('GET', ARGV[1] .. numbers[i]) or ''
  bytes = bytes + #out[#out]
end
return out
