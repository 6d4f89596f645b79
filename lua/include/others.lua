-- others: included by scripts that refuse; not a script of its own.
--
-- The names that other processes have in flight, a text for each attempt: one that is among them may be
-- the very request that was refused here. An attempt is another process's if it is not between first and last.

local function names_of_others(flight_key, first, last)
  local found = {}
  local first_high, first_low = parse(first)
  local last_high, last_low = parse(last)
  for _, other in ipairs(redis.call('HKEYS', flight_key)) do
    local high, low = parse(other)
    if subtract(high, low, first_high, first_low) < 0 or subtract(last_high, last_low, high, low) < 0 then
      found[#found + 1] = string.match(redis.call('HGET', flight_key, other), '\n([^\n]*)$')
    end
  end
  return found
end
