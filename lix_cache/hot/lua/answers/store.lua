-- ARGV: digest of the query text, time to live in ms, the longest that it can get, meta without its
--       times, record without its times, response, entries at most, which to evict (0: the
--       oldest, 1: the least recently used, 2: the least often used), new generation, scope,
--       digests of the items of its context, when its making began by this server's clock (ms; '' where
--       that is not known), then the parts of a large response
-- Returns {number, how many were evicted}, or {'reported'} where this answer was reported as
-- wrong for this query, or {'invalidated'} where it would have been dropped had it been there a moment
-- ago: its making began before what it tells was invalidated. Foreign data under a key fails it before it has written anything.
-- Where there are many entries too many (the limit became smaller) some go with each store.
--
-- The keys live a quarter longer than the entry, so that not every store must prolong them;
-- but whenever one of them may be new, all get their expiry. A drop takes one item from each
-- key, and from the responses all parts of one; it may begin the list of deletions.
--#include answers/scope.lua
local digest, ttl, longest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, eviction, scope = tonumber(ARGV[7]), ARGV[8], ARGV[10]
-- Its meta lacks its three times, so its tag words stand 45 bytes earlier than in an entry's.
local MOST_NOTES, NOTES_MS = 100, 86400000
local function concerns(note, began)
  local age, size = tonumber(sub(note, 24, 38)), tonumber(sub(note, 39, 53))
  if tonumber(sub(note, 9, 23)) - began < age then return false end
  for i = 54, 53 + size, 8 do
    if not holds(ARGV[11], sub(note, i, i + 7)) then return false end
  end
  if #note == 53 + size then return true end
  local own = sub(ARGV[4], 69)
  for i = 54 + size, #note, 8 do
    if holds(own, sub(note, i, i + 7)) then return true end
  end
  return false
end
local began = tonumber(ARGV[12])
if began then
  local notes = call('ZRANGEBYSCORE', invalidated, ARGV[12], '+inf', 'LIMIT', 0, MOST_NOTES)
  if #notes == MOST_NOTES or now - began > NOTES_MS then return {'invalidated'} end
  for i = 1, #notes do
    if concerns(notes[i], began) then return {'invalidated'} end
  end
end
local begins = call('HEXISTS', head, 'generation') == 0
local length, gone, uses = call('XLEN', log), call('XLEN', dropped), call('ZCARD', used)
local least = math.min(length, call('ZCARD', expiry), eviction == '0' and length or uses)
for _, hash in ipairs({entries, responses, shares, exact}) do least = math.min(least, call('HLEN', hash)) end
local fresh = begins or least == 0
local ended = call('ZRANGEBYSCORE', scopes, '-inf', digits(now), 'LIMIT', 0, 8)
local is_listed = call('HEXISTS', contexts, scope) == 1
local meta = digits(now + ttl) .. digits(now) .. digits(now + longest) .. ARGV[4]
if is_wrong(call('HGET', reported, digest) or '', meta) then return {'reported'} end
if begins then
  call('UNLINK', unpack(KEYS, 1, OWN_KEYS))
  call('HSET', head, 'generation', ARGV[9], 'floor', '0-0')
end
local same = entry_of(digest)
local count = same and drop(same) or 0
count = count + expire_some(32)
local evicted = 0
while evicted < 32 and length >= most and call('HLEN', entries) >= most do
  local victim = eviction ~= '0' and call('ZRANGE', used, 0, 0)[1]
  victim = victim or call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1]
  drop(victim)
  evicted = evicted + 1
end
count = count + evicted
if count > 0 then fresh = fresh or gone == 0 or least <= count or call('HLEN', responses) == 0 end
local number = call('XADD', log, '*', 'record', latest(meta) .. created(meta) .. ARGV[5])
local response = response_of(meta)
call('HSET', entries, number, meta)
call('HSET', exact, digest, number)
call('HSET', responses, response, ARGV[6])
for i = 13, #ARGV do call('HSET', responses, response .. ':' .. (i - 13), ARGV[i]) end
call('HINCRBY', shares, response, 1)
call('ZADD', expiry, expires(meta), number)
if eviction == '1' then call('ZADD', used, digits(now), number) end
if eviction == '2' then call('ZADD', used, 1, number) end
local left = call('PTTL', head)
if fresh or left < longest then
  left = math.max(left, math.floor(longest * 1.25))
  for i = 1, OWN_KEYS do call('PEXPIRE', KEYS[i], left) end
  call('PEXPIRE', reported, math.max(left, 31622400000))
end
if gone + count > 2048 then trim_dropped() end
for i = 1, #ended do
  is_listed = is_listed and ended[i] ~= scope
  call('ZREM', scopes, ended[i])
  call('HDEL', contexts, ended[i])
end
call('ZADD', scopes, digits(now + left), scope)
if not is_listed then call('HSET', contexts, scope, ARGV[11]) end
return {number, evicted}
