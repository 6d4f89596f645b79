-- inspect: read accounts whole and all attempts in flight, at one instant; changes nothing.
--
-- KEYS[1]  epoch     hash    subbalance:{s}:epoch:<n>: identity, loaded:<account key>
-- KEYS[2]  flight    hash    subbalance:{s}:<n>:flight: for each attempt its record, see admit
-- KEYS[3+] accounts  hashes  subbalance:{s}:<n>:account:<id>
-- ARGV[1]  identity  text    "<run_id> <master_replid> <token>" of the epoch
-- Returns {call word, one word per account, for each account its fields and values, attempts and records}
--   done      each account was looked at
--   fenced    another epoch or another Redis
--   present   the account is here
--   unloaded  it was never loaded in this epoch
--   vanished  it was loaded in this epoch and its key is gone
-- include: fence

local epoch_key, flight_key = KEYS[1], KEYS[2]
if fenced(epoch_key, ARGV[1]) then return {'fenced', {}, {}, {}} end

local words, accounts = {}, {}
for k = 3, #KEYS do
  local fields = redis.call('HGETALL', KEYS[k])
  local word = 'present'
  if #fields == 0 then
    word = redis.call('HEXISTS', epoch_key, 'loaded:' .. KEYS[k]) == 1 and 'vanished' or 'unloaded'
  end
  words[#words + 1], accounts[#accounts + 1] = word, fields
end
return {'done', words, accounts, redis.call('HGETALL', flight_key)}
