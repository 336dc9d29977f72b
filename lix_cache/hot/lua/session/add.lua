-- KEYS: window, active, overflow, high water, refused nonces
-- ARGV: session id, message, life in ms, floor (ms and number of the largest id that the caller
--       knows the session to have had), how sure the floor is (0: not looked at in the archive,
--       1: looked at just now, 2: looked at under the session's lock), window size, length that
--       counts as overflow, what to do where the window ends below the floor (0: nothing, it was
--       compared before; 1: compare; 2: add all the same), key that the old package may have
--       left ('': not looked for)
-- Returns {id, length}; 'COLD' where only the archive can say which id is large enough;
-- 'BEHIND' where the window ends before messages that the caller has seen, or knows archived;
-- 'OLD' where there are messages of the old package (see old_keys.py); 'LATE' where the message is
-- stored already, or deleted (see refuse.lua).
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
--#include clock.lua
local window, active, overflow, high_water, refused = unpack(KEYS)
local session, message, life, sure, gap, old = ARGV[1], ARGV[2], ARGV[3], ARGV[6], ARGV[9], ARGV[10]
if old ~= '' and redis.pcall('EXISTS', old) == 1 then return 'OLD' end
local nonce = string.sub(message, 2, 7)
if redis.call('SISMEMBER', refused, nonce) == 1 then return 'LATE' end
local length = redis.call('XLEN', window)
local floor_ms, floor_seq = tonumber(ARGV[4]), tonumber(ARGV[5])
local function below_floor(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  ms = tonumber(ms)
  return ms < floor_ms or (ms == floor_ms and tonumber(seq) < floor_seq)
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
  if below_floor(last[1][1]) then return 'BEHIND' end
end
-- All that may be refused comes before the message: an error after it would have the caller
-- send it again. A session that is listed without a window is passed over.
length = length + 1
redis.call('ZADD', active, string.format('%.0f', now), session)
if length >= tonumber(ARGV[8]) then redis.call('HSET', overflow, session, ARGV[7]) end
redis.call('PEXPIRE', window, life)
local given = redis.pcall('XADD', window, id, 'm', message)
if type(given) ~= 'string' then
  -- The stream was emptied and is beyond the floor: it refuses the smaller id.
  if id == '*' then return given end
  given = redis.call('XADD', window, '*', 'm', message)
end
if below_floor(given) and redis.pcall('XDEL', window, given) == 1 then
  if gap ~= '2' then return 'BEHIND' end
  given = redis.call('XADD', window, above_floor, 'm', message)
end
if length == 1 then redis.pcall('PEXPIRE', window, life) end
-- Bit 5: it was sent before, and that one may still be on its way.
if math.floor(string.byte(message) / 32) % 2 == 1 then
  redis.pcall('SADD', refused, nonce)
  redis.pcall('PEXPIRE', refused, life)
end
return {given, length}
