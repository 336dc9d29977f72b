-- Takes entries into a page, a few at a time, as many as fit if they are like the largest so far: a
-- window may hold more than any answer. "read" gives so many entries from a place on. A page holds at
-- most so many, whatever is asked for: while a script runs the server serves no other client. A caller that
-- wants more asks for the next page (PAGE in scripts.py).
local PAGE = 2000
local out, largest = {0}, 0
local function take(read, from, left, room, least)
  local wanted = left
  left = math.min(left, PAGE)
  while left > 0 do
    local count = math.min(left, 20)
    if largest > 0 then count = math.max(1, math.min(left, 100, math.floor(room / largest))) end
    local rows = read(from, count)
    for i = 1, #rows do
      local size = #rows[i][2][2]
      if size > room and (#out - 1) / 2 >= least then
        out[1] = 1
        return
      end
      room, largest = room - size, math.max(largest, size)
      out[#out + 1] = rows[i][1]
      out[#out + 1] = rows[i][2][2]
    end
    if #rows < count then return end
    left, from = left - #rows, '(' .. rows[#rows][1]
  end
  if wanted > PAGE then out[1] = 1 end
end
