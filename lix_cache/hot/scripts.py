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

# A command may be carried out at any time after its caller gave up: a server that hung goes on, a
# proxy lets go of what it held. Meanwhile the session may have been moved, cleared or deleted. So
# each script that removes or puts back says what it is about, and does nothing where that is gone.

# KEYS: window, active, overflow, high water, refused nonces
# ARGV: session id, message, life in ms, floor (ms and number of the largest id that the caller
#       knows the session to have had), how sure the floor is (0: not looked at in the archive,
#       1: looked at just now, 2: looked at under the session's lock), window size, length that
#       counts as overflow, what to do where the window ends below the floor (0: nothing, it was
#       compared before; 1: compare; 2: add all the same), key that the old package may have
#       left ('': not looked for)
# Returns {id, length}; 'COLD' where only the archive can say which id is large enough;
# 'BEHIND' where the window ends before messages that the caller has seen, or knows archived;
# 'OLD' where there are messages of the old package (see old_keys.py); 'LATE' where the message is
# stored already, or deleted (see REFUSE).
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
local nonce = string.sub(ARGV[2], 2, 7)
if redis.call('SISMEMBER', KEYS[5], nonce) == 1 then return 'LATE' end
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
-- Bit 5: it was sent before, and that one may still be on its way.
if math.floor(string.byte(ARGV[2]) / 32) % 2 == 1 then
  redis.pcall('SADD', KEYS[5], nonce)
  redis.pcall('PEXPIRE', KEYS[5], ARGV[3])
end
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

# How long a session that was not there may take to be put back.
TICKET_MS = 60_000

# KEYS: window, active, ticket
# ARGV: session id, how many, bytes at most, life in ms, key that the old package may have left,
#       id to look below ('+': from the newest on), 6 random bytes
# Returns 'OLD' where there is such a key; {1 if there may be more of what was asked for, id, message, id,
# message …}, newest first; where there is no window {false, ticket}: what REHYDRATE asks for, '' where it
# cannot be kept. Readers that come before the session is put back share one. A server that takes no
# writes for now (full, not persisting) can still be read: that the use of the session goes unnoted is no
# reason to refuse.
READ = script(
    NOW
    + _PAGES
    + """
if redis.pcall('EXISTS', ARGV[5]) == 1 then return 'OLD' end
local function read(from, count) return redis.call('XREVRANGE', KEYS[1], from, '-', 'COUNT', count) end
take(read, ARGV[6] == '+' and '+' or '(' .. ARGV[6], tonumber(ARGV[2]), tonumber(ARGV[3]), 1)
if #out == 1 and redis.call('EXISTS', KEYS[1]) == 0 then
  local ticket = redis.call('GET', KEYS[3])
  if not ticket then
    -- Made here, so that a read that is carried out twice makes two; and not of the time alone.
    ticket = t[1] .. '.' .. t[2] .. ':' .. ARGV[7]
    local kept = redis.pcall('SET', KEYS[3], ticket, 'PX', """
    + str(TICKET_MS)
    + """)
    if not kept.ok then ticket = '' end
  end
  return {false, ticket}
end
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

# KEYS: window, active, overflow, high water, ticket
# ARGV: session id, smallest id to keep ('' to keep all), largest ms that is archived,
#       length that counts as overflow, id of the oldest message that was archived
# Forgets what the archive has. Returns how many are left; -1 where it did nothing. A server that hung
# may carry this out long after the caller gave up, when the window is another one: then its oldest
# message is not the one that was archived. Nor is it where another mover's trim, or the taking back
# of a message, came between: so the answer sends the caller to look again.
TRIM = script(
    NOW
    + """
if ARGV[2] ~= '' then
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
  if #oldest == 1 and oldest[1][1] ~= ARGV[5] then return -1 end
  redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
end
local left = redis.call('XLEN', KEYS[1])
if left < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[3], ARGV[1]) end
if left == 0 then
  redis.call('UNLINK', KEYS[1], KEYS[5])
  redis.call('ZREM', KEYS[2], ARGV[1])
  local high = math.max(now, tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[4]) or '0'))
  redis.call('SET', KEYS[4], string.format('%.0f', high))
end
return left
"""
)

# KEYS: window, active, ticket   ARGV: session id, life in ms, ticket, id, message, id, message …
# Puts archived messages back under their own ids. Returns 1; 0 where the session is hot already; -1
# where it was moved, cleared or deleted since the ticket was given: what was read may be outdated.
REHYDRATE = script(
    NOW
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('GET', KEYS[3]) ~= ARGV[3] then return -1 end
redis.call('UNLINK', KEYS[3])
for i = 4, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], 'm', ARGV[i + 1]) end
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

# How many of the newest messages are looked at for late copies.
LATE_AMONG = 1000

# KEYS: window, high water, ticket   ARGV: none
# Returns how many messages are there, the last one's id or '', the ms that every later message in
# a new window exceeds, and the nonces of those that were sent twice. From here on what was read of the
# archive is not put back. A stream whose
# messages were all taken back goes at once: an add would find it, not ask for the high water, and may
# get an id of this millisecond, which counts as deleted.
ENDS = script(
    NOW
    + """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local high = math.max(now, tonumber(redis.call('GET', KEYS[2]) or '0'))
if #last == 1 then high = math.max(high, tonumber(string.match(last[1][1], '^%d+'))) end
high = string.format('%.0f', high)
redis.call('SET', KEYS[2], high)
redis.call('UNLINK', KEYS[3])
if #last == 0 then redis.call('UNLINK', KEYS[1]) end
local reply = {redis.call('XLEN', KEYS[1]), #last == 1 and last[1][1] or '', high}
local rows = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', """
    + str(LATE_AMONG)
    + """)
for i = 1, #rows do
  local message = rows[i][2][2]
  local flags = string.byte(message) or 0
  if math.floor(flags / 32) % 2 == 1 then reply[#reply + 1] = string.sub(message, 2, 7) end
end
return reply
"""
)

# KEYS: window, active, overflow   ARGV: session id, smallest id to keep
# Drops what ENDS saw. What was added since stays, however much later this is carried out. Returns the
# id of the first message that is left, or ''.
FORGET = script(
    """
redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[1])
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if #first == 1 then return first[1][1] end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return ''
"""
)

# KEYS: window, refused nonces   ARGV: life in ms, nonce, id, nonce, id …
# Each message is stored under that id, or deleted. Adds of it that are still on their way are refused
# from now on, and the copies that have come are dropped. A server that takes no writes (its memory
# is full) refuses adds by itself.
REFUSE = script(
    """
local known = {}
for i = 2, #ARGV, 2 do
  known[ARGV[i]] = ARGV[i + 1]
  redis.pcall('SADD', KEYS[2], ARGV[i])
end
redis.pcall('PEXPIRE', KEYS[2], ARGV[1])
local rows = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', """
    + str(LATE_AMONG)
    + """)
for i = 1, #rows do
  local id = known[string.sub(rows[i][2][2], 2, 7)]
  if id and id ~= rows[i][1] then redis.call('XDEL', KEYS[1], rows[i][1]) end
end
return 1
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
