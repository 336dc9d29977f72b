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
-- A reply ends where it has the rows of both streams, or the bytes, for one page. Records are read a few at
-- a time, so that large ones end it soon behind its bytes. Rows are flat: id, field and value of a record in
-- turn, place and number of a deletion. Of tables in tables a reply takes several times as long.
local PAGE, BYTES, STEP = 500, 262144, 16
local function records(from, most)
  local rows, count, bytes = {}, 0, 0
  while count < most and bytes < BYTES do
    local asked = math.min(STEP, most - count)
    local some = call('XRANGE', log, from, '+', 'COUNT', asked)
    for i = 1, #some do
      local at, fields = 3 * count, some[i][2]
      rows[at + 1], rows[at + 2], rows[at + 3] = some[i][1], fields[1], fields[2]
      count = count + 1
      bytes = bytes + #fields[2]
    end
    if #some < asked then return rows, 0 end
    from = '(' .. some[asked][1]
  end
  return rows, 1
end
if generation == known and reaches(dropped_place, floor) then
  local some = call('XRANGE', dropped, '(' .. dropped_place, '+', 'COUNT', PAGE)
  local gone = {}
  for i = 1, #some do
    gone[2 * i - 1], gone[2 * i] = some[i][1], some[i][2][2]
  end
  -- Of a full page of deletions this is nothing, and there may be more of both.
  local rows, more = records('(' .. log_place, PAGE - #some)
  return {'news', digits(now), wrong, more, rows, gone}
end
local place = end_of_dropped(floor)
local rows, more = records('-', PAGE)
return {'all', digits(now), wrong, more, generation, rows, place}
