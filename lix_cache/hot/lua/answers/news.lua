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
-- Rows are flat, id and field and value in turn: of tables in tables a reply takes several times as long.
local function page(stream, from, most)
  local rows, count, bytes = {}, 0, 0
  while count < most and bytes < BYTES do
    local asked = math.min(STEP, most - count)
    local some = call('XRANGE', stream, from, '+', 'COUNT', asked)
    for i = 1, #some do
      local id, fields = some[i][1], some[i][2]
      local at = 3 * count
      rows[at + 1], rows[at + 2], rows[at + 3] = id, fields[1], fields[2]
      count = count + 1
      bytes = bytes + #fields[2]
    end
    if #some < asked then return rows, 0, count end
    from = '(' .. some[asked][1]
  end
  return rows, 1, count
end
if generation == known and reaches(dropped_place, floor) then
  local gone, more_gone, count = page(dropped, '(' .. dropped_place, PAGE)
  local rows, more = page(log, '(' .. log_place, PAGE - count)
  return {'news', digits(now), wrong, math.max(more, more_gone), rows, gone}
end
local place = end_of_dropped(floor)
local rows, more = page(log, '-', PAGE)
return {'all', digits(now), wrong, more, generation, rows, place}
