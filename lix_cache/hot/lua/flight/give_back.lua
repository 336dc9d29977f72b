-- KEYS: flight   ARGV: token, '+', '-' or '' (abandoned), how long that is to be seen in ms
-- Ends a flight. Returns 1; 0 if it was no longer the caller's, and another's stays.
local flight, token = KEYS[1], ARGV[1]
if redis.call('GET', flight) ~= token then return 0 end
if ARGV[2] == '' then redis.call('UNLINK', flight)
else redis.call('SET', flight, ARGV[2] .. token, 'PX', ARGV[3]) end
return 1
