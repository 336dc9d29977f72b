-- A use is noted as the eviction wants it (1: last use, 2: number of uses), and a sliding time to live
-- is prolonged up to its limit. A server that takes no writes for now (full, not persisting)
-- can still answer: pcall.
local function touch(number, meta, how, slide)
  if how == '1' then redis.pcall('ZADD', used, 'XX', digits(now), number) end
  if how == '2' then redis.pcall('ZADD', used, 'XX', 'INCR', 1, number) end
  local till = math.min(now + tonumber(slide), tonumber(latest(meta)))
  if till <= expires(meta) then return meta end
  local longer = with_expiry(meta, digits(till))
  if type(redis.pcall('HSET', entries, number, longer)) == 'table' then return meta end
  redis.pcall('ZADD', expiry, 'XX', digits(till), number)
  return longer
end
