"""The Lua of the semantic cache that gives reasons. docs/redis-layout.md is the map.

Every script takes the keys of one scope in the order of
:class:`~lix_cache.hot.keys.AnswerKeys`, all under one hash tag, unless it says otherwise,
and goes by the server's clock, so that all processes agree on what has expired. What the
scripts read stands at fixed places:

* what an entry is (its *meta*): expiry, creation, and the latest that the expiry can get to
  (15 decimal digits each, Unix milliseconds), digest of the response (16 bytes), digest of
  the wording (16), cluster (8), tag (8), tokens (2 × 10 digits), then 8 bytes for each tag word;
* a record of the log: latest expiry and creation as above, then what only clients read;
* the response of an entry gets its vector later: a row of the log of its own, with field ``a``,
  which the field ``a:`` and the entry's number of the exact hash lead to, and which goes with it.

While a script runs the server serves nobody else, so no script does work in proportion to a
scope. Each stops after a number of steps that stands in it, and what is left is done by the
calls that follow: a store evicts some of a surplus, a read brings a page, an invalidation looks
at some entries. Keys are given up with UNLINK, which frees them beside the server's work.
"""

from __future__ import annotations

from lix_cache.hot.answer_parts import COMMON, EXACT, NEWS, TOUCH
from lix_cache.hot.scripts import NOW, script

__all__ = [
    "ADMIT",
    "ATTACH",
    "CLEAN",
    "CLEAR",
    "COUNT",
    "DROP",
    "LEARN",
    "LOOKUP",
    "PRUNE",
    "REPORT",
    "SCOPES",
    "STORE",
]

LOOKUP = script(COMMON + TOUCH + EXACT + NEWS)

# ARGV: digest of the wording, how to touch, sliding ms or 0, 1 to fetch (0: only say whether
#       one is alive; 2: the client has the response), then number, tag and greatest age in ms
#       ('' for any) of each candidate, best first
# Returns {now, number, meta, response} of the first candidate that is alive, not too old and not
# reported for this wording; or {now, 1} if one is alive and was reported, {now, 0, age in ms} if
# one is too old, {now} if none is alive. Only the one that is returned with its response has been
# used.
ADMIT = script(
    COMMON
    + TOUCH
    + """
local reported = call('HGET', W, ARGV[1]) or ''
local wrong, old = nil, nil
for i = 5, #ARGV, 3 do
  local sid, most = ARGV[i], tonumber(ARGV[i + 2])
  local meta = call('HGET', E, sid)
  local is_alive = meta and expiry(meta) > now and tag(meta) == ARGV[i + 1]
  if is_alive and is_wrong(reported, meta) then
    wrong = 1
  elseif is_alive and most and now - tonumber(created(meta)) > most then
    old = old or now - tonumber(created(meta))
  elseif is_alive then
    local data = ''
    if ARGV[4] == '1' then
      data = call('HGET', R, response(meta))
    elseif call('HEXISTS', R, response(meta)) == 0 then
      data = nil
    end
    if data then
      if ARGV[4] == '0' then return {digits(now), sid, meta, data} end
      meta = touch(sid, meta, ARGV[2], ARGV[3])
      return {digits(now), sid, meta, data}
    end
  end
end
if old and not wrong then return {digits(now), 0, digits(old)} end
return {digits(now), wrong}
"""
)

