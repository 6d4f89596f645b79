-- fence: included by every script that touches money; not a script of its own.
--
-- Decides whether the caller may act on this Redis in the epoch it works in. The epoch's hash was
-- written once when the epoch was opened and must still be there; its identity ends in a word that
-- no other opening has. This server must be the one it was opened for (a restart changes run_id, a
-- resync changes master_replid), and a master.

local function fenced(epoch_key, identity)
  if redis.call('HGET', epoch_key, 'identity') ~= identity then return true end
  local server = redis.call('INFO', 'server')
  local replication = redis.call('INFO', 'replication')
  local run_id = string.match(server, 'run_id:(%x+)')
  local replication_id = string.match(replication, 'master_replid:(%x+)')
  if not run_id or not replication_id then return true end
  if not string.find(replication, 'role:master', 1, true) then return true end
  return string.find(identity, run_id .. ' ' .. replication_id .. ' ', 1, true) ~= 1
end

-- A slot numbers every sending, and one that is not newer than the newest seen does nothing: a copy
-- that was delayed on its way cannot act after the sending that took its place.
local function stale(epoch_key, slot, number)
  local newest = redis.call('HGET', epoch_key, 'slot:' .. slot)
  return newest and tonumber(newest) >= tonumber(number)
end

-- One word for a call that may not act, or nil.
local function refusal(epoch_key, identity, slot, number)
  if fenced(epoch_key, identity) then return 'fenced' end
  if stale(epoch_key, slot, number) then return 'stale' end
  return nil
end
