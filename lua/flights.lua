-- flights: read attempts in flight, at one instant; changes nothing.
--
-- KEYS[1]  epoch     hash  subbalance:{s}:epoch:<n>: identity
-- KEYS[2]  flight    hash  subbalance:{s}:<n>:flight: for each attempt its record, see admit
-- ARGV[1]  identity  text  "<run_id> <master_replid> <token>" of the epoch
-- ARGV[2+] attempts  int   those that are asked for; all where none is
-- Returns {call word, attempts and records of those that are in flight}
--   done    the attempts were looked at
--   fenced  another epoch or another Redis
-- include: fence

local epoch_key, flight_key = KEYS[1], KEYS[2]
if fenced(epoch_key, ARGV[1]) then return {'fenced', {}} end
if #ARGV == 1 then return {'done', redis.call('HGETALL', flight_key)} end

local found = {}
for i = 2, #ARGV do
  local record = redis.call('HGET', flight_key, ARGV[i])
  if record then found[#found + 1], found[#found + 2] = ARGV[i], record end
end
return {'done', found}
