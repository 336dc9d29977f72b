"""The Lua that runs inside Redis: one round trip, and nothing in between.

Plain Lua for Redis 6.2 and later and Valkey, without modules or functions. Every script
takes its keys as KEYS, all under one hash tag. A script that writes does its checks first,
so that it either does all of its work or none. While one runs the server serves nobody
else, so none does work in proportion to what there is: each has a bound that stands in it or in
what its caller asks for, and what is left is done by the calls that follow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["NOW", "PAGE", "Command", "Script", "ScriptCall", "script"]

Value: TypeAlias = "bytes | str | int | float"


@dataclass(frozen=True)
class Script:
    """A script and the name Redis knows it by.

    Attributes:
        source: Lua.
        sha: SHA-1 of the source, as ``EVALSHA`` wants it.
    """

    source: str
    sha: str


@dataclass(slots=True)
class ScriptCall:
    """A script with its keys and arguments."""

    script: Script
    keys: tuple[str | bytes, ...]
    args: tuple[Value, ...]


#: What can be sent in a round trip: a script, or the words of a plain command.
Command: TypeAlias = "ScriptCall | tuple[Value, ...]"


def script(source: str) -> Script:
    text = source.strip() + "\n"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# Unix milliseconds by the server's clock. Every process sees the same one.
NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# KEYS: window, active, overflow, high water
# ARGV: session id, message, life in ms, floor (ms and number of the largest id that the caller
#       knows the session to have had), how sure the floor is (0: not looked at in the archive,
#       1: looked at just now, 2: looked at under the session's lock), window size, length that
#       counts as overflow, what to do where the window ends below the floor (0: nothing, it was
#       compared before; 1: compare; 2: add all the same), key that the old package may have
#       left ('': not looked for)
# Returns {id, length}; 'COLD' where only the archive can say which id is large enough;
# 'BEHIND' where the window ends before messages that the caller has seen, or knows archived;
# 'OLD' where there are messages of the old package (see old_keys.py).
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
ADD = script(
    NOW
    + """
if ARGV[10] ~= '' and redis.pcall('EXISTS', ARGV[10]) == 1 then return 'OLD' end
local length = redis.call('XLEN', KEYS[1])
local ms, seq = tonumber(ARGV[4]), tonumber(ARGV[5])
local function below_floor(id)
  local its_ms, its_seq = string.match(id, '^(%d+)-(%d+)$')
  its_ms = tonumber(its_ms)
  return its_ms < ms or (its_ms == ms and tonumber(its_seq) < seq)
end
local above_floor = string.format('%.0f-0', ms + 1)
local id = '*'
if length == 0 then
  if ARGV[6] ~= '2' and redis.call('EXISTS', KEYS[1]) == 0 then
    local high = tonumber(redis.call('GET', KEYS[4]) or '-1')
    if now <= high or (high < 0 and ARGV[6] == '0') then return 'COLD' end
  end
  if ms >= now then id = above_floor end
