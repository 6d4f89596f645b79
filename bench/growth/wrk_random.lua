-- wrk: debit 0.01 from random accounts, each request under a key of its own.
--
-- BENCH_ACCOUNTS  how many accounts there are, named A0, A1, ...
-- BENCH_RUN       a text that no other run has; keys begin with it, so they ascend with time
-- BENCH_KEYS      time, random or none

local accounts = tonumber(os.getenv('BENCH_ACCOUNTS'))
local run, keys = os.getenv('BENCH_RUN'), os.getenv('BENCH_KEYS')
local threads_seen = 0
local number = 0

function setup(thread)
  thread:set('thread_number', threads_seen)
  threads_seen = threads_seen + 1
end

function init()
  math.randomseed((tonumber(string.sub(run, -6), 16) + thread_number * 7919) % 2147483647)
  local headers = {['Content-Type'] = 'application/json', ['Idempotency-Key'] = string.rep('K', 36)}
  if keys == 'none' then headers['Idempotency-Key'] = nil end
  text = wrk.format('POST', nil, headers, '{"account_id":"AXXXXXXX","amount":"0.01","type":"debit"}')
  local from, to = string.find(text, string.rep('K', 36), 1, true)
  local place = string.find(text, 'XXXXXXX', 1, true)
  if from and from < place then
    head, middle, tail = string.sub(text, 1, from - 1), string.sub(text, to + 1, place - 1), string.sub(text, place + 7)
  else
    head, middle, tail = nil, string.sub(text, 1, place - 1), string.sub(text, place + 7)
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

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('RESULT %d %d %d %d %d %d %d %d\n', summary.requests - errors.status, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, summary.duration, latency.mean,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