# ARGV: digest of the wording, life in ms, the longest that it can get, meta without its
#       times, record without its times, response, entries at most, whom to evict (0: the
#       oldest, 1: the least recently used, 2: the least often used), new generation, scope,
#       digests of the items of its context, then the parts of a large response
# Returns {number, how many were evicted}, or 'REPORTED' where this answer was reported as
# wrong for this wording. Foreign data under a key fails it before it has written anything.
# Where there are many entries too many (the limit became smaller) some go with each store.
#
# The keys live a quarter longer than the entry, so that not every store must prolong them;
# but whenever one of them may be new, all get their lives. A drop takes one item from each
# key, and from the responses all parts of one; it may begin the list of deletions.
STORE = script(
    COMMON
    + """
local fresh = call('HEXISTS', H, 'g') == 0
local begins = fresh
local length, gone, used = call('XLEN', L), call('XLEN', D), call('ZCARD', U)
local least = math.min(length, call('ZCARD', Z), ARGV[8] == '0' and length or used)
for i = 2, 5 do least = math.min(least, call('HLEN', KEYS[i])) end
fresh = fresh or least == 0
local ended = call('ZRANGEBYSCORE', KEYS[11], '-inf', digits(now), 'LIMIT', 0, 8)
local known = call('HEXISTS', KEYS[12], ARGV[10]) == 1
local times = digits(now + tonumber(ARGV[2])) .. digits(now) .. digits(now + tonumber(ARGV[3]))
local meta = times .. ARGV[4]
if is_wrong(call('HGET', W, ARGV[1]) or '', meta) then return 'REPORTED' end
if begins then
  call('UNLINK', unpack(KEYS, 1, 9))
  call('HSET', H, 'g', ARGV[9], 'f', '0-0')
end
local same = exact(ARGV[1])
local dropped = same and drop(same) or 0
dropped = dropped + expire_some(32)
local evicted = 0
while evicted < 32 and length >= tonumber(ARGV[7]) and call('HLEN', E) >= tonumber(ARGV[7]) do
  local victim = ARGV[8] ~= '0' and call('ZRANGE', U, 0, 0)[1]
  victim = victim or call('XRANGE', L, '-', '+', 'COUNT', 1)[1][1]
  drop(victim)
  evicted = evicted + 1
end
dropped = dropped + evicted
if dropped > 0 then fresh = fresh or gone == 0 or least <= dropped or call('HLEN', R) == 0 end
local sid = call('XADD', L, '*', 'r', latest(meta) .. created(meta) .. ARGV[5])
call('HSET', E, sid, meta)
call('HSET', X, ARGV[1], sid)
call('HSET', R, response(meta), ARGV[6])
for i = 12, #ARGV do call('HSET', R, response(meta) .. ':' .. (i - 12), ARGV[i]) end
call('HINCRBY', N, response(meta), 1)
call('ZADD', Z, sub(meta, 1, 15), sid)
if ARGV[8] == '1' then call('ZADD', U, digits(now), sid) end
if ARGV[8] == '2' then call('ZADD', U, 1, sid) end
local life, left = tonumber(ARGV[3]), call('PTTL', H)
if fresh or left < life then
  left = math.max(left, math.floor(life * 1.25))
  for i = 1, 9 do call('PEXPIRE', KEYS[i], left) end
  call('PEXPIRE', W, math.max(left, 31622400000))
end
if gone + dropped > 2048 then trim() end
for i = 1, #ended do
  known = known and ended[i] ~= ARGV[10]
  call('ZREM', KEYS[11], ended[i])
  call('HDEL', KEYS[12], ended[i])
end
call('ZADD', KEYS[11], digits(now + left), ARGV[10])
if not known then call('HSET', KEYS[12], ARGV[10], ARGV[11]) end
return {sid, evicted}
"""
)

# ARGV: number and tag of an entry, row for the log
# Adds the vector of an entry's response, if the entry is alive and has none. Returns 1 if it did.
ATTACH = script(
    COMMON
    + """
local meta = call('HGET', E, ARGV[1])
if not meta or tag(meta) ~= ARGV[2] or expiry(meta) <= now then return 0 end
if call('HEXISTS', X, 'a:' .. ARGV[1]) == 1 then return 0 end
local row = redis.pcall('XADD', L, '*', 'a', ARGV[3])
if type(row) ~= 'string' then return 0 end
call('HSET', X, 'a:' .. ARGV[1], row)
return 1
"""
)

# ARGV: digest of the wording, number and tag of the entry that answered
# Remembers that the entry's cluster must not answer the wording, nor its very response under
# another cluster, and drops the entry that paired them. Returns 2 if there was one, else 1; and 0,
# with nothing written, if the scope has no such entry: who does not know the random tag has never
# been answered here.
#
# It is remembered for a year after the last report or store in the scope; of one wording, the
# last 64 clusters and responses; and some 10,000 wordings, of which an arbitrary one goes for
# the next.
REPORT = script(
    COMMON
    + """
local answered = call('HGET', E, ARGV[2])
if not answered then return 0 end
expiry(answered)
if tag(answered) ~= ARGV[3] then return 0 end
local group = cluster(answered)
local list = call('HGET', W, ARGV[1])
if not list and call('HLEN', W) >= 10000 then call('HDEL', W, call('HRANDFIELD', W)) end
list = list or ''
for _, word in ipairs({sub(response(answered), 1, 8), group}) do
  if not holds(list, word) then list = sub(word .. list, 1, 1024) end
end
call('HSET', W, ARGV[1], list)
call('PEXPIRE', W, math.max(31622400000, call('PTTL', W)))
local sid, meta = exact(ARGV[1])
local is_paired = meta and cluster(meta) == group
if is_paired then drop(sid, meta) end
trim()
return is_paired and 2 or 1
"""
)

