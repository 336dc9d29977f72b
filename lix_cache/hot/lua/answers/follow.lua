-- A vector set (Redis 8 and later) follows the log as the index of a process does: it knows how far it
-- has read the log and the deletions, and reads on from there, a few at a time. So nothing else needs
-- to know of it, and one that was lost, or is of an earlier generation, is filled anew. Elements are
-- the entries' numbers; the attribute "expiry" is the latest expiry.
local function follow(most)
  -- A server without vector sets does not know the command.
  if type(redis.pcall('VCARD', vectors)) ~= 'number' then return nil end
  local generation, floor = unpack(call('HMGET', head, 'generation', 'floor'))
  if not generation or not floor then
    call('UNLINK', vectors, followed)
    return nil
  end
  local its, log_place, dropped_place = unpack(call('HMGET', followed, 'generation', 'log', 'dropped'))
  if its ~= generation or not log_place or not dropped_place or not reaches(dropped_place, floor)
      or (log_place ~= '0-0' and call('EXISTS', vectors) == 0) then
    call('UNLINK', vectors, followed)
    log_place, dropped_place = '0-0', end_of_dropped(floor)
  end
  local gone = call('XRANGE', dropped, '(' .. dropped_place, '+', 'COUNT', 4 * most)
  for i = 1, #gone do
    call('VREM', vectors, gone[i][2][2])
    dropped_place = gone[i][1]
  end
  local rows = call('XRANGE', log, '(' .. log_place, '+', 'COUNT', most)
  for i = 1, #rows do
    local number, kind, record = rows[i][1], rows[i][2][1], rows[i][2][2]
    local text, size = 0, 0
    if kind == 'record' then text, size = struct.unpack('<I4I4', record, 47) end
    if size > 0 then
      local vector = sub(record, 55 + text, 54 + text + 4 * size)
      local attributes = string.format('{"expiry":%.0f}', tonumber(sub(record, 1, 15)))
      local added = redis.pcall('VADD', vectors, 'FP32', vector, number, 'Q8', 'SETATTR', attributes)
      -- A server that takes no writes for now can still find what it has.
      if type(added) == 'table' then break end
    end
    log_place = number
  end
  local noted = redis.pcall(
    'HSET', followed, 'generation', generation, 'log', log_place, 'dropped', dropped_place
  )
  if type(noted) == 'table' then return nil end
  local left = call('PTTL', head)
  if left > 0 then
    call('PEXPIRE', vectors, left)
    call('PEXPIRE', followed, left)
  end
  return log_place
end
