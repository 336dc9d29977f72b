"""The Lua of the drop-in semantic cache: a ring of vectors, and their responses."""

from __future__ import annotations

from lix_cache.hot.scripts import NOW, script

__all__ = ["SEMANTIC_CLEAR", "SEMANTIC_COUNT", "SEMANTIC_SET"]

# KEYS: vectors, responses, scopes
# ARGV: dimension, entries at most, slot (float64 expiry, 8-byte tag, float32 numbers),
#       tag and response, life in ms, scope, header text without the counter
# Writes one entry, over the oldest where the ring is full. Returns 1, or {'DIM', dimension}.
# Where the keys hold something else it fails before it has written anything. A ring of another
# size is made anew with the newest 256 of its entries, which begin at its first slot: neither
# what is copied nor what is allocated depends on how large either ring is.
#
# vectors is a header of 64 bytes ("LXS1", dimension, entries at most, next number, number of
# the first slot's first entry) and a ring of equal slots; number n is in slot n minus that first
# number, mod entries. An entry costs one SETRANGE, however many there are.
SEMANTIC_SET = script(
    NOW
    + """
local dim, cap = tonumber(ARGV[1]), tonumber(ARGV[2])
local size = #ARGV[3]
local head = redis.call('GETRANGE', KEYS[1], 0, 63)
local number, first = 0, 0
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
local life = math.max(tonumber(ARGV[5]), redis.call('PTTL', KEYS[1]))
if head == '' then
  redis.call('UNLINK', KEYS[2])
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
    local slots, responses = {}, {}
    for n = number - kept, number - 1 do
      local at, name = 64 + ((n - first) % old_cap) * size, string.format('%.0f', n)
      slots[#slots + 1] = redis.call('GETRANGE', KEYS[1], at, at + size - 1)
      responses[name] = redis.call('HGET', KEYS[2], name) or nil
    end
    redis.call('UNLINK', KEYS[1], KEYS[2])
    redis.call('SETRANGE', KEYS[1], 64, table.concat(slots))
    for name, response in pairs(responses) do redis.call('HSET', KEYS[2], name, response) end
    first = number - kept
  end
end
redis.call('SETRANGE', KEYS[1], 64 + ((number - first) % cap) * size, ARGV[3])
redis.call('SETRANGE', KEYS[1], 0, string.format('LXS1%010d%010d%020.0f%020.0f', dim, cap, number + 1, first))
redis.call('HSET', KEYS[2], string.format('%.0f', number), ARGV[4])
if number >= cap then redis.call('HDEL', KEYS[2], string.format('%.0f', number - cap)) end
redis.call('PEXPIRE', KEYS[1], life)
redis.call('PEXPIRE', KEYS[2], life)
redis.call('ZADD', KEYS[3], string.format('%.0f', now + life), ARGV[6])
-- A scope's first entry always, so that the index grows no longer than it is cleaned.
if number % 16 == 0 then
  local late = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now), 'LIMIT', 0, 64)
  if #late > 0 then redis.call('ZREM', KEYS[3], unpack(late)) end
end
redis.call('PEXPIRE', KEYS[3], math.max(life, redis.call('PTTL', KEYS[3])))
return 1
"""
)

# KEYS: scopes   ARGV: none.   Returns how many scopes of the session are alive.
SEMANTIC_COUNT = script(
    NOW
    + """
return redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf')
"""
)

# KEYS: scopes   ARGV: start of a vectors key, start of a responses key, how many at most
# Drops the entries of some scopes of a session. The keys dropped are not declared; they carry the
# same hash tag, and only the session's own index names them. Returns how many scopes there were.
SEMANTIC_CLEAR = script(
    """
local scopes = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1)
for i = 1, #scopes do redis.call('UNLINK', ARGV[1] .. scopes[i], ARGV[2] .. scopes[i]) end
if #scopes > 0 then redis.call('ZREM', KEYS[1], unpack(scopes)) end
return #scopes
"""
)
