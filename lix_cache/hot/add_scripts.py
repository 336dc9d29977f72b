"""The Lua that adds messages to a window, looks for them, and takes them back. See scripts.py."""

from __future__ import annotations

from lix_cache.hot.scripts import NOW, script

__all__ = ["ADD", "DOUBT_KEYS", "FIND", "KEYS_MS", "MOST_KEYS", "TAKE_BACK"]

#: How long a key is known at least, unless so many others follow it.
KEYS_MS = 86_400_000
MOST_KEYS = 10_000

# KEYS: window, active, overflow, high water, refused nonces; where messages have keys: known keys,
#       known keys of before
# ARGV: session id, life in ms, floor (ms and number of the largest id that the caller knows the
#       session to have had), how sure the floor is (0: not looked at in the archive, 1: looked at just
#       now, 2: looked at under the session's lock), length that counts as overflow, window size, what
#       to do where the window ends below the floor (0: nothing, it was compared before; 1: compare;
#       2: add all the same), key that the old package may have left ('': not looked for), how many
#       messages, the messages; where they have keys: for each the digests of its key and of its
#       content, 16 bytes each, then whether the archive was looked at for them (0: no, 1: yes, 2: yes,
#       and there is none), and ms and number of the largest id that was deleted
# Returns {id of the first new message or '', length}, and where there are keys the id of each message
# that was added before, '' for the new ones. The new ones have the ids that follow the first.
# 'COLD' where only the archive can say which id is large enough;
# 'BEHIND' where the window ends before messages that the caller has seen, or knows archived;
# 'OLD' where there are messages of the old package (see old_keys.py); 'LATE' where a message is
# stored already, or deleted (see REFUSE); 'LOOK' where keys may have been forgotten, so that the archive
# must say whether their messages are there; {'REUSED', number} where a key has another content.
# All messages are added, or none.
#
# A window that is there numbers its messages by itself, whatever the clock does. One that
# is not may have been emptied to disk; then an id is safe if the clock is past the last
# emptying (high water). If it is not, somebody may have added and archived messages since
# the caller looked: only under the lock the floor is the last word. Without a high water
# mark Redis has emptied nothing since it lost its memory, so a look is enough.
#
# A window that ends below the floor is one to which Redis went back: it was restarted from an
# older snapshot, or a replica took over that had not yet heard of the rest. A message that is
# added there would hide the gap. Comparing reads the last message, so it is done only on the
# first use after a new connection; an id below the floor is noticed for nothing.
#
# Where nothing is known of keys, this server may have lost its memory of them: for as long as a key
# is known otherwise ('s'), the archive is asked for those that are not known here.
#
# Keys are kept in two hashes. When the one is a day old, or holds so many, it becomes the one of
# before, which is dropped: nothing is ever looked through.
ADD = script(
    NOW
    + f"""
if ARGV[9] ~= '' and redis.pcall('EXISTS', ARGV[9]) == 1 then return 'OLD' end
local ms, seq = tonumber(ARGV[3]), tonumber(ARGV[4])
local count, keyed = tonumber(ARGV[10]), #KEYS > 5
local function below_floor(id)
  local its_ms, its_seq = string.match(id, '^(%d+)-(%d+)$')
  its_ms = tonumber(its_ms)
  return its_ms < ms or (its_ms == ms and tonumber(its_seq) < seq)
end
local new, known, tags = {{ARGV[11]}}
if keyed then
  new, known, tags = {{}}, {{}}, {{}}
  local gone_ms, gone_seq = tonumber(ARGV[#ARGV - 1]), tonumber(ARGV[#ARGV])
  for i = 1, count do
    local tag = ARGV[10 + count + i]
    local key = string.sub(tag, 1, 16)
    local found = redis.call('HGET', KEYS[6], key) or redis.call('HGET', KEYS[7], key)
    if found then
      -- A Redis that went back knows keys of what was deleted since.
      local its_ms, its_seq = string.match(found, '^(%d+)-(%d+)$', 17)
      its_ms = tonumber(its_ms)
      if its_ms < gone_ms or (its_ms == gone_ms and tonumber(its_seq) <= gone_seq) then found = false end
    end
    if found and string.sub(found, 1, 16) ~= string.sub(tag, 17) then
      return {{'REUSED', tostring(i - 1)}}
    end
    known[i] = found and string.sub(found, 17) or ''
    if not found then
      tags[#tags + 1] = tag
      new[#new + 1] = ARGV[10 + i]
    end
  end
else
  for i = 2, count do new[i] = ARGV[10 + i] end
end
local length = redis.call('XLEN', KEYS[1])
if #new == 0 then return {{'', length, unpack(known)}} end
local doubt = keyed and redis.call('HGET', KEYS[6], 's')
if keyed and ARGV[#ARGV - 2] == '0' then
  if redis.call('EXISTS', KEYS[6]) == 0 or now < tonumber(doubt or 0) then return 'LOOK' end
end
for i = 1, #new do
  if redis.call('SISMEMBER', KEYS[5], string.sub(new[i], 2, 7)) == 1 then return 'LATE' end
end
local above_floor = string.format('%.0f-0', ms + 1)
local id = '*'
if length == 0 then
  if ARGV[5] ~= '2' and redis.call('EXISTS', KEYS[1]) == 0 then
    local high = tonumber(redis.call('GET', KEYS[4]) or '-1')
    if now <= high or (high < 0 and ARGV[5] == '0') then return 'COLD' end
  end
  if ms >= now then id = above_floor end
elseif ARGV[8] == '1' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if below_floor(last[1][1]) then return 'BEHIND' end
end
-- All that may be refused comes before the first message: an error after it would have the caller
-- send it again. A session that is listed without a window is passed over.
length = length + #new
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
if length >= tonumber(ARGV[6]) then redis.call('HSET', KEYS[3], ARGV[1], ARGV[7]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if keyed then
  if ARGV[#ARGV - 2] == '1' and redis.call('EXISTS', KEYS[6]) == 0 then
    doubt = string.format('%.0f', now + {KEYS_MS})
  end
  local born = tonumber(redis.call('HGET', KEYS[6], '') or now)
  if now - born >= {KEYS_MS} or redis.call('HLEN', KEYS[6]) > {MOST_KEYS} then
    redis.call('UNLINK', KEYS[7])
    redis.call('RENAME', KEYS[6], KEYS[7])
    redis.call('PEXPIRE', KEYS[7], {KEYS_MS})
  end
  redis.call('HSETNX', KEYS[6], '', string.format('%.0f', now))
  if doubt then redis.call('HSET', KEYS[6], 's', doubt) end
  redis.call('PEXPIRE', KEYS[6], {2 * KEYS_MS})
end
local given = redis.pcall('XADD', KEYS[1], id, 'm', new[1])
if type(given) ~= 'string' then
  -- The stream was emptied and is beyond the floor: it refuses the smaller id.
  if id == '*' then return given end
  given = redis.call('XADD', KEYS[1], '*', 'm', new[1])
end
if below_floor(given) and redis.pcall('XDEL', KEYS[1], given) == 1 then
  if ARGV[8] ~= '2' then return 'BEHIND' end
  given = redis.call('XADD', KEYS[1], above_floor, 'm', new[1])
end
local its_ms, its_seq = '', 0
if keyed or #new > 1 then
  its_ms, its_seq = string.match(given, '^(%d+)-(%d+)$')
  its_seq = tonumber(its_seq)
end
if #new > 1 and its_seq > 2 ^ 52 and redis.pcall('XDEL', KEYS[1], given) == 1 then
  -- Numbers beyond that are not exact here, and the others must follow this one.
  its_ms, its_seq = string.format('%.0f', tonumber(its_ms) + 1), 0
  given = redis.call('XADD', KEYS[1], its_ms .. '-0', 'm', new[1])
end
for i = 2, #new do
  redis.call('XADD', KEYS[1], string.format('%s-%.0f', its_ms, its_seq + i - 1), 'm', new[i])
end
if length == #new then redis.pcall('PEXPIRE', KEYS[1], ARGV[2]) end
-- Bit 5: it was sent before, and that one may still be on its way.
if math.floor(string.byte(new[1]) / 32) % 2 == 1 then
  for i = 1, #new do redis.pcall('SADD', KEYS[5], string.sub(new[i], 2, 7)) end
  redis.pcall('PEXPIRE', KEYS[5], ARGV[2])
end
if not keyed then return {{given, length}} end
for i = 1, #tags do
  local its_id = string.format('%s-%.0f', its_ms, its_seq + i - 1)
  redis.pcall('HSET', KEYS[6], string.sub(tags[i], 1, 16), string.sub(tags[i], 17) .. its_id)
end
return {{given, length, unpack(known)}}
"""
)

