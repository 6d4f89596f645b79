-- wrk: debit 0.01 from random accounts, each request under a key of its own.
--
-- BENCH_ACCOUNTS  how many accounts there are, named A0000000, A0000001, ...
-- BENCH_RUN       a text that no other run has; keys begin with it, so they ascend with time
-- BENCH_KEYS      time, random or none
--
-- A request is cut at the places for the key and for the account's number once, before the run.

local folder = string.match(debug.getinfo(1, 'S').source, '^@(.*/)') or ''
dofile(folder .. '../wrk_run.lua')

local key_place, number_place = string.rep('K', 36), string.rep('N', 7)
local accounts = tonumber(os.getenv('BENCH_ACCOUNTS'))
local run, keys = os.getenv('BENCH_RUN'), os.getenv('BENCH_KEYS')
local number, head, middle, tail = 0, nil, nil, nil

function init()
  math.randomseed((tonumber(string.sub(run, -6), 16) + thread_number * 7919) % 2147483647)
  local headers = {['Content-Type'] = 'application/json'}
  if keys ~= 'none' then headers['Idempotency-Key'] = key_place end
  local body = '{"account_id":"A' .. number_place .. '","amount":"0.01","type":"debit"}'
  local text = wrk.format('POST', nil, headers, body)
  local from, to = string.find(text, number_place, 1, true)
  middle, tail = string.sub(text, 1, from - 1), string.sub(text, to + 1)
  if keys ~= 'none' then
    from, to = string.find(middle, key_place, 1, true)
    head, middle = string.sub(middle, 1, from - 1), string.sub(middle, to + 1)
  end
end

local function key()
  number = number + 1
  if keys == 'random' then
    return string.format('%08x-%04x-4%03x-%04x-%04x%08x', math.random(0, 2147483647), math.random(0, 65535),
      math.random(0, 4095), math.random(0, 65535), thread_number, number)
  end
  return string.format('%s-%08x-%04d-7000-00', run, number, thread_number)
end

function request()
  local account = string.format('%07d', math.random(0, accounts - 1))
  if keys == 'none' then return middle .. account .. tail end
  return head .. key() .. middle .. account .. tail
end
