-- What is asked about API keys.

-- name: live_keys
-- Every key that was not revoked and has not expired.
-- Params: $1 most bigint
SELECT key_id, name, scope, secret_sha256, created_at, expires_at, revoked_at
  FROM api_keys
 WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
 ORDER BY created_at
 LIMIT $1;

-- name: all_keys
-- Every key there ever was, for an operator, the newest first.
-- Params: $1 most bigint
SELECT key_id, name, scope, secret_sha256, created_at, expires_at, revoked_at
  FROM api_keys
 ORDER BY created_at DESC
 LIMIT $1;

-- name: create_key
-- Make a key and write down who did; false when there are too many.
-- Params: $1 shard smallint, $2 key_id text, $3 name text, $4 scope text, $5 secret_sha256 bytea, $6 lifetime interval, $7 live_max integer, $8 actor text, $9 reason text
SELECT create_api_key_v1($1, $2, $3, $4, $5, $6, $7, $8, $9) AS created;

-- name: revoke_key
-- Revoke a key and write down who did; false when none was working under this id.
-- Params: $1 shard smallint, $2 key_id text, $3 actor text, $4 reason text
SELECT revoke_api_key_v1($1, $2, $3, $4) AS revoked;
