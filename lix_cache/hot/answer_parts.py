"""The Lua that several scripts of the semantic cache share; see answer_scripts.py for what it reads."""

from __future__ import annotations

from lix_cache.hot.scripts import NOW

__all__ = ["COMMON", "EXACT", "NEWS", "TOUCH"]

# The functions that several scripts share. Deletions are known as far back as field f of the
# head says; who is further behind gets everything anew. They are trimmed when they are twice as
# many as the entries, a part at a time, never to fewer than there are entries, so what a late
# client must fetch is in proportion to its delay.
COMMON = (
    NOW
    + """
local H, E, R, N, X, L = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local D, U, Z, W = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local sub, call = string.sub, redis.call
local function digits(x) return string.format('%015.0f', x) end
local function expiry(meta)
  local at = #meta >= 113 and tonumber(sub(meta, 1, 15))
  if not at then error('FOREIGN a semantic cache entry holds foreign data') end
  return at
end
local function created(meta) return sub(meta, 16, 30) end
local function latest(meta) return sub(meta, 31, 45) end
local function response(meta) return sub(meta, 46, 61) end
local function wording(meta) return sub(meta, 62, 77) end
local function cluster(meta) return sub(meta, 78, 85) end
local function tag(meta) return sub(meta, 86, 93) end
local function holds(list, word)
  for i = 1, #list, 8 do if sub(list, i, i + 7) == word then return true end end
  return false
end
-- A response may have been given to another cluster since it was reported.
local function is_wrong(list, meta)
  return list ~= '' and (holds(list, cluster(meta)) or holds(list, sub(response(meta), 1, 8)))
end
-- A number leads to the entry of a wording only if it still is that: where the log was lost by
-- itself, numbers may have been given a second time.
local function exact(digest)
  local sid = call('HGET', X, digest)
  local meta = sid and call('HGET', E, sid)
  if meta and wording(meta) == digest then return sid, meta end
end
local function drop(sid, meta)
  meta = meta or call('HGET', E, sid)
  local meaning = call('HGET', X, 'a:' .. sid)
  if meaning then
    call('XDEL', L, sid, meaning)
    call('HDEL', X, 'a:' .. sid)
  else
    call('XDEL', L, sid)
  end
  call('ZREM', Z, sid)
  call('ZREM', U, sid)
  if not meta then return 0 end
  call('HDEL', E, sid)
  if call('HGET', X, wording(meta)) == sid then call('HDEL', X, wording(meta)) end
  if call('HINCRBY', N, response(meta), -1) <= 0 then
    call('HDEL', N, response(meta))
    call('HDEL', R, response(meta))
    local part = 0
    while call('HDEL', R, response(meta) .. ':' .. part) == 1 do part = part + 1 end
  end
  call('XADD', D, '*', 'i', sid)
  return 1
end
local function trim()
  local keep = math.max(1024, call('HLEN', E))
  local surplus = call('XLEN', D) - keep
  if surplus > keep then
    local rows = call('XRANGE', D, '-', '+', 'COUNT', 1024)
    call('HSET', H, 'f', rows[1024][1])
    call('XTRIM', D, 'MAXLEN', '=', keep + surplus - 1024)
  end
  local left = call('PTTL', H)
  if left > 0 then call('PEXPIRE', D, left) end
end
local function reaches(place, floor)
  if floor == '0-0' then return true end
  local ms, n = string.match(place, '^(%d+)-(%d+)$')
  local floor_ms, floor_n = string.match(floor, '^(%d+)-(%d+)$')
  ms, floor_ms = tonumber(ms), tonumber(floor_ms)
  return ms > floor_ms or (ms == floor_ms and tonumber(n) >= tonumber(floor_n))
end
local function expire_some(most)
  local late = call('ZRANGEBYSCORE', Z, '-inf', digits(now), 'LIMIT', 0, most)
  for i = 1, #late do drop(late[i]) end
  return #late
end
"""
)

