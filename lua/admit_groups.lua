-- admit_groups: reserve what groups of transfers move, each group wholly or not at all; else as admit.
--
-- KEYS[1]  epoch      hash    subbalance:{s}:epoch:<n>: identity, slot:<slot>, loaded:<account key>
-- KEYS[2]  flight     hash    subbalance:{s}:<n>:flight: for each attempt in flight its record, see admit
-- KEYS[3+] accounts   hashes  subbalance:{s}:<n>:account:<id>: available, incoming, pending_debit, entries, stop
-- ARGV[1]  identity     text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot         text  the caller's batch slot
-- ARGV[3]  number       int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt      int   this attempt; what it already reserved is told again, not reserved again
-- ARGV[5]  balance_max  int   no account may hold more, credits on their way included
-- ARGV[6]  groups       text  the groups in the order they are decided in, split by ';': the positions of
--                             each one's items, debits first, so that its own credits fund none of them
-- ARGV[7]  own_first    int   the first attempt this process may have,
-- ARGV[8]  own_last     int   and the last
-- ARGV[9]  journaled    int   an attempt whose items are all journaled debits, 0 for none: it is in flight no more
-- ARGV[10] names        text  the items' names in order, '-' for none
-- ARGV[11+] items       for each account in KEYS order: a count, then as many signed changes
-- Returns {call word, positions from 1, a word for each, available at the decision for each,
--          the names that other processes have in flight, attempt by attempt, where something was refused}
--   done                    decided; the positions are those of all items of refused groups, the others are
--                           reserved: a debit lowers available, a credit waits in incoming
--   unloaded                nothing changed; the positions are those of accounts that must be loaded first
--   vanished                nothing changed; an account was loaded in this epoch and its key is gone
--   fenced                  nothing changed; another epoch or another Redis
--   stale                   nothing changed; the slot has sent something newer
--   insufficient_available  available < amount
--   credit_in_flight        the same, but credits on their way would do
--   balance_limit_exceeded  available and incoming would pass balance_max
--   account_frozen          the account takes no transactions of this kind
--   account_closed          the account takes no transactions any more
--   account_changing        the account is being changed: decide again when it is not
--   group_refused           another item of the group was refused, and it says why
-- include: fence
-- include: amounts
-- include: decision
-- include: others

local epoch_key, flight_key = KEYS[1], KEYS[2]
local identity, slot, number, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local groups, journaled, names = ARGV[6], ARGV[9], ARGV[10]
local max_high, max_low = parse(ARGV[5])

local word = refusal(epoch_key, identity, slot, number)
if word then return {word, {}, {}, {}, {}} end
local record = redis.call('HGET', flight_key, attempt)
if record then
  redis.call('HSET', epoch_key, 'slot:' .. slot, number)
  local refused = cjson.decode(string.match(record, '^[^\n]*'))
  return {'done', refused[1], refused[2], refused[3], refused[4]}
end

local positions, words, availables, unloaded = {}, {}, {}, {}
local accounts, account_of, change_of = {}, {}, {}
local cursor = 11

for k = 3, #KEYS do
  local key, count = KEYS[k], tonumber(ARGV[cursor])
  local found = redis.call('HMGET', key, 'available', 'incoming', 'pending_debit', 'stop', 'entries')
  if not found[1] then
    if redis.call('HEXISTS', epoch_key, 'loaded:' .. key) == 1 then return {'vanished', {}, {}, {}, {}} end
    unloaded[#unloaded + 1] = k - 2
  else
    local account = {key = key, before = found, entries = tonumber(found[5]), stop = found[4] and string.match(found[4], '^%l+') or ''}
    account[1], account[2] = parse(found[1])
    account[3], account[4] = parse(found[2])
    accounts[k - 2] = account
  end
  for i = cursor + 1, cursor + count do
    account_of[#account_of + 1], change_of[#change_of + 1] = k - 2, ARGV[i]
  end
  cursor = cursor + 1 + count
end

-- Decides one group; what its items did is taken back where one of them is refused.
local function take(members)
  local undo, refused_at, why, high, low = {}, nil, nil, nil, nil
  for _, position in ipairs(members) do
    local account = accounts[account_of[position]]
    local change_high, change_low = parse(change_of[position])
    local a, b, c, d = account[1], account[2], account[3], account[4]
    why, account[1], account[2], account[3], account[4] =
      decide(account.stop, max_high, max_low, a, b, c, d, change_high, change_low)
    account.entries = account.entries + 1
    undo[#undo + 1] = {account, a, b, c, d}
    if why then
      refused_at, high, low = position, a, b
      break
    end
  end
  if not refused_at then return end
  for i = #undo, 1, -1 do
    local account = undo[i][1]
    account[1], account[2], account[3], account[4] = undo[i][2], undo[i][3], undo[i][4], undo[i][5]
    account.entries = account.entries - 1
  end
  for _, position in ipairs(members) do
    positions[#positions + 1] = position
    words[#words + 1] = position == refused_at and why or 'group_refused'
    availables[#availables + 1] = format(high, low)
  end
end

if #unloaded == 0 then
  for group in string.gmatch(groups, '[^;]+') do
    local members = {}
    for position in string.gmatch(group, '%d+') do members[#members + 1] = tonumber(position) end
    take(members)
  end
end

-- Everything is decided; nothing may fail from here.
local others = #positions > 0 and names_of_others(flight_key, ARGV[7], ARGV[8]) or {}
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
redis.call('HDEL', flight_key, journaled)
if #unloaded > 0 then return {'unloaded', unloaded, {}, {}, {}} end
if #positions < #account_of then
  for _, account in pairs(accounts) do
    local high, low = parse(account.before[1])
    local debit_high, debit_low = subtract(high, low, account[1], account[2])
    local pending = format(add(debit_high, debit_low, parse(account.before[3])))
    redis.call('HSET', account.key, 'available', format(account[1], account[2]), 'pending_debit', pending,
               'incoming', format(account[3], account[4]), 'entries', string.format('%.0f', account.entries))
  end
  local refused = cjson.encode({positions, words, availables, others})
  local record = {refused, table.concat(KEYS, ' ', 3), table.concat(ARGV, ' ', 11), names}
  redis.call('HSET', flight_key, attempt, table.concat(record, '\n'))
end
return {'done', positions, words, availables, others}
