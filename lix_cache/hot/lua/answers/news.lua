-- A client that knows of more than the server ever wrote was told so by one whose memory this one
-- does not have: a replica took over that was behind, or an older file was read. New numbers may
-- then be smaller than those that clients know, so all clients get everything anew.
local function is_behind(stream, floor, place)
  local newest, info = floor, redis.pcall('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then newest = info[i + 1] end
  end
  return not (reaches(newest, place) or reaches(floor, place))
end
if generation == known and (is_behind(log, '0-0', log_place) or is_behind(dropped, floor, dropped_place)) then
  generation = sub(redis.sha1hex(generation .. log_place .. dropped_place), 1, 16)
  redis.pcall('HSET', head, 'generation', generation)
end
-- A page ends where it has the records or the bytes for one.
local function page(from)
  local rows, bytes = {}, 0
  while #rows < 10240 and bytes < 4194304 do
    local some = call('XRANGE', log, from, '+', 'COUNT', 64)
    for i = 1, #some do
      rows[#rows + 1] = some[i]
      bytes = bytes + #some[i][2][2]
    end
    if #some < 64 then return rows, 0 end
    from = '(' .. some[64][1]
  end
  return rows, 1
end
if generation == known and reaches(dropped_place, floor) then
  local rows, more = page('(' .. log_place)
  local gone = call('XRANGE', dropped, '(' .. dropped_place, '+', 'COUNT', 10240)
  if #gone == 10240 then more = 1 end
  return {'news', digits(now), wrong, more, rows, gone}
end
local place = end_of_dropped(floor)
local rows, more = page('-')
return {'all', digits(now), wrong, more, generation, rows, place}
