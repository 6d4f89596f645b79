-- stop: keep an account still for a change of it: from here on it admits nothing until `reload`.
--
-- KEYS[1]  epoch     hash  subbalance:{s}:epoch:<n>: identity, slot:<slot>, loaded:<account key>
-- KEYS[2]  flight    hash  subbalance:{s}:<n>:flight: for each attempt its record, see admit; that of a
--                          change has the account, no items and the one name 'change'
-- KEYS[3]  account   hash  subbalance:{s}:<n>:account:<id>: stop, which is '', debit, credit, all, closed
--                          or, while it is changed, 'changing <attempt> <what it was before>'
-- ARGV[1]  identity  text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot      text  the caller's slot
-- ARGV[3]  number    int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt   int   the change; one that keeps the account still already is told the same again
-- Returns one call word
--   done      the account admits nothing; what was admitted before may be in flight yet
--   changing  nothing changed; another attempt keeps the account still
--   unloaded  nothing changed; the account must be loaded first
--   vanished  nothing changed; the account's key or the record of its change is gone: Redis lost something
--   fenced    nothing changed; another epoch or another Redis
--   stale     nothing changed; the slot has sent something newer
-- include: fence

local epoch_key, flight_key, account_key = KEYS[1], KEYS[2], KEYS[3]
local identity, slot, number, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local word = refusal(epoch_key, identity, slot, number)
if word then return word end
local found = redis.call('HMGET', account_key, 'available', 'stop')
local stop = found[2] or ''
local holder = string.match(stop, '^changing (%d+) ')
word = 'done'
if not found[1] then
  word = redis.call('HEXISTS', epoch_key, 'loaded:' .. account_key) == 1 and 'vanished' or 'unloaded'
elseif holder and redis.call('HEXISTS', flight_key, holder) == 0 then
  word = 'vanished'
elseif holder and holder ~= attempt then
  word = 'changing'
end

-- Everything is decided; nothing may fail from here.
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
if word == 'done' and not holder then
  redis.call('HSET', account_key, 'stop', 'changing ' .. attempt .. ' ' .. stop)
  redis.call('HSET', flight_key, attempt, table.concat({'[[],[],[]]', account_key, '0', 'change'}, '\n'))
end
return word
