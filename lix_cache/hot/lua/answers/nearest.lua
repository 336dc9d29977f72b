-- ARGV: digest of the query text, vector, how many neighbours, search effort, of how many of them
--       to send the responses, and how many bytes of these (-1: only say which are there)
-- Returns {now, reported, entries, responses}: the nearest entries that are alive, and the newest
-- that the vector set does not have yet, as {number, fields of the record, meta}; and as many
-- of their responses as there is room for, each once, as digest, response, digest, response ...; and how
-- near the farthest is that the search has found, dead or alive, from 0 to 1; '' where it has found all.
--
-- Everything is of one moment, so an entry that the client decides for was alive with it.
--#include answers/scope.lua
local rows, found_responses, seen = {}, {}, {}
local most, room = tonumber(ARGV[5]), tonumber(ARGV[6])
local say = room < 0
local wrong = call('HGET', reported, ARGV[1]) or ''
if call('EXISTS', vectors) == 0 then return {digits(now), wrong, rows, found_responses, ''} end
local function take(row, place)
  local meta = row and call('HGET', entries, row[1])
  if not meta or expires(meta) <= now then return end
  rows[#rows + 1] = {row[1], row[2], meta}
  local answer = call('HGET', exact, 'answer:' .. row[1])
  local its = answer and call('XRANGE', log, answer, answer)[1]
  if its then rows[#rows + 1] = {its[1], its[2], meta} end
  local response = response_of(meta)
  if place > most or seen[response] then return end
  seen[response] = true
  local size = call('HSTRLEN', responses, response)
  if size == 0 or not say and size > room then return end
  room = room - size
  found_responses[#found_responses + 1] = response
  found_responses[#found_responses + 1] = say and '' or call('HGET', responses, response)
end
local alive = string.format('.expiry > %.0f', now)
local found = call('VSIM', vectors, 'FP32', ARGV[2], 'WITHSCORES', 'COUNT', ARGV[3], 'EF', ARGV[4], 'FILTER', alive)
for i = 1, #found, 2 do take(call('XRANGE', log, found[i], found[i])[1], (i + 1) / 2) end
-- What is dropped, and still in the set, takes the place of others in the search.
local is_all = call('VCARD', vectors) <= #found / 2
local newest = call('XRANGE', log, '(' .. (call('HGET', followed, 'log') or '0-0'), '+', 'COUNT', 32)
for i = 1, #newest do take(newest[i], 1) end
return {digits(now), wrong, rows, found_responses, is_all and '' or found[#found] or '1'}
