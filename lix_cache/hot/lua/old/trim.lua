-- KEYS: list, then of messages   ARGV: for each of those its number and its SHA-1
-- Forgets the oldest messages, each if it is still what was read: an old process may have put
-- another one of the same millisecond into its place, or have taken it off the list itself.
-- Without a SHA-1 only the number goes, and the bytes stay for what is left of their time to live.
local list = KEYS[1]
for i = 2, #KEYS do
  local number, sha = ARGV[2 * i - 3], ARGV[2 * i - 2]
  local held = sha ~= '' and redis.call('GET', KEYS[i])
  if held and redis.sha1hex(held) ~= sha then break end
  if redis.call('LINDEX', list, -1) == number then redis.call('RPOP', list) end
  if held then redis.call('UNLINK', KEYS[i]) end
end
return 1
