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
-- A reply ends where it has the rows of both streams, or the bytes, for one page. They are read a few at
-- a time, so that large records end it soon behind its bytes.
local PAGE, BYTES, STEP = 500, 262144, 16
local function page(stream, from, most)
  local rows, bytes = {}, 0
  while #rows < most and bytes < BYTES do
    local count = math.min(STEP, most - #rows)
    local some = call('XRANGE', stream, from, '+', 'COUNT', count)
    for i = 1, #some do
      rows[#rows + 1] = some[i]
      bytes = bytes + #some[i][2][2]
    end
    if #some < count then return rows, 0 end
    from = '(' .. some[count][1]
  end
  return rows, 1
end
if generation == known and reaches(dropped_place, floor) then
  local gone, more_gone = page(dropped, '(' .. dropped_place, PAGE)
  local rows, more = page(log, '(' .. log_place, PAGE - #gone)
  return {'news', digits(now), wrong, math.max(more, more_gone), rows, gone}
end
local place = end_of_dropped(floor)
local rows, more = page(log, '-', PAGE)
return {'all', digits(now), wrong, more, generation, rows, place}
