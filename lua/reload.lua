-- reload: end a change of an account: show what PostgreSQL has now, or leave all as it was before.
--
-- Between `stop` and this the account is drained and admits nothing, so nobody but `refresh` touches it.
-- That changes neither what is available nor `stop`, and this nothing else, so the two may come in any
-- order, and the account's version and sums stay those that the next `refresh` goes on from.
--
-- KEYS[1]  epoch      hash  subbalance:{s}:epoch:<n>: identity, slot:<slot>
-- KEYS[2]  flight     hash  subbalance:{s}:<n>:flight: for each attempt its record, see admit and stop
-- KEYS[3]  account    hash  subbalance:{s}:<n>:account:<id>: available, stop
-- ARGV[1]  identity   text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot       text  the caller's slot
-- ARGV[3]  number     int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt    int   the change; an account that another one or none keeps still is left alone
-- ARGV[5]  outcome    text  decided: PostgreSQL has made the change and this is what it has now
--                           undone: it has not and never will, for the attempt was refused, not sent or
--                           is void
-- ARGV[6]  available  int   what PostgreSQL has now, '' where undone
-- ARGV[7]  stop       text  which transactions are refused now: '', debit, credit, all or closed
-- Returns one call word
--   done    this attempt keeps the account still no more
--   fenced  another epoch or another Redis; nothing changed
--   stale   the slot has sent something newer; nothing changed
-- include: fence

local epoch_key, flight_key, account_key = KEYS[1], KEYS[2], KEYS[3]
local identity, slot, number, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local outcome, available, stop = ARGV[5], ARGV[6], ARGV[7]

local word = refusal(epoch_key, identity, slot, number)
if word then return word end
local found = redis.call('HGET', account_key, 'stop') or ''
local before = string.match(found, '^changing ' .. attempt .. ' (.*)$')

-- Nothing is refused from here. The first write needs no memory: see confirm.
redis.call('HDEL', flight_key, attempt)
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
if not before then return 'done' end
if outcome == 'decided' then
  redis.call('HSET', account_key, 'available', available, 'stop', stop)
else
  redis.call('HSET', account_key, 'stop', before)
end
return 'done'
