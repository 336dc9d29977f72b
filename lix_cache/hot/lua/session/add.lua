-- KEYS: window, active, overflow, high water, refused nonces; where messages have keys: known keys,
--       known keys of before; and, which makes their number even, the list that the old package may
--       have left, where it is looked for
-- ARGV: session id, TTL in ms, floor (ms and number of the largest id that the caller knows the
--       session to have had), how sure the floor is (0: not looked at in the archive, 1: looked at just
--       now, 2: looked at under the session's lock), length that counts as overflow, window size, what
--       to do where the window ends below the floor (0: nothing, it was compared before; 1: compare;
--       2: add all the same), how many messages, the messages; where they have keys: for each the
--       digests of its key and of its content, 16 bytes each, then whether the archive was looked at
--       for them (0: no, 1: yes, 2: yes, and there is none), and ms and number of the largest id of
--       the session when it was last deleted as a whole
-- Returns {id of the first new message or '', length}, and where there are keys the id of each message
-- that was added before, '' for the new ones. The new ones have the ids that follow the first.
-- 'COLD' where only the archive can say which id is large enough;
-- 'BEHIND' where the window ends before messages that the caller has seen, or knows archived;
-- 'OLD' where there are messages of the old package (see old_keys.py); 'LATE' where a message is
-- stored already, or deleted (see refuse.lua); 'LOOK' where keys may have been forgotten, so that the
-- archive must say whether their messages are there; {'REUSED', number} where a key has another content.
-- All messages are added, or none.
--
-- A window that is there numbers its messages by itself, whatever the clock does. One that
-- is not may have been emptied to disk; then an id is safe if the clock is past the last
-- emptying (high water). If it is not, messages may have been added and archived since
-- the caller looked: only under the lock the floor is the last word. Without a high water
-- mark Redis has emptied nothing since it lost its memory, so a look is enough.
--
-- A window that ends below the floor is one to which Redis went back: it was restarted from an
-- older snapshot, or a replica took over that had not yet heard of the rest. A message that is
-- added there would hide the gap. Comparing reads the last message, so it is done only on the
-- first use after a new connection; an id below the floor is noticed for nothing.
--
-- Where nothing is known of keys, this server may have lost its memory of them: for as long as a key
-- is known otherwise ('s'), the archive is asked for those that are not known here.
--
-- Keys are kept in two hashes. When the one is a day old, or holds so many, it becomes the one of
-- before, which is dropped: nothing is ever looked through. Where that drops keys of the last day, both
-- tiers are asked for a day: the nonces of their messages come of the keys, and two messages under
-- one nonce pass for one.
--
-- The session is listed as used before its message is there, and the id may be later than that: the
-- clock goes on while a script runs, or a client's is ahead. On disk the id is the last use, so paging would
-- miss a session that moves there. Not beyond CLOCKS_MS: such a session would not count as idle for long.
--#include clock.lua
--#include session/last_given.lua
local KEYS_MS, MOST_KEYS = 86400000, 50000
local CLOCKS_MS = 60000
local old = #KEYS % 2 == 0 and table.remove(KEYS)
local window, active, overflow, high_water, refused, known_keys, known_before = unpack(KEYS)
local session, ttl, sure, gap = ARGV[1], ARGV[2], ARGV[5], ARGV[8]
local count = tonumber(ARGV[9])
-- Both are rare: one call where there is neither.
local is_clear = old and redis.call('EXISTS', old, refused) == 0
if old and not is_clear and redis.call('EXISTS', old) == 1 then return 'OLD' end
local floor_ms, floor_seq = tonumber(ARGV[3]), tonumber(ARGV[4])
local function below_floor(id)
  local dash = string.find(id, '-', 1, true)
  local ms = tonumber(string.sub(id, 1, dash - 1))
  return ms < floor_ms or (ms == floor_ms and tonumber(string.sub(id, dash + 1)) < floor_seq)
end

-- The messages that are not known, with their tags; and the ids of those that are.
local new, known, tags = {ARGV[10]}
if known_keys then
  new, known, tags = {}, {}, {}
  local gone_ms, gone_seq = tonumber(ARGV[#ARGV - 1]), tonumber(ARGV[#ARGV])
  for i = 1, count do
    local tag = ARGV[9 + count + i]
    local key = string.sub(tag, 1, 16)
    local found = redis.call('HGET', known_keys, key) or redis.call('HGET', known_before, key)
    if found then
      -- A Redis that went back knows keys of what was deleted since.
      local ms, seq = string.match(found, '^(%d+)-(%d+)$', 17)
      ms = tonumber(ms)
      if ms < gone_ms or (ms == gone_ms and tonumber(seq) <= gone_seq) then found = false end
    end
    if found and string.sub(found, 1, 16) ~= string.sub(tag, 17) then return {'REUSED', tostring(i - 1)} end
    known[i] = found and string.sub(found, 17) or ''
    if not found then
      tags[#tags + 1] = tag
      new[#new + 1] = ARGV[9 + i]
    end
  end
else
  for i = 2, count do new[i] = ARGV[9 + i] end
end
local length = redis.call('XLEN', window)
if #new == 0 then return {'', length, unpack(known)} end
local doubt = known_keys and redis.call('HGET', known_keys, 's')
if known_keys and ARGV[#ARGV - 2] == '0' then
  if redis.call('EXISTS', known_keys) == 0 or now < tonumber(doubt or 0) then return 'LOOK' end
end
if not is_clear then
  for i = 1, #new do
    if redis.call('SISMEMBER', refused, string.sub(new[i], 2, 7)) == 1 then return 'LATE' end
  end
end

local above_floor = string.format('%.0f-0', floor_ms + 1)
local id = '*'
if length == 0 then
  if sure ~= '2' and redis.call('EXISTS', window) == 0 then
    local high = tonumber(redis.call('GET', high_water) or '-1')
    if now <= high or (high < 0 and sure == '0') then return 'COLD' end
  end
  if floor_ms >= now then id = above_floor end
elseif gap == '1' then
  local last = redis.call('XREVRANGE', window, '+', '-', 'COUNT', 1)
  -- Where the last ones were taken out the window ends earlier, and Redis has not gone back.
  if below_floor(last[1][1]) and below_floor(last_given(window)) then return 'BEHIND' end
end

-- All that may be refused comes before the first message: an error after it would have the caller
-- send it again. A session that is listed without a window is passed over.
length = length + #new
redis.call('ZADD', active, now, session)
if length >= tonumber(ARGV[6]) then redis.call('HSET', overflow, session, ARGV[7]) end
if length > #new then redis.call('PEXPIRE', window, ttl) end
if known_keys then
  if ARGV[#ARGV - 2] == '1' and redis.call('EXISTS', known_keys) == 0 then
    doubt = string.format('%.0f', now + KEYS_MS)
  end
  local born = tonumber(redis.call('HGET', known_keys, '') or now)
  if now - born >= KEYS_MS or redis.call('HLEN', known_keys) > MOST_KEYS then
    local dropped = redis.call('UNLINK', known_before)
    if dropped == 1 and now - born < KEYS_MS then doubt = string.format('%.0f', now + KEYS_MS) end
    redis.call('RENAME', known_keys, known_before)
    redis.call('PEXPIRE', known_before, KEYS_MS)
  end
  redis.call('HSETNX', known_keys, '', string.format('%.0f', now))
  if doubt then redis.call('HSET', known_keys, 's', doubt) end
  redis.call('PEXPIRE', known_keys, 2 * KEYS_MS)
end

local given = redis.pcall('XADD', window, id, 'm', new[1])
if type(given) ~= 'string' then
  -- The stream was emptied and is beyond the floor: it refuses the smaller id.
  if id == '*' then return given end
  given = redis.call('XADD', window, '*', 'm', new[1])
end
if below_floor(given) and redis.pcall('XDEL', window, given) == 1 then
  if gap ~= '2' then return 'BEHIND' end
  given = redis.call('XADD', window, above_floor, 'm', new[1])
end
local ms, seq = '', 0
if known_keys or #new > 1 then
  ms, seq = string.match(given, '^(%d+)-(%d+)$')
  seq = tonumber(seq)
end
if #new > 1 and seq > 2 ^ 52 and redis.pcall('XDEL', window, given) == 1 then
  -- Numbers beyond that are not exact here, and the others must follow this one.
  ms, seq = string.format('%.0f', tonumber(ms) + 1), 0
  given = redis.call('XADD', window, ms .. '-0', 'm', new[1])
end
for i = 2, #new do
  redis.call('XADD', window, string.format('%s-%.0f', ms, seq + i - 1), 'm', new[i])
end
if length == #new then redis.pcall('PEXPIRE', window, ttl) end
local used = tonumber(string.match(given, '^%d+'))
if used > now and used <= now + CLOCKS_MS then redis.pcall('ZADD', active, 'GT', used, session) end
-- Bit 5: it was sent before, and that one may still be on its way.
if math.floor(string.byte(new[1]) / 32) % 2 == 1 then
  for i = 1, #new do redis.pcall('SADD', refused, string.sub(new[i], 2, 7)) end
  redis.pcall('PEXPIRE', refused, ttl)
end
if not known_keys then return {given, length} end
for i = 1, #tags do
  local its_id = string.format('%s-%.0f', ms, seq + i - 1)
  redis.pcall('HSET', known_keys, string.sub(tags[i], 1, 16), string.sub(tags[i], 17) .. its_id)
end
return {given, length, unpack(known)}
