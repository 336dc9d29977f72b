"""The Lua of scopes that a vector set searches (Redis 8 and later).

A vector set follows the log as the index of a process does: it knows how far it has read
the log and the deletions, and reads on from there, a few at a time. So nothing else needs
to know of it, and one that was lost, or is of an earlier generation, is filled anew.
Elements are the entries' numbers; the attribute e is the latest expiry.

Keys and what else the scripts read are as in lix_cache/hot/answer_scripts.py.
"""

from __future__ import annotations

from lix_cache.hot.answer_parts import COMMON, EXACT, NEWS, TOUCH
from lix_cache.hot.scripts import script

__all__ = ["FOLLOW", "LOOKUP_LARGE", "NEAREST"]

_FOLLOW = """
local V, Y = KEYS[13], KEYS[14]
local function follow(most)
  -- Who has no vector sets does not know the command.
  if type(redis.pcall('VCARD', V)) ~= 'number' then return nil end
  local head = call('HMGET', H, 'g', 'f')
  if not head[1] or not head[2] then
    call('UNLINK', V, Y)
    return nil
  end
  local g, l, d = unpack(call('HMGET', Y, 'g', 'l', 'd'))
  if g ~= head[1] or not l or not d or not reaches(d, head[2]) or (l ~= '0-0' and call('EXISTS', V) == 0) then
    call('UNLINK', V, Y)
    local last = call('XREVRANGE', D, '+', '-', 'COUNT', 1)
    g, l, d = head[1], '0-0', #last == 1 and last[1][1] or head[2]
  end
  local gone = call('XRANGE', D, '(' .. d, '+', 'COUNT', 4 * most)
  for i = 1, #gone do
    call('VREM', V, gone[i][2][2])
    d = gone[i][1]
  end
  local rows = call('XRANGE', L, '(' .. l, '+', 'COUNT', most)
  for i = 1, #rows do
    local id, record = rows[i][1], rows[i][2][2]
    local text, size = 0, 0
    if rows[i][2][1] == 'r' then text, size = struct.unpack('<I4I4', record, 47) end
    if size > 0 then
      local vector = sub(record, 55 + text, 54 + text + 4 * size)
      local life = string.format('{"e":%.0f}', tonumber(sub(record, 1, 15)))
      local added = redis.pcall('VADD', V, 'FP32', vector, id, 'Q8', 'SETATTR', life)
      -- A server that takes no writes for now can still find what it has.
      if type(added) == 'table' then break end
    end
    l = id
  end
  if type(redis.pcall('HSET', Y, 'g', g, 'l', l, 'd', d)) == 'table' then return nil end
  local left = call('PTTL', H)
  if left > 0 then
    call('PEXPIRE', V, left)
    call('PEXPIRE', Y, left)
  end
  return l
end
"""

# ARGV: as LOOKUP, then from how many entries on the vector set answers
# Returns as LOOKUP, or {'V', now, reported}: ask NEAREST. From half as many entries on the
# vector set is filled; until it has nearly all of them, clients follow the log themselves.
LOOKUP_LARGE = script(
    COMMON
    + TOUCH
    + _FOLLOW
    + EXACT
    + """
local length, from = call('HLEN', E), tonumber(ARGV[8])
if 2 * length >= from then
  local place = follow(8)
  if place and length >= from and #call('XRANGE', L, '(' .. place, '+', 'COUNT', 33) <= 32 then
    return {'V', digits(now), reported}
  end
end
"""
    + NEWS
)

# ARGV: how many entries to take over at most, from how many entries on
# Lets the vector set of a scope that is large, or half way to it, catch up.
# Returns how many entries it has.
FOLLOW = script(
    COMMON
    + _FOLLOW
    + """
if 2 * call('HLEN', E) >= tonumber(ARGV[2]) then follow(tonumber(ARGV[1])) end
return call('EXISTS', V) == 1 and call('VCARD', V) or 0
"""
)

# ARGV: digest of the wording, vector, how many neighbours, search effort, of how many of them
#       to send the responses, and how many bytes of these (-1: only say which are there)
# Returns {now, reported, entries, responses}: the nearest entries that are alive, and the newest
# that the vector set does not have yet, as {number, fields of the record, meta}; and as many
# of their responses as there is room for, each once, as digest, response, digest, response …
#
# Everything is of one moment, so an entry that the client decides for was alive with it.
NEAREST = script(
    COMMON
    + """
local V, rows, responses, seen = KEYS[13], {}, {}, {}
local most, room = tonumber(ARGV[5]), tonumber(ARGV[6])
local say = room < 0
local reported = call('HGET', W, ARGV[1]) or ''
if call('EXISTS', V) == 0 then return {digits(now), reported, rows, responses} end
local function take(row, place)
  local meta = row and call('HGET', E, row[1])
  if not meta or expiry(meta) <= now then return end
  rows[#rows + 1] = {row[1], row[2], meta}
  local meaning = call('HGET', X, 'a:' .. row[1])
  local its = meaning and call('XRANGE', L, meaning, meaning)[1]
  if its then rows[#rows + 1] = {its[1], its[2], meta} end
  local key = response(meta)
  if place > most or seen[key] then return end
  seen[key] = true
  local size = call('HSTRLEN', R, key)
  if size == 0 or not say and size > room then return end
  room = room - size
  responses[#responses + 1] = key
  responses[#responses + 1] = say and '' or call('HGET', R, key)
end
local alive = string.format('.e > %.0f', now)
local found = call('VSIM', V, 'FP32', ARGV[2], 'COUNT', ARGV[3], 'EF', ARGV[4], 'FILTER', alive)
for i = 1, #found do take(call('XRANGE', L, found[i], found[i])[1], i) end
local newest = call('XRANGE', L, '(' .. (call('HGET', KEYS[14], 'l') or '0-0'), '+', 'COUNT', 32)
for i = 1, #newest do take(newest[i], 1) end
return {digits(now), reported, rows, responses}
"""
)
