-- wrk: what every script here does before and after a run; each begins with this file.
--
-- Gives every thread its `thread_number`, from 0 up, and writes what wrk counted as one line:
--   RESULT accepted refused errors duration mean p50 p95 p99     times in microseconds
-- `bench/compare/wrk.py` reads it.

local threads_seen = 0

function setup(thread)
  thread:set('thread_number', threads_seen)
  threads_seen = threads_seen + 1
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('RESULT %d %d %d %d %d %d %d %d\n', summary.requests - errors.status, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, summary.duration, latency.mean,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
