-- KEYS: of messages
-- Returns them in this order; one that is gone is ''. It stops early where they come to 64 MiB.
local out, bytes = {}, 0
for i = 1, #KEYS do
  if bytes > 67108864 then break end
  out[i] = redis.call('GET', KEYS[i]) or ''
  bytes = bytes + #out[i]
end
return out
