-- ARGV: cursor, how many to look at, older than so many ms ('' for any age), tag words (8 bytes each, ''
--       for any; one must fit), then number and nonce of each entry to look at, or '=' and the digest of
--       its text; none: some of all entries, from the cursor on
-- Drops those that fit, and returns {next cursor (0: done), dropped}.
--#include answers/scope.lua
local age, wanted, count = tonumber(ARGV[3]), {}, 0
for i = 1, #ARGV[4], 8 do wanted[sub(ARGV[4], i, i + 7)] = true end
local function fits(meta)
  expires(meta)
  if age and tonumber(created(meta)) > now - age then return false end
  if ARGV[4] == '' then return true end
  local words = tag_words(meta)
  for i = 1, #words, 8 do
    if wanted[sub(words, i, i + 7)] then return true end
  end
  return false
end
local function look(number, meta)
  if fits(meta) then count = count + drop(number, meta) end
end
local cursor = '0'
if #ARGV > 4 then
  for i = 5, #ARGV, 2 do
    local number, meta = ARGV[i], call('HGET', entries, ARGV[i])
    if number == '=' then
      number, meta = entry_of(ARGV[i + 1])
    elseif meta and nonce_of(meta) ~= ARGV[i + 1] then
      meta = nil
    end
    if meta then look(number, meta) end
  end
else
  local page = call('HSCAN', entries, ARGV[1], 'COUNT', ARGV[2])
  cursor = page[1]
  for i = 1, #page[2], 2 do look(page[2][i], page[2][i + 1]) end
end
if count > 0 then trim_dropped() end
return {cursor, count}