# ARGV: what to multiply labels by, what to multiply audits of late by, then names and numbers to add
# Returns all names and numbers of the scope: r, w and s with a bin (labels that were right and wrong,
# lookups), x and y (audits of late, and those that were wrong), a and b (all that were drawn, and
# those that were wrong). Kept for 90 days after the last.
LEARN = script(
    """
local C, kept, changed = KEYS[15], {}, #ARGV > 2
local factors = {a = 1, b = 1, x = tonumber(ARGV[2]), y = tonumber(ARGV[2])}
-- Some 80 names are ours; what holds many more is not.
if redis.call('HLEN', C) > 256 then redis.call('UNLINK', C) end
local all = redis.call('HGETALL', C)
for i = 1, #all, 2 do
  kept[all[i]] = (tonumber(all[i + 1]) or 0) * (factors[all[i]] or tonumber(ARGV[1]))
end
for i = 3, #ARGV, 2 do kept[ARGV[i]] = (kept[ARGV[i]] or 0) + tonumber(ARGV[i + 1]) end
local reply, words = {}, {'HSET', C}
for name, number in pairs(kept) do
  reply[#reply + 1] = name
  reply[#reply + 1] = string.format('%.6f', number)
end
if changed then
  for i = 1, #reply do words[i + 2] = reply[i] end
  redis.call(unpack(words))
  redis.call('PEXPIRE', C, 7776000000)
end
return reply
"""
)

# ARGV: how many at most.   Drops expired entries and returns how many.
CLEAN = script(
    COMMON
    + """
local dropped = expire_some(tonumber(ARGV[1]))
if dropped > 0 then trim() end
return dropped
"""
)

# ARGV: cursor, older than so many ms ('' for any age), tag words (8 bytes each, '' for any; one
#       must fit), then number and tag of each entry to look at, or '=' and the digest of its
#       wording; none: some of all entries, from the cursor on
# Drops those that fit, and returns {next cursor (0: done), dropped}.
DROP = script(
    COMMON
    + """
local age, dropped, wanted = tonumber(ARGV[2]), 0, {}
for j = 1, #ARGV[3], 8 do wanted[sub(ARGV[3], j, j + 7)] = true end
local function look(sid, meta)
  expiry(meta)
  if age and tonumber(created(meta)) > now - age then return end
  local fits = ARGV[3] == ''
  for j = 114, #meta, 8 do fits = fits or wanted[sub(meta, j, j + 7)] end
  if fits then dropped = dropped + drop(sid, meta) end
end
local cursor = '0'
if #ARGV > 3 then
  for i = 4, #ARGV, 2 do
    local sid, meta = ARGV[i], call('HGET', E, ARGV[i])
    if sid == '=' then
      sid, meta = exact(ARGV[i + 1])
    elseif meta and tag(meta) ~= ARGV[i + 1] then
      meta = nil
    end
    if meta then look(sid, meta) end
  end
else
  local page = call('HSCAN', E, ARGV[1], 'COUNT', 500)
  cursor = page[1]
  for i = 1, #page[2], 2 do look(page[2][i], page[2][i + 1]) end
end
if dropped > 0 then trim() end
return {cursor, dropped}
"""
)

# ARGV: scope.   Drops a scope. Returns how many entries it had. What was reported as wrong
# stays remembered.
CLEAR = script(
    COMMON
    + """
local dropped = call('HLEN', E)
call('UNLINK', KEYS[13], KEYS[14], unpack(KEYS, 1, 9))
call('ZREM', KEYS[11], ARGV[1])
call('HDEL', KEYS[12], ARGV[1])
return dropped
"""
)

# ARGV: none.   Returns {entries that have not expired, wordings with a report, bytes}, and of LEARN's
# numbers x, y, a and b, as text.
COUNT = script(
    COMMON
    + """
local bytes = 0
for i = 1, 10 do
  local used = redis.pcall('MEMORY', 'USAGE', KEYS[i])
  if type(used) == 'number' then bytes = bytes + used end
end
-- Estimated: of a vector set with an expiry, MEMORY USAGE answers nonsense or ends the server
-- (seen with 8.10.2).
if call('EXISTS', KEYS[13]) == 1 then
  bytes = bytes + call('VCARD', KEYS[13]) * (800 + call('VDIM', KEYS[13]))
end
local reply = {call('ZCOUNT', Z, '(' .. digits(now), '+inf'), call('HLEN', W), bytes}
for _, name in ipairs({'x', 'y', 'a', 'b'}) do reply[#reply + 1] = call('HGET', KEYS[15], name) or '0' end
return reply
"""
)

# KEYS: scopes, contexts   ARGV: none.   Forgets some scopes that have expired; returns how many.
PRUNE = script(
    NOW
    + """
local late = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 500)
for i = 1, #late do
  redis.call('ZREM', KEYS[1], late[i])
  redis.call('HDEL', KEYS[2], late[i])
end
return #late
"""
)

# KEYS: scopes, contexts   ARGV: cursor
# Returns {next cursor (0: done), {scope, items, scope, items …}}.
SCOPES = script("return redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', 500)")
