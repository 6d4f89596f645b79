-- refresh: show a settlement in Redis: move amounts from pending to settled, available unchanged.
--
-- KEYS[1]  epoch     hash    subbalance:{s}:epoch:<n>: identity
-- KEYS[2+] accounts  hashes  subbalance:{s}:<n>:account:<id>: settled, version, pending_debit, pending_credit
-- ARGV[1]  identity  text    "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2+] lines     for each account in KEYS order: version_before, version_after, settled_after,
--                    debit, credit; debit and credit cover exactly the versions between
-- Returns {call word, one word per account, the account's version here or ''}
--   done       each account was looked at
--   fenced     another epoch or another Redis; nothing changed
--   refreshed  the line was applied
--   current    it had been applied before; nothing changed
--   behind     an earlier line is missing here; nothing changed, send one from this version
--   unloaded   the account is not in this epoch; nothing changed
-- include: fence
-- include: amounts

local epoch_key = KEYS[1]
if fenced(epoch_key, ARGV[1]) then return {'fenced', {}, {}} end

local function reduced(sum, amount)
  local high, low = parse(sum)
  return format(subtract(high, low, parse(amount)))
end

-- Nothing is refused from here; a line that does not fit is passed over.
local words, versions = {}, {}
for k = 2, #KEYS do
  local key, first = KEYS[k], 2 + (k - 2) * 5
  local before, after = tonumber(ARGV[first]), tonumber(ARGV[first + 1])
  local found = redis.call('HMGET', key, 'version', 'pending_debit', 'pending_credit')
  local word = 'refreshed'
  if not found[1] then
    word = 'unloaded'
  elseif tonumber(found[1]) >= after then
    word = 'current'
  elseif tonumber(found[1]) ~= before then
    word = 'behind'
  else
    redis.call('HSET', key, 'version', ARGV[first + 1], 'settled', ARGV[first + 2],
               'pending_debit', reduced(found[2], ARGV[first + 3]),
               'pending_credit', reduced(found[3], ARGV[first + 4]))
  end
  words[#words + 1] = word
  versions[#versions + 1] = found[1] or ''
end
return {'done', words, versions}
