-- confirm: tell Redis what became of an attempt in flight; it is in flight no more.
--
-- KEYS[1]  epoch      hash    subbalance:{s}:epoch:<n>: identity, slot:<slot>
-- KEYS[2]  flight     hash    subbalance:{s}:<n>:flight: for each attempt its record, see admit
-- KEYS[3+] accounts   hashes  the record's accounts in its order; none where no balance changes, that is where
--                             all its items are debits and journaled
-- ARGV[1]  identity  text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2]  slot      text  the caller's batch slot
-- ARGV[3]  number    int   the slot's number of this sending; each must be newer than the last
-- ARGV[4]  attempt   int   whose reservations these are; nothing happens if it is in flight no more
-- ARGV[5]  outcome   text  journaled: a credit becomes spendable, a debit stays taken
--                          released: a credit is forgotten, a debit is given back, neither counts as an entry
-- ARGV[6+] others    int   numbers of items that have the other outcome, counted from 0 among the admitted
-- Returns one call word
--   done    the attempt is in flight no more
--   fenced  another epoch or another Redis; nothing changed
--   stale   the slot has sent something newer; nothing changed
-- include: fence
-- include: amounts

local epoch_key, flight_key = KEYS[1], KEYS[2]
local identity, slot, number, attempt, outcome = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local word = refusal(epoch_key, identity, slot, number)
if word then return word end
local record = redis.call('HGET', flight_key, attempt)
local refused_json, keys_text, items_text = string.match(record or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)')
if record and #KEYS > 2 and keys_text ~= table.concat(KEYS, ' ', 3) then
  return redis.error_reply('ERR these are not the accounts of attempt ' .. attempt)
end

-- Nothing is refused from here. Where memory is full Redis refuses a script whose first write needs
-- memory, so this one, which needs none, comes first: a confirm must get through, for it makes room.
redis.call('HDEL', flight_key, attempt)
redis.call('HSET', epoch_key, 'slot:' .. slot, number)
if not record or #KEYS == 2 then return 'done' end

local is_refused, is_other = {}, {}
for _, position in ipairs(cjson.decode(refused_json)[1]) do is_refused[position] = true end
for i = 6, #ARGV do is_other[tonumber(ARGV[i])] = true end

local next_text = string.gmatch(items_text, '%S+')
local position, item_no = 0, -1
for k = 3, #KEYS do
  local fields = {'available', 'incoming', 'pending_debit', 'pending_credit', 'entries'}
  local found = redis.call('HMGET', KEYS[k], unpack(fields))
  local sums, entries = {}, tonumber(found[5] or '0')
  for i = 1, 4 do sums[i] = {parse(found[i] or '0')} end
  local function change(field, operation, high, low) sums[field] = {operation(sums[field][1], sums[field][2], high, low)} end
  for _ = 1, tonumber(next_text()) do
    local high, low = parse(next_text())
    position = position + 1
    if not is_refused[position] then
      item_no = item_no + 1
      local journaled = (outcome == 'journaled') ~= (is_other[item_no] or false)
      if not journaled then entries = entries - 1 end
      if high >= 0 then
        change(2, subtract, high, low)
        if journaled then
          change(1, add, high, low)
          change(4, add, high, low)
        end
      elseif not journaled then
        change(1, subtract, high, low)
        change(3, add, high, low)
      end
    end
  end
  -- An account that is gone stays gone; the next admission notices.
  if found[1] then
    redis.call('HSET', KEYS[k], fields[1], format(unpack(sums[1])), fields[2], format(unpack(sums[2])),
               fields[3], format(unpack(sums[3])), fields[4], format(unpack(sums[4])),
               fields[5], string.format('%.0f', entries))
  end
end
return 'done'
