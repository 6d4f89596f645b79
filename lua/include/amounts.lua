-- amounts: included by scripts that compare or add money; not a script of its own.
--
-- An amount is two numbers, {high, low}: value = high * 10^9 + low with 0 <= low < 10^9. Both stay
-- far below 2^53, so the arithmetic is exact where a single Lua number would not be.

local BASE = 1000000000

local function parse(text)
  local negative = string.sub(text, 1, 1) == '-'
  local digits = negative and string.sub(text, 2) or text
  local high = tonumber(string.sub(digits, 1, -10)) or 0
  local low = tonumber(string.sub(digits, -9))
  if not negative then return {high, low} end
  if low == 0 then return {-high, 0} end
  return {-high - 1, BASE - low}
end

local function add(a, b)
  local low = a[2] + b[2]
  if low >= BASE then return {a[1] + b[1] + 1, low - BASE} end
  return {a[1] + b[1], low}
end

local function negate(a)
  if a[2] == 0 then return {-a[1], 0} end
  return {-a[1] - 1, BASE - a[2]}
end

local function less(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function format(a)
  local sign = ''
  if a[1] < 0 then a, sign = negate(a), '-' end
  if a[1] == 0 then return sign .. string.format('%.0f', a[2]) end
  return sign .. string.format('%.0f%09.0f', a[1], a[2])
end
