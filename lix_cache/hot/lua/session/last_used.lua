-- KEYS: active   ARGV: latest ms ('+inf': any), how many to pass over, how many at most
-- Returns {session id, ms, session id, ms ...} by last use, the latest first. A script, so that the answer is flat
-- whatever protocol the client speaks.
local active = KEYS[1]
return redis.call('ZREVRANGEBYSCORE', active, ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[3])
