-- wrk: debit 0.01 again and again, each request with an idempotency key of its own: from one account,
-- or from BENCH_SPREAD accounts in turn.

local run = os.getenv('BENCH_RUN') or 'run'
local account = os.getenv('BENCH_ACCOUNT') or 'BENCH'
local spread = tonumber(os.getenv('BENCH_SPREAD') or '0')
local threads = {}
local number = 0

function setup(thread)
  thread:set('thread_number', #threads)
  threads[#threads + 1] = thread
end

function init()
  wrk.method = 'POST'
  wrk.body = '{"account_id":"' .. account .. '","amount":"0.01","type":"debit"}'
  accepted = 0
  refused = 0
end

function request()
  number = number + 1
  local body
  if spread > 0 then
    body = '{"account_id":"' .. account .. math.random(0, spread - 1) .. '","amount":"0.01","type":"debit"}'
  end
  local key = run .. '-' .. thread_number .. '-' .. number
  return wrk.format(nil, nil, {['Content-Type'] = 'application/json', ['Idempotency-Key'] = key}, body)
end

function response(status)
  if status == 201 then accepted = accepted + 1 else refused = refused + 1 end
end

function done(summary, latency)
  local accepted_count, refused_count = 0, 0
  for _, thread in ipairs(threads) do
    accepted_count = accepted_count + thread:get('accepted')
    refused_count = refused_count + thread:get('refused')
  end
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('RESULT %d %d %d %d %d %d %d %d\n', accepted_count, refused_count, errors,
    summary.duration, latency.mean, latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
