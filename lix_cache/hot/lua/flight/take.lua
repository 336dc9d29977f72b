-- KEYS: flight   ARGV: token, deadline in ms, an ended flight that was looked at, or ''
-- Returns the token if the flight is the caller's from now on, else what the key holds.
local flight, token = KEYS[1], ARGV[1]
local held = redis.call('GET', flight)
if held and held ~= ARGV[3] then return held end
redis.call('SET', flight, token, 'PX', ARGV[2])
return token
