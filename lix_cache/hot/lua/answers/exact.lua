-- ARGV: digest of the query text, generation the client knows, its place in the log, its place
--       in the deletions, how to touch, sliding ms or 0, 1 to fetch the exact answer (0: only
--       say that it is there)
-- Returns one of
--   {'exact', now, reported, number, meta, response}: the answer to this very text
--   {'empty', now, reported}: the scope is empty
--   {'news', now, reported, more, records, numbers dropped}: what is new
--   {'all', now, reported, more, generation, records, place in the deletions}: everything
-- "reported" are the answer groups that must not answer this query. "more" is 1 if there was more
-- than a page of it: then the client asks again from where this one ends, before it decides.
local digest, known, log_place, dropped_place = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local wrong = call('HGET', reported, digest) or ''
local number, meta = entry_of(digest)
if meta and expires(meta) > now and not is_wrong(wrong, meta) then
  local response = response_of(meta)
  if ARGV[7] == '0' then
    if call('HEXISTS', responses, response) == 1 then
      return {'exact', digits(now), wrong, number, meta, ''}
    end
  else
    local data = call('HGET', responses, response)
    if data then
      return {'exact', digits(now), wrong, number, touch(number, meta, ARGV[5], ARGV[6]), data}
    end
  end
end
local generation, floor = unpack(call('HMGET', head, 'generation', 'floor'))
if not generation or not floor then return {'empty', digits(now), wrong} end
