-- append: add events to the stream, unless the entry that was the newest is gone.
--
-- KEYS[1]  stream  stream  as SUBBALANCE_EVENTS_STREAM names it; entries of id, type, account_id, sequence, event
-- ARGV[1]  mark    text    the id of the entry that was the newest when it was written, '' for a first one
-- ARGV[2]  items   int     about how many entries are kept
-- ARGV[3+] events  text    for each event: id, type, account_id, sequence, the event as JSON
-- Returns {call word, the id of the newest entry that was added, or the mark}
--   done     added in order
--   emptied  the stream lost the mark, as when Redis was flushed or replaced; nothing added

local stream, newest, items = KEYS[1], ARGV[1], ARGV[2]
if newest ~= '' and #redis.call('XRANGE', stream, newest, newest) == 0 then return {'emptied', newest} end

for i = 3, #ARGV, 5 do
  newest = redis.call('XADD', stream, 'MAXLEN', '~', items, '*', 'id', ARGV[i], 'type', ARGV[i + 1],
                      'account_id', ARGV[i + 2], 'sequence', ARGV[i + 3], 'event', ARGV[i + 4])
end
return {'done', newest}
