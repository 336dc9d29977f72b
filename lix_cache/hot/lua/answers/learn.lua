-- ARGV: what to multiply labels by, what to multiply audits of late by, then names and numbers to add
-- Returns all names and numbers of the scope (see Labels in hot/answers.py). Kept for 90 days after the
-- last.
local labels = KEYS[15]
local numbers, changed = {}, #ARGV > 2
local factors = {audits = 1, audits_wrong = 1, late = tonumber(ARGV[2]), late_wrong = tonumber(ARGV[2])}
-- Some 80 names are ours; what holds many more is not.
if redis.call('HLEN', labels) > 256 then redis.call('UNLINK', labels) end
local all = redis.call('HGETALL', labels)
for i = 1, #all, 2 do
  numbers[all[i]] = (tonumber(all[i + 1]) or 0) * (factors[all[i]] or tonumber(ARGV[1]))
end
for i = 3, #ARGV, 2 do numbers[ARGV[i]] = (numbers[ARGV[i]] or 0) + tonumber(ARGV[i + 1]) end
local reply, words = {}, {'HSET', labels}
for name, number in pairs(numbers) do
  reply[#reply + 1] = name
  reply[#reply + 1] = string.format('%.6f', number)
end
if changed then
  for i = 1, #reply do words[i + 2] = reply[i] end
  redis.call(unpack(words))
  redis.call('PEXPIRE', labels, 7776000000)
end
return reply
