-- wrk: posts prepared bodies in turn, each request under an idempotency key of its own.
--
-- BENCH_BODIES   a file of bodies, each after a line with its length; `bench/compare/bodies.py` writes it
-- BENCH_TYPE     their Content-Type
-- BENCH_KEYS     request: the key goes into the Idempotency-Key header; item: the bodies have places for it;
--                none: requests have no key
-- BENCH_RUN      11 characters that no other run has
-- BENCH_THREADS  how many threads wrk has, so that each begins elsewhere
--
-- A request is cut at the places for the key once, before the run. No `response` is defined: wrk then
-- reads answers without copying them, and counts those of 400 and above as errors by itself.

local folder = string.match(debug.getinfo(1, 'S').source, '^@(.*/)') or ''
dofile(folder .. 'wrk_run.lua')

local place = string.rep('K', 24)
local run, keys = os.getenv('BENCH_RUN'), os.getenv('BENCH_KEYS')
local thread_total = tonumber(os.getenv('BENCH_THREADS'))
local requests, turn, number, prefix = {}, 0, 0, nil

-- The pieces of a text between the places for the key, with slots for the key between them.
local function cut(text)
  local slots, from = {}, 1
  while true do
    local at = string.find(text, place, from, true)
    slots[#slots + 1] = string.sub(text, from, at and at - 1)
    if not at then return slots end
    slots[#slots + 1] = ''
    from = at + #place
  end
end

function init()
  local headers = {['Content-Type'] = os.getenv('BENCH_TYPE')}
  if keys == 'request' then headers['Idempotency-Key'] = place end
  local file = assert(io.open(os.getenv('BENCH_BODIES'), 'rb'))
  for length in file:lines() do
    requests[#requests + 1] = cut(wrk.format('POST', nil, headers, file:read(tonumber(length))))
  end
  file:close()
  turn = math.floor(thread_number * #requests / thread_total)
  prefix = run .. '-' .. thread_number .. '-'
end

function request()
  number = number + 1
  turn = turn % #requests + 1
  local slots, key = requests[turn], prefix .. string.format('%010x', number)
  if #slots == 1 then return slots[1] end
  if #slots == 3 then return slots[1] .. key .. slots[3] end
  for slot = 2, #slots, 2 do slots[slot] = key end
  return table.concat(slots)
end
