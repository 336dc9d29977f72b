-- What the scripts of a scope share: its keys, the bytes of an entry that they read, and how an
-- entry is dropped. docs/redis-layout.md is the map. The keys are those of AnswerKeys, in its order.
--
-- What an entry is (its meta) stands at fixed places: expiry, creation, and the latest that the
-- expiry can get to (15 decimal digits each, Unix milliseconds), digest of the response (16 bytes),
-- digest of the query text (16), group (8), nonce (8), tokens (2 x 10 digits), then 8 bytes for each tag
-- word. A record of the log begins with latest expiry and creation as above; the rest only clients
-- read. The response of an entry gets its vector later: a row of the log of its own, with field
-- "answer", which the field "answer:" and the entry's number of the exact hash lead to, and which
-- goes with it.
--
-- While a script runs the server serves no other client, so no script does work in proportion to a
-- scope. Each stops after a number of steps that stands in it, and what is left is done by the
-- calls that follow. Keys are given up with UNLINK, which frees them beside the server's work.
--#include clock.lua
local head, entries, responses, shares, exact = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local log, dropped, used, expiry, reported = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local scopes, contexts, vectors, followed, labels = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local invalidated = KEYS[16]
local OWN_KEYS = 9  -- those that end with the scope; what was reported stays
local sub, call = string.sub, redis.call
local function digits(x) return string.format('%015.0f', x) end
local function expires(meta)
  local at = #meta >= 113 and tonumber(sub(meta, 1, 15))
  if not at then error('FOREIGN a semantic cache entry holds foreign data') end
  return at
end
local function with_expiry(meta, at) return at .. sub(meta, 16) end
local function created(meta) return sub(meta, 16, 30) end
local function latest(meta) return sub(meta, 31, 45) end
local function response_of(meta) return sub(meta, 46, 61) end
local function digest_of(meta) return sub(meta, 62, 77) end
local function group_of(meta) return sub(meta, 78, 85) end
local function nonce_of(meta) return sub(meta, 86, 93) end
local function tag_words(meta) return sub(meta, 114) end
local function holds(list, word)
  for i = 1, #list, 8 do if sub(list, i, i + 7) == word then return true end end
  return false
end
-- A response may have been given to another answer group since it was reported.
local function is_wrong(list, meta)
  return list ~= '' and (holds(list, group_of(meta)) or holds(list, sub(response_of(meta), 1, 8)))
end
-- A number leads to the entry of a text only if it still is that: where the log was lost by
-- itself, numbers may have been given a second time.
local function entry_of(digest)
  local number = call('HGET', exact, digest)
  local meta = number and call('HGET', entries, number)
  if meta and digest_of(meta) == digest then return number, meta end
end
local function drop(number, meta)
  meta = meta or call('HGET', entries, number)
  local answer = call('HGET', exact, 'answer:' .. number)
  if answer then
    call('XDEL', log, number, answer)
    call('HDEL', exact, 'answer:' .. number)
  else
    call('XDEL', log, number)
  end
  call('ZREM', expiry, number)
  call('ZREM', used, number)
  if not meta then return 0 end
  call('HDEL', entries, number)
  if call('HGET', exact, digest_of(meta)) == number then call('HDEL', exact, digest_of(meta)) end
  local response = response_of(meta)
  if call('HINCRBY', shares, response, -1) <= 0 then
    call('HDEL', shares, response)
    call('HDEL', responses, response)
    local part = 0
    while call('HDEL', responses, response .. ':' .. part) == 1 do part = part + 1 end
  end
  call('XADD', dropped, '*', 'entry', number)
  return 1
end
-- Deletions are known as far back as "floor" of the head says; who is further behind gets
-- everything anew. They are trimmed when they are twice as many as the entries, a part at a time,
-- never to fewer than there are entries, so what a late client must fetch is in proportion to its
-- delay.
local function trim_dropped()
  local keep = math.max(1024, call('HLEN', entries))
  local surplus = call('XLEN', dropped) - keep
  if surplus > keep then
    local rows = call('XRANGE', dropped, '-', '+', 'COUNT', 1024)
    call('HSET', head, 'floor', rows[1024][1])
    call('XTRIM', dropped, 'MAXLEN', '=', keep + surplus - 1024)
  end
  local left = call('PTTL', head)
  if left > 0 then call('PEXPIRE', dropped, left) end
end
-- Whether a place in a stream is not before another.
local function reaches(place, floor)
  if floor == '0-0' then return true end
  local ms, n = string.match(place, '^(%d+)-(%d+)$')
  local floor_ms, floor_n = string.match(floor, '^(%d+)-(%d+)$')
  ms, floor_ms = tonumber(ms), tonumber(floor_ms)
  return ms > floor_ms or (ms == floor_ms and tonumber(n) >= tonumber(floor_n))
end
-- Where the deletions are now.
local function end_of_dropped(floor)
  local last = call('XREVRANGE', dropped, '+', '-', 'COUNT', 1)
  return #last == 1 and last[1][1] or floor
end
local function expire_some(most)
  local late = call('ZRANGEBYSCORE', expiry, '-inf', digits(now), 'LIMIT', 0, most)
  for i = 1, #late do drop(late[i]) end
  return #late
end
