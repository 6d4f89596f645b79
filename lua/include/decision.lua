-- decision: included by scripts that reserve; not a script of its own.
--
-- Whether an account takes one change: the word it is refused with or false, and then what is available
-- and on its way in after it. A credit on its way funds no debit.

local STOPS = {all = 'account_frozen', closed = 'account_closed', changing = 'account_changing'}

local function decide(stop, max_high, max_low, high, low, coming_high, coming_low, change_high, change_low)
  local is_debit = change_high < 0
  if stop ~= '' then
    local why = STOPS[stop] or stop == (is_debit and 'debit' or 'credit') and 'account_frozen'
    if why then return why end
  end
  if is_debit then
    local left_high, left_low = add(high, low, change_high, change_low)
    if left_high >= 0 then return false, left_high, left_low, coming_high, coming_low end
    local would_do = add(left_high, left_low, coming_high, coming_low) >= 0
    return would_do and 'credit_in_flight' or 'insufficient_available'
  end
  local sum_high, sum_low = add(coming_high, coming_low, change_high, change_low)
  if subtract(max_high, max_low, add(high, low, sum_high, sum_low)) < 0 then return 'balance_limit_exceeded' end
  return false, high, low, sum_high, sum_low
end
