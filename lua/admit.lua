-- admit: reserve the amounts of one micro-batch, all of an attempt at one instant and at most once.
--
-- KEYS[1]  epoch      hash    subbalance:{s}:epoch:<n>: identity, slot:<slot>, loaded:<account key>
-- KEYS[2]  flight     hash    subbalance:{s}:<n>:flight: for each attempt in flight a record of four lines:
--                             {positions, words, availables, names} as answered, as JSON, the accounts'
--                             keys, the items as in ARGV[12+], the names
-- KEYS[3+] accounts   hashes  subbalance:{s}:<n>:account:<id>: available, incoming, pending_debit, entries, stop
-- ARGV[1]  identity     text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot         text  the caller's batch slot
-- ARGV[3]  number       int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt      int   this attempt; what it already reserved is told again, not reserved again
-- ARGV[5]  balance_max  int   no account may hold more, credits on their way included
-- ARGV[6]  extent       text  each: an item that is refused stops no other; all: it stops every one
-- ARGV[7]  own_first    int   the first attempt this process may have,
-- ARGV[8]  own_last     int   and the last
-- ARGV[9]  journaled    int   an attempt whose items are all journaled debits, 0 for none: it is in flight no more
-- ARGV[10] names        text  the items' names in order, '-' for none
-- ARGV[11] expected     text  what items expect of their accounts, split by ';': position:version:available, the
--                             last two '' for any
-- ARGV[12+] items       for each account in KEYS order: a count, then as many signed changes
-- Returns {call word, positions from 1 in order, a word for each, available at the decision for each,
--          the names that other processes have in flight, attempt by attempt, where something was refused}
--   done                    decided; the positions are those of refused items, all others are reserved: a
--                           debit lowers available, a credit waits in incoming
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
--   version_mismatch        the account has another version than was expected, told in place of available:
--                           how many entries it has, those in flight included
--   available_below_expected  available is below what was expected
-- include: fence
-- include: amounts
-- include: decision
-- include: expectations
-- include: others

local epoch_key, flight_key = KEYS[1], KEYS[2]
local identity, slot, number, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local extent, journaled, names = ARGV[6], ARGV[9], ARGV[10]
local max_high, max_low = parse(ARGV[5])
local expected = expectations(ARGV[11])

local word = refusal(epoch_key, identity, slot, number)
if word then return {word, {}, {}, {}, {}} end
local record = redis.call('HGET', flight_key, attempt)
if record then
  redis.call('HSET', epoch_key, 'slot:' .. slot, number)
  local refused = cjson.decode(string.match(record, '^[^\n]*'))
  return {'done', refused[1], refused[2], refused[3], refused[4]}
end

local positions, words, availables, writes, unloaded = {}, {}, {}, {}, {}
local cursor, position = 12, 0

local function refuse(why, high, low, entries)
  positions[#positions + 1], words[#words + 1] = position, why
  availables[#availables + 1] = why == 'version_mismatch' and string.format('%.0f', entries) or format(high, low)
end

for k = 3, #KEYS do
  local key, count = KEYS[k], tonumber(ARGV[cursor])
  local found = redis.call('HMGET', key, 'available', 'incoming', 'pending_debit', 'stop', 'entries')
  if not found[1] then
    if redis.call('HEXISTS', epoch_key, 'loaded:' .. key) == 1 then return {'vanished', {}, {}, {}, {}} end
    unloaded[#unloaded + 1] = k - 2
  elseif #unloaded == 0 then
    local before_high, before_low = parse(found[1])
    local high, low = before_high, before_low
    local coming_high, coming_low = parse(found[2])
    local stop, credited = found[4] and string.match(found[4], '^%l+') or '', false
    local entries = tonumber(found[5])
    for i = cursor + 1, cursor + count do
      position = position + 1
      local change_high, change_low = parse(ARGV[i])
      local why, left_high, left_low, sum_high, sum_low =
        decide(stop, max_high, max_low, high, low, coming_high, coming_low, change_high, change_low)
      local wanted = expected and expected[position]
      if wanted then why = unmet(wanted, why, entries, high, low, coming_high, coming_low) end
      if why then
        refuse(why, high, low, entries)
      else
        entries = entries + 1
        high, low, coming_high, coming_low = left_high, left_low, sum_high, sum_low
        credited = credited or change_high >= 0
      end
    end
    local write = {key}
    local debit_high, debit_low = subtract(before_high, before_low, high, low)
    if debit_high + debit_low > 0 then
      write[2], write[3], write[4] = 'available', format(high, low), 'pending_debit'
      write[5] = format(add(debit_high, debit_low, parse(found[3])))
    end
    if credited then write[#write + 1], write[#write + 2] = 'incoming', format(coming_high, coming_low) end
    if #write > 1 then
      write[#write + 1], write[#write + 2] = 'entries', string.format('%.0f', entries)
      writes[#writes + 1] = write
    end
  end
  cursor = cursor + 1 + count
end

-- Everything is decided; nothing may fail from here.
local others = #positions > 0 and names_of_others(flight_key, ARGV[7], ARGV[8]) or {}
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
redis.call('HDEL', flight_key, journaled)
if #unloaded > 0 then return {'unloaded', unloaded, {}, {}, {}} end
if extent == 'each' or #positions == 0 then
  for _, write in ipairs(writes) do redis.call('HSET', unpack(write)) end
  if #writes > 0 then
    local refused = cjson.encode({positions, words, availables, others})
    local record = {refused, table.concat(KEYS, ' ', 3), table.concat(ARGV, ' ', 12), names}
    redis.call('HSET', flight_key, attempt, table.concat(record, '\n'))
  end
end
return {'done', positions, words, availables, others}
