-- admit: reserve the amounts of one micro-batch, each at most once.
--
-- KEYS[1]  epoch      hash    subbalance:{s}:epoch:<n>: identity, slot:<slot>, loaded:<account key>
-- KEYS[2]  flight     hash    subbalance:{s}:<n>:flight: for each attempt the keys it holds something on
-- KEYS[3+] accounts   hashes  subbalance:{s}:<n>:account:<id>: available, incoming, pending_debit, f:<name>
-- ARGV[1]  identity     text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot         text  the caller's batch slot
-- ARGV[3]  number       int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt      int   this sending of the batch; what it already reserved counts as reserved
-- ARGV[5]  balance_max  int   no account may hold more, credits on their way included
-- ARGV[6+] items        for each account in KEYS order: a count, then as many (name, signed change)
-- Returns {call word, one word per item in order, available at the decision for refused items or ''}
--   done                    the call was decided item by item
--   fenced                  another epoch or another Redis; nothing changed
--   stale                   the slot has sent something newer; nothing changed
--   admitted                reserved: a debit lowers available, a credit waits in incoming
--   in_flight               another attempt holds this name; nothing changed
--   insufficient_available  available < amount; nothing changed
--   credit_in_flight        the same, but credits on their way would do; nothing changed
--   balance_limit_exceeded  available and incoming would pass balance_max; nothing changed
--   unloaded                the account must be loaded first; nothing changed
--   vanished                the account was loaded and its key is gone; nothing changed, for any item
-- include: fence
-- include: amounts

local epoch_key, flight_key = KEYS[1], KEYS[2]
local identity, slot, number, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local balance_max = parse(ARGV[5])

local refused = refusal(epoch_key, identity, slot, number)
if refused then return {refused, {}, {}} end

local words, availables, writes = {}, {}, {}
local cursor, lost = 6, false

local function answer(word, available)
  words[#words + 1] = word
  availables[#availables + 1] = available or ''
end

-- Decides one item on a copy of its account; what it would write goes into account.fields.
local function decide(account, name, change_text, holder)
  if holder then
    local mine = string.sub(holder, 1, #attempt + 1) == attempt .. ' '
    return answer(mine and 'admitted' or 'in_flight')
  end
  local change = parse(change_text)
  if change[1] < 0 then
    local left = add(account.available, change)
    if left[1] < 0 then
      local coming = add(left, account.incoming)[1] >= 0
      return answer(coming and 'credit_in_flight' or 'insufficient_available', format(account.available))
    end
    account.available, account.pending_debit = left, add(account.pending_debit, negate(change))
  else
    local incoming = add(account.incoming, change)
    if less(balance_max, add(account.available, incoming)) then
      return answer('balance_limit_exceeded', format(account.available))
    end
    account.incoming = incoming
  end
  local fields = account.fields
  fields[#fields + 1], fields[#fields + 2] = 'f:' .. name, attempt .. ' ' .. change_text
  return answer('admitted')
end

for k = 3, #KEYS do
  local key, count = KEYS[k], tonumber(ARGV[cursor])
  local wanted = {'available', 'incoming', 'pending_debit'}
  for i = 1, count do wanted[3 + i] = 'f:' .. ARGV[cursor + 2 * i - 1] end
  local found = redis.call('HMGET', key, unpack(wanted))
  if not found[1] then
    local gone = redis.call('HEXISTS', epoch_key, 'loaded:' .. key) == 1
    for _ = 1, count do answer(gone and 'vanished' or 'unloaded') end
    lost = lost or gone
  else
    local account = {available = parse(found[1]), incoming = parse(found[2]),
                     pending_debit = parse(found[3]), fields = {}}
    for i = 1, count do
      decide(account, ARGV[cursor + 2 * i - 1], ARGV[cursor + 2 * i], found[3 + i])
    end
    if #account.fields > 0 then writes[key] = account end
  end
  cursor = cursor + 1 + 2 * count
end

-- A Redis that lost an account is not to be used in this epoch any more, for no account.
if lost then return {'done', words, availables} end

local held = {redis.call('HGET', flight_key, attempt) or nil}
for key in pairs(writes) do held[#held + 1] = key end

-- Everything is decided; nothing may fail from here.
if #held > 0 then redis.call('HSET', flight_key, attempt, table.concat(held, ' ')) end
for key, account in pairs(writes) do
  redis.call('HSET', key, 'available', format(account.available), 'incoming', format(account.incoming),
             'pending_debit', format(account.pending_debit), unpack(account.fields))
end
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
return {'done', words, availables}
