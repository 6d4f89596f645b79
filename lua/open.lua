-- open: write an epoch's token, once in its life.
--
-- KEYS[1] epoch     hash  subbalance:{s}:epoch:<n>
-- ARGV[1] identity  text  "<run_id> <master_replid> <token>" of the epoch
-- Returns one call word
--   done    the token is here: written now, or found with the same identity
--   fenced  the key exists with another identity; nothing changed

local epoch_key, identity = KEYS[1], ARGV[1]
redis.call('HSETNX', epoch_key, 'identity', identity)
if redis.call('HGET', epoch_key, 'identity') == identity then return 'done' end
return 'fenced'
