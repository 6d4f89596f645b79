-- confirm: tell Redis what became of an attempt's reservations.
--
-- KEYS[1]  epoch      hash    subbalance:{s}:epoch:<n>: identity, slot:<slot>
-- KEYS[2]  flight     hash    subbalance:{s}:<n>:flight: for each attempt the keys it holds something on
-- KEYS[3+] accounts   hashes  subbalance:{s}:<n>:account:<id>: available, incoming, pending_*, f:<name>
-- ARGV[1]  identity  text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot      text  the caller's batch slot
-- ARGV[3]  number    int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt   int   the attempt whose reservations these are; another attempt's stay untouched
-- ARGV[5]  extent    text  whole: these are all its reservations, it is in flight no more; or what flight
--                          must say of the attempt for that to be so; or part
-- ARGV[6+] items     for each account in KEYS order: a count, then as many (name, outcome);
--                    outcome journaled: the credit becomes spendable, the debit stays taken
--                    outcome released: the credit is forgotten, the debit is given back
-- Returns one call word
--   done    applied to what this attempt still holds
--   fenced  another epoch or another Redis; nothing changed
--   stale   the slot has sent something newer; nothing changed
-- include: fence
-- include: amounts

local epoch_key, flight_key = KEYS[1], KEYS[2]
local identity, slot, number, attempt, extent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local refused = refusal(epoch_key, identity, slot, number)
if refused then return refused end

local function apply(account, change, outcome)
  local is_debit = change[1] < 0
  if not is_debit then account.incoming = add(account.incoming, negate(change)) end
  if outcome == 'journaled' and not is_debit then
    account.available = add(account.available, change)
    account.pending_credit = add(account.pending_credit, change)
  elseif outcome == 'released' and is_debit then
    account.available = add(account.available, negate(change))
    account.pending_debit = add(account.pending_debit, change)
  end
end

-- Nothing is refused from here; an item whose reservation is not this attempt's is passed over.
-- Where memory is full Redis refuses a script whose first write needs memory, so this one, which
-- needs none, comes first. A confirm must get through, for it makes room.
local is_whole = extent == 'whole' or redis.call('HGET', flight_key, attempt) == extent
redis.call('HDEL', flight_key, is_whole and attempt or '')

local cursor = 6
for k = 3, #KEYS do
  local key, count = KEYS[k], tonumber(ARGV[cursor])
  local wanted = {'available', 'incoming', 'pending_debit', 'pending_credit'}
  for i = 1, count do wanted[4 + i] = 'f:' .. ARGV[cursor + 2 * i - 1] end
  local found = redis.call('HMGET', key, unpack(wanted))
  local settled_fields = {}
  if found[1] then
    local account = {available = parse(found[1]), incoming = parse(found[2]),
                     pending_debit = parse(found[3]), pending_credit = parse(found[4])}
    for i = 1, count do
      local holder, change_text = string.match(found[4 + i] or '', '^(%d+) (-?%d+)$')
      if holder == attempt then
        apply(account, parse(change_text), ARGV[cursor + 2 * i])
        settled_fields[#settled_fields + 1] = wanted[4 + i]
      end
    end
    if #settled_fields > 0 then
      redis.call('HSET', key, 'available', format(account.available), 'incoming', format(account.incoming),
                 'pending_debit', format(account.pending_debit),
                 'pending_credit', format(account.pending_credit))
      redis.call('HDEL', key, unpack(settled_fields))
    end
  end
  cursor = cursor + 1 + 2 * count
end
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
return 'done'
