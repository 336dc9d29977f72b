-- KEYS: scopes, contexts, invalidated   ARGV: least age in ms of what goes, how many bytes of the next are items of
-- contexts, these items and the tag words of what goes, 8 bytes each, 8 random bytes
-- Notes what is about to be invalidated in a bucket, before any of it goes: an answer that was being made
-- meanwhile is not stored (store.lua). Only so many notes are kept: where more have come since its making
-- began than store.lua looks at, no answer is stored.
--#include clock.lua
local MOST, KEPT_MS = 1000, 86400000
local invalidated = KEYS[3]
local note = ARGV[4] .. string.format('%015.0f%015.0f%015.0f', now, ARGV[1], ARGV[2]) .. ARGV[3]
redis.call('ZADD', invalidated, string.format('%.0f', now), note)
redis.call('ZREMRANGEBYRANK', invalidated, 0, -MOST - 1)
redis.call('PEXPIRE', invalidated, KEPT_MS)
return 1