# KEYS: window   ARGV: id to look below ('+': from the newest on), how many to look at, nonces
# Returns {length, id to go on from or '' where there are no more, nonce, id, nonce, id …}.
FIND = script(
    """
local start = ARGV[1]
if start ~= '+' then start = '(' .. start end
local wanted = {}
for i = 3, #ARGV do wanted[ARGV[i]] = true end
local rows = redis.call('XREVRANGE', KEYS[1], start, '-', 'COUNT', ARGV[2])
local out = {redis.call('XLEN', KEYS[1]), ''}
if #rows == tonumber(ARGV[2]) then out[2] = rows[#rows][1] end
for i = 1, #rows do
  local nonce = string.sub(rows[i][2][2], 2, 7)
  if wanted[nonce] then
    out[#out + 1] = nonce
    out[#out + 1] = rows[i][1]
  end
end
return out
"""
)

# KEYS: known keys   ARGV: none
# From now on the archive is asked for keys that are not known: this server went back, or was away.
DOUBT_KEYS = script(
    NOW
    + f"""
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.pcall('HSET', KEYS[1], 's', string.format('%.0f', now + {KEYS_MS}))
end
return 1
"""
)

# KEYS: window, known keys   ARGV: how many messages, their ids, digests of their keys
# Takes messages back, if none of them has left the window. Returns 1 if so, else 0.
TAKE_BACK = script(
    """
local count = tonumber(ARGV[1])
for i = 2, count + 1 do
  if #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) == 0 then return 0 end
end
for i = 2, count + 1 do redis.call('XDEL', KEYS[1], ARGV[i]) end
for i = count + 2, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
return 1
"""
)
