-- KEYS: vectors, responses, scopes
-- ARGV: dimension, entries at most, slot (float64 expiry, 8-byte nonce, float32 numbers),
--       nonce and response, ttl in ms, scope
-- Writes one entry, over the oldest where the ring is full. Returns 1, or {'DIM', dimension}.
-- Where the keys hold something else it fails before it has written anything. A ring of another
-- size is made anew with the newest 256 of its entries, which begin at its first slot: neither
-- what is copied nor what is allocated depends on how large either ring is.
--
-- vectors is a header of 64 bytes ("LXS1", dimension, entries at most, next number, number of
-- the first slot's first entry) and a ring of equal slots; number n is in slot n minus that first
-- number, mod entries. An entry costs one SETRANGE, however many there are.
--#include clock.lua
local vectors, responses, scopes = unpack(KEYS)
local dim, cap, slot, scope = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[6]
local size = #slot
local head = redis.call('GETRANGE', vectors, 0, 63)
local number, first = 0, 0
redis.call('HLEN', responses)
redis.call('ZCARD', scopes)
local ttl = math.max(tonumber(ARGV[5]), redis.call('PTTL', vectors))
if head == '' then
  redis.call('UNLINK', responses)
else
  local held = tonumber(string.sub(head, 5, 14))
  local old_cap = tonumber(string.sub(head, 15, 24))
  number, first = tonumber(string.sub(head, 25, 44)), tonumber(string.sub(head, 45, 64))
  if #head < 64 or string.sub(head, 1, 4) ~= 'LXS1'
      or not (held and old_cap and number and first) or held < 1 or old_cap < 1 then
    return redis.error_reply('FOREIGN a semantic cache key holds foreign data')
  end
  if held ~= dim then return {'DIM', held} end
  if old_cap ~= cap then
    local kept = math.min(number - first, old_cap, cap, 256)
    local slots, kept_responses = {}, {}
    for n = number - kept, number - 1 do
      local at, name = 64 + ((n - first) % old_cap) * size, string.format('%.0f', n)
      slots[#slots + 1] = redis.call('GETRANGE', vectors, at, at + size - 1)
      kept_responses[name] = redis.call('HGET', responses, name) or nil
    end
    redis.call('UNLINK', vectors, responses)
    redis.call('SETRANGE', vectors, 64, table.concat(slots))
    for name, response in pairs(kept_responses) do redis.call('HSET', responses, name, response) end
    first = number - kept
  end
end
redis.call('SETRANGE', vectors, 64 + ((number - first) % cap) * size, slot)
redis.call('SETRANGE', vectors, 0, string.format('LXS1%010d%010d%020.0f%020.0f', dim, cap, number + 1, first))
redis.call('HSET', responses, string.format('%.0f', number), ARGV[4])
if number >= cap then redis.call('HDEL', responses, string.format('%.0f', number - cap)) end
redis.call('PEXPIRE', vectors, ttl)
redis.call('PEXPIRE', responses, ttl)
redis.call('ZADD', scopes, string.format('%.0f', now + ttl), scope)
-- A scope's first entry always, so that the index grows no longer than it is cleaned.
if number % 16 == 0 then
  local late = redis.call('ZRANGEBYSCORE', scopes, '-inf', string.format('%.0f', now), 'LIMIT', 0, 64)
  if #late > 0 then redis.call('ZREM', scopes, unpack(late)) end
end
redis.call('PEXPIRE', scopes, math.max(ttl, redis.call('PTTL', scopes)))
return 1
