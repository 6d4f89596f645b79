-- amounts: included by scripts that compare or add money; not a script of its own.
--
-- An amount is two numbers, high and low: value = high * 10^9 + low with 0 <= low < 10^9. Both stay
-- far below 2^53, so the arithmetic is exact where a single Lua number would not be. They are passed
-- and returned side by side, for a table for each amount would cost more than the arithmetic.

local BASE = 1000000000

local function negate(high, low)
  if low == 0 then return -high, 0 end
  return -high - 1, BASE - low
end

local function parse(text)
  if #text <= 9 then
    local value = tonumber(text)
    if value >= 0 then return 0, value end
    return -1, BASE + value
  end
  local negative = string.sub(text, 1, 1) == '-'
  local digits = negative and string.sub(text, 2) or text
  local high, low = tonumber(string.sub(digits, 1, -10)) or 0, tonumber(string.sub(digits, -9))
  if negative then return negate(high, low) end
  return high, low
end

local function add(a_high, a_low, b_high, b_low)
  local low = a_low + b_low
  if low >= BASE then return a_high + b_high + 1, low - BASE end
  return a_high + b_high, low
end

local function subtract(a_high, a_low, b_high, b_low)
  local low = a_low - b_low
  if low < 0 then return a_high - b_high - 1, low + BASE end
  return a_high - b_high, low
end

local function format(high, low)
  local sign = ''
  if high < 0 then
    sign, high, low = '-', negate(high, low)
  end
  if high == 0 then return sign .. string.format('%.0f', low) end
  return sign .. string.format('%.0f%09.0f', high, low)
end