elseif ARGV[9] == '1' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if below_floor(last[1][1]) then return 'BEHIND' end
end
-- All that may be refused comes before the message: an error after it would have the caller
-- send it again. A session that is listed without a window is passed over.
length = length + 1
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
if length >= tonumber(ARGV[8]) then redis.call('HSET', KEYS[3], ARGV[1], ARGV[7]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local given = redis.pcall('XADD', KEYS[1], id, 'm', ARGV[2])
if type(given) ~= 'string' then
  -- The stream was emptied and is beyond the floor: it refuses the smaller id.
  if id == '*' then return given end
  given = redis.call('XADD', KEYS[1], '*', 'm', ARGV[2])
end
if below_floor(given) and redis.pcall('XDEL', KEYS[1], given) == 1 then
  if ARGV[9] ~= '2' then return 'BEHIND' end
  given = redis.call('XADD', KEYS[1], above_floor, 'm', ARGV[2])
end
if length == 1 then redis.pcall('PEXPIRE', KEYS[1], ARGV[3]) end
return {given, length}
"""
)

# KEYS: window   ARGV: nonce, id to look below ('+': from the newest on), how many to look at
# Returns {id, length} of the message that has the nonce; the id to go on from; or nil where
# there are no more.
FIND = script(
    """
local start = ARGV[2]
if start ~= '+' then start = '(' .. start end
local rows = redis.call('XREVRANGE', KEYS[1], start, '-', 'COUNT', ARGV[3])
for i = 1, #rows do
  if string.sub(rows[i][2][2], 2, 7) == ARGV[1] then
    return {rows[i][1], redis.call('XLEN', KEYS[1])}
  end
end
if #rows < tonumber(ARGV[3]) then return false end
return rows[#rows][1]
"""
)

# What a page of a window holds at most, whatever is asked for: while a script runs the server serves
# nobody else. Who wants more asks for the next page.
PAGE = 2000
# Takes entries into a page, a few at a time, as many as fit if they are like the largest so far: a
# window may hold more than any answer. "read" gives so many entries from a place on.
_PAGES = f"""
local out, largest = {{0}}, 0
local function take(read, from, left, room, least)
  local wanted = left
  left = math.min(left, {PAGE})
  while left > 0 do
    local count = math.min(left, 20)
    if largest > 0 then count = math.max(1, math.min(left, 100, math.floor(room / largest))) end
    local rows = read(from, count)
    for i = 1, #rows do
      local size = #rows[i][2][2]
      if size > room and (#out - 1) / 2 >= least then
        out[1] = 1
        return
      end
      room, largest = room - size, math.max(largest, size)
      out[#out + 1] = rows[i][1]
      out[#out + 1] = rows[i][2][2]
    end
    if #rows < count then return end
    left, from = left - #rows, '(' .. rows[#rows][1]
  end
  if wanted > {PAGE} then out[1] = 1 end
end
"""

# KEYS: window, active
# ARGV: session id, how many, bytes at most, life in ms, key that the old package may have left,
#       id to look below ('+': from the newest on)
# Returns 'OLD' where there is such a key; nil where there is no window; else {1 if there may be more of
# what was asked for, id, message, id, message …}, newest first. A server that takes no writes for now
# (full, not persisting) can still be read: that the use of the session goes unnoted is no reason to refuse.
READ = script(
    NOW
    + _PAGES
    + """
if redis.pcall('EXISTS', ARGV[5]) == 1 then return 'OLD' end
local function read(from, count) return redis.call('XREVRANGE', KEYS[1], from, '-', 'COUNT', count) end
take(read, ARGV[6] == '+' and '+' or '(' .. ARGV[6], tonumber(ARGV[2]), tonumber(ARGV[3]), 1)
if #out == 1 and redis.call('EXISTS', KEYS[1]) == 0 then return false end
redis.pcall('PEXPIRE', KEYS[1], ARGV[4])
redis.pcall('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
return out
"""
)

# KEYS: window
# ARGV: how many of the newest to leave out, how many at most, bytes at most,
#       how many at least, whatever their size, id after which to begin ('' for the start),
#       key that the old package may have left ('' to not look for it)
# Returns 'OLD' where there is such a key; else {1 if there may be more, id, message, id, message …},
# oldest first.
OLDEST = script(
    _PAGES
    + """
if ARGV[6] ~= '' and redis.pcall('EXISTS', ARGV[6]) == 1 then return 'OLD' end
local there, limit = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1]), tonumber(ARGV[2])
local function read(from, count) return redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count) end
local from, left = ARGV[5] == '' and '-' or '(' .. ARGV[5], math.min(there, limit)
take(read, from, left, tonumber(ARGV[3]), tonumber(ARGV[4]))
if there > limit then out[1] = 1 end
return out
"""
)

# KEYS: window, active, overflow, high water
# ARGV: session id, smallest id to keep ('' to keep all), largest ms that is archived,
#       length that counts as overflow, id of the oldest message that was archived
# Forgets what the archive has. Returns how many are left. A server that hung may carry this
# out long after the caller gave up, when the window is another one: then its oldest message
# is not the one that was archived, and nothing is forgotten.
TRIM = script(
    NOW
    + """
if ARGV[2] ~= '' then
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
  if #oldest == 1 and oldest[1][1] == ARGV[5] then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
  end
end
local left = redis.call('XLEN', KEYS[1])
if left < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[3], ARGV[1]) end
if left == 0 then
  redis.call('UNLINK', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  local high = math.max(now, tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[4]) or '0'))
  redis.call('SET', KEYS[4], string.format('%.0f', high))
end
return left
"""
)

# KEYS: window, active   ARGV: session id, life in ms, id, message, id, message …
# Puts archived messages back under their own ids, unless the session is hot already.
REHYDRATE = script(
    NOW
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 3, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], 'm', ARGV[i + 1]) end
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

# KEYS: window, active, overflow, high water   ARGV: session id
# Returns how many messages were there, and the ms that every later message exceeds.
FORGET = script(
    NOW
    + """
local length = redis.call('XLEN', KEYS[1])
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local high = math.max(now, tonumber(redis.call('GET', KEYS[4]) or '0'))
if #last == 1 then high = math.max(high, tonumber(string.match(last[1][1], '^%d+'))) end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
high = string.format('%.0f', high)
redis.call('SET', KEYS[4], high)
return {length, high}
"""
)

# KEYS: active   ARGV: idle for at least so many ms, how many to pass over, how many at most
# Returns the session ids that have been idle for longest.
IDLE = script(
    NOW
    + """
local latest = string.format('%.0f', now - tonumber(ARGV[1]))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', latest, 'LIMIT', ARGV[2], ARGV[3])
"""
)

# KEYS: lease   ARGV: who, life in ms.   Returns 1 if the lease is ours now.
# A server that takes no writes (its memory is full) gives it to all that ask: they are the ones
# that can make room, and correctness does not rest on the lease.
LEASE = script(
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)

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
