-- KEYS: list   ARGV: start of a message's key, number, SHA-1 of the message, number, SHA-1 ...
-- Forgets the oldest messages, each if it is still what was read: an old process may have put
-- another one of the same millisecond into its place, or have taken it off the list itself.
-- Without a SHA-1 only the number goes, and the bytes stay for what is left of their time to live.
local list = KEYS[1]
for i = 2, #ARGV, 2 do
  local key = ARGV[1] .. ARGV[i]
  local held = ARGV[i + 1] ~= '' and redis.call('GET', key)
  if held and redis.sha1hex(held) ~= ARGV[i + 1] then break end
  if redis.call('LINDEX', list, -1) == ARGV[i] then redis.call('RPOP', list) end
  if held then redis.call('UNLINK', key) end
end
return 1