# A use is noted as the eviction wants it (1: last use, 2: number of uses), and a sliding life
# is prolonged up to its limit. A server that takes no writes for now (full, not persisting)
# can still answer: pcall.
TOUCH = """
local function touch(sid, meta, how, slide)
  if how == '1' then redis.pcall('ZADD', U, 'XX', digits(now), sid) end
  if how == '2' then redis.pcall('ZADD', U, 'XX', 'INCR', 1, sid) end
  local till = math.min(now + tonumber(slide), tonumber(latest(meta)))
  if till <= expiry(meta) then return meta end
  local longer = digits(till) .. sub(meta, 16)
  if type(redis.pcall('HSET', E, sid, longer)) == 'table' then return meta end
  redis.pcall('ZADD', Z, 'XX', digits(till), sid)
  return longer
end
"""

# ARGV: digest of the wording, generation the client knows, its place in the log, its place
#       in the deletions, how to touch, sliding ms or 0, 1 to fetch the exact answer (0: only
#       say that it is there)
# Returns one of
#   {'X', now, reported, number, meta, response}: the answer to the very wording
#   {'N', now, reported}: the scope is empty
#   {'D', now, reported, more, records, numbers dropped}: what is new
#   {'R', now, reported, more, generation, records, place in the deletions}: everything
# "reported" are the clusters that must not answer this wording. "more" is 1 if there was more
# than a page of it: then the client asks again from where this one ends, before it decides.
EXACT = """
local reported = call('HGET', W, ARGV[1]) or ''
local sid, meta = exact(ARGV[1])
if meta and expiry(meta) > now and not is_wrong(reported, meta) then
  if ARGV[7] == '0' then
    if call('HEXISTS', R, response(meta)) == 1 then return {'X', digits(now), reported, sid, meta, ''} end
  else
    local data = call('HGET', R, response(meta))
    if data then
      return {'X', digits(now), reported, sid, touch(sid, meta, ARGV[5], ARGV[6]), data}
    end
  end
end
local head = call('HMGET', H, 'g', 'f')
if not head[1] or not head[2] then return {'N', digits(now), reported} end
"""
# A client that knows of more than the server ever wrote was told so by one whose memory this one
# does not have: a replica took over that was behind, or an older file was read. New numbers may
# then be smaller than those that clients know, so all clients get everything anew.
NEWS = """
local function is_behind(key, floor, place)
  local newest, info = floor, redis.pcall('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then newest = info[i + 1] end
  end
  return not (reaches(newest, place) or reaches(floor, place))
end
if head[1] == ARGV[2] and (is_behind(L, '0-0', ARGV[3]) or is_behind(D, head[2], ARGV[4])) then
  head[1] = sub(redis.sha1hex(head[1] .. ARGV[3] .. ARGV[4]), 1, 16)
  redis.pcall('HSET', H, 'g', head[1])
end
-- A page ends where it has the records or the bytes for one.
local function page(from)
  local rows, bytes = {}, 0
  while #rows < 10240 and bytes < 4194304 do
    local some = call('XRANGE', L, from, '+', 'COUNT', 64)
    for i = 1, #some do
      rows[#rows + 1] = some[i]
      bytes = bytes + #some[i][2][2]
    end
    if #some < 64 then return rows, 0 end
    from = '(' .. some[64][1]
  end
  return rows, 1
end
if head[1] == ARGV[2] and reaches(ARGV[4], head[2]) then
  local rows, more = page('(' .. ARGV[3])
  local dropped = call('XRANGE', D, '(' .. ARGV[4], '+', 'COUNT', 10240)
  if #dropped == 10240 then more = 1 end
  return {'D', digits(now), reported, more, rows, dropped}
end
local last = call('XREVRANGE', D, '+', '-', 'COUNT', 1)
local place = #last == 1 and last[1][1] or head[2]
local rows, more = page('-')
return {'R', digits(now), reported, more, head[1], rows, place}
"""
