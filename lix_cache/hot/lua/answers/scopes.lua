-- KEYS: scopes, contexts   ARGV: cursor
-- Returns {next cursor (0: done), {scope, items, scope, items ...}}.
return redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', 500)
