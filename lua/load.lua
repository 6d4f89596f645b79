-- load: bring accounts into this epoch from one snapshot of PostgreSQL; the first load wins.
--
-- KEYS[1]  epoch     hash    subbalance:{s}:epoch:<n>: identity, loaded:<account key>
-- KEYS[2+] accounts  hashes  subbalance:{s}:<n>:account:<id>
-- ARGV[1]  identity  text    "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2+] balances  for each account in KEYS order: available, settled, version, pending_debit,
--                    pending_credit, stop ('', debit, credit, all or closed), entries, read in one statement
--                    begun after the epoch was learned
-- Returns {call word, one word per account}
--   done      each account was looked at
--   fenced    another epoch or another Redis; nothing changed
--   loaded    the account is now here
--   present   it was here before; nothing changed
--   vanished  it was loaded in this epoch and its key is gone: this Redis lost something
-- include: fence

local epoch_key = KEYS[1]
if fenced(epoch_key, ARGV[1]) then return {'fenced', {}} end

-- Nothing is refused from here; an account that is here or was here is left as it is.
local words = {}
for k = 2, #KEYS do
  local key, first = KEYS[k], 2 + (k - 2) * 7
  if redis.call('EXISTS', key) == 1 then
    words[#words + 1] = 'present'
  elseif redis.call('HSETNX', epoch_key, 'loaded:' .. key, '1') == 0 then
    words[#words + 1] = 'vanished'
  else
    redis.call('HSET', key, 'available', ARGV[first], 'settled', ARGV[first + 1], 'version', ARGV[first + 2],
               'pending_debit', ARGV[first + 3], 'pending_credit', ARGV[first + 4], 'incoming', '0',
               'stop', ARGV[first + 5], 'entries', ARGV[first + 6])
    words[#words + 1] = 'loaded'
  end
end
return {'done', words}
