-- Returns the largest id that a stream ever gave: more than its last message's where that was taken out.
local function last_given(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end
