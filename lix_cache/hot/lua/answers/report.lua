-- ARGV: digest of the query text, number and nonce of the entry that answered
-- Remembers that the entry's answer group must not answer the query, nor its very response under
-- another answer group, and drops the entry that paired them. Returns 2 if there was one, else 1; and 0,
-- with nothing written, if the scope has no such entry: a caller that does not know the random nonce has
-- never been answered here.
--
-- It is remembered for a year after the last report or store in the scope; of one query, the
-- last 64 answer groups and responses; and some 10,000 queries, of which an arbitrary one goes for
-- the next.
--#include answers/scope.lua
local digest = ARGV[1]
local answered = call('HGET', entries, ARGV[2])
if not answered then return 0 end
expires(answered)
if nonce_of(answered) ~= ARGV[3] then return 0 end
local group = group_of(answered)
local list = call('HGET', reported, digest)
if not list and call('HLEN', reported) >= 10000 then call('HDEL', reported, call('HRANDFIELD', reported)) end
list = list or ''
for _, word in ipairs({sub(response_of(answered), 1, 8), group}) do
  if not holds(list, word) then list = sub(word .. list, 1, 1024) end
end
call('HSET', reported, digest, list)
call('PEXPIRE', reported, math.max(31622400000, call('PTTL', reported)))
local number, meta = entry_of(digest)
local is_paired = meta and group_of(meta) == group
if is_paired then drop(number, meta) end
trim_dropped()
return is_paired and 2 or 1
