-- ARGV: digest of the query text, how to touch, sliding ms or 0, 1 to fetch (0: only say whether one is
--       alive; 2: the client has the response), then number, nonce and greatest age in ms ('' for
--       any) of each candidate, best first
-- Returns {'served', now, number, meta, response} of the first candidate that is alive, not too old and
-- not reported for this query; or {'reported'} if one is alive and was reported, {'old', age in ms}
-- if one is too old, {'gone'} if none is alive. Only the one that is returned with its response has
-- been used.
--#include answers/scope.lua
--#include answers/touch.lua
local list = call('HGET', reported, ARGV[1]) or ''
local how = ARGV[4]
local was_reported, age = false, nil
for i = 5, #ARGV, 3 do
  local number, most = ARGV[i], tonumber(ARGV[i + 2])
  local meta = call('HGET', entries, number)
  local is_alive = meta and expires(meta) > now and nonce_of(meta) == ARGV[i + 1]
  if is_alive and is_wrong(list, meta) then
    was_reported = true
  elseif is_alive and most and now - tonumber(created(meta)) > most then
    age = age or now - tonumber(created(meta))
  elseif is_alive then
    local data = ''
    if how == '1' then
      data = call('HGET', responses, response_of(meta))
    elseif call('HEXISTS', responses, response_of(meta)) == 0 then
      data = nil
    end
    if data then
      if how ~= '0' then meta = touch(number, meta, ARGV[2], ARGV[3]) end
      return {'served', digits(now), number, meta, data}
    end
  end
end
if was_reported then return {'reported'} end
if age then return {'old', digits(age)} end
return {'gone'}
