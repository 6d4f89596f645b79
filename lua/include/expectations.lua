-- expectations: included by scripts whose items may be conditional; not a script of its own.
--
-- What items expect of their accounts, by position: the version, which counts the entries the account has had,
-- those in flight included, and what must at least be available. nil where no item expects anything.

local function expectations(text)
  if text == '' then return nil end
  local wanted = {}
  for position, version, available in string.gmatch(text, '(%d+):(%d*):([%-%d]*)') do
    wanted[tonumber(position)] = {tonumber(version), available}
  end
  return wanted
end

local STOPPED = {account_frozen = true, account_closed = true, account_changing = true}

-- The word an item is refused with, whose account stands so: `why` is what refuses it otherwise.
local function unmet(wanted, why, entries, high, low, coming_high, coming_low)
  if STOPPED[why] then return why end
  if wanted[1] and wanted[1] ~= entries then return 'version_mismatch' end
  if wanted[2] ~= '' then
    local short_high, short_low = subtract(high, low, parse(wanted[2]))
    if short_high < 0 then
      local would_do = add(short_high, short_low, coming_high, coming_low) >= 0
      return would_do and 'credit_in_flight' or 'available_below_expected'
    end
  end
  return why
end
