-- API keys, and their making and revoking among the acts of operators.
--
-- Why: callers are known by keys of which only hashes are kept; who made or revoked one is written down in
-- the same SQL transaction. Locks: ACCESS EXCLUSIVE on operator_actions, waited for at most two seconds,
-- while its few rows are compared with the longer list. Safe while old code runs: yes; it knows no keys.

SET LOCAL lock_timeout = '2s';
ALTER TABLE operator_actions
    DROP CONSTRAINT operator_actions_action,
    ADD CONSTRAINT operator_actions_action CHECK (action IN (
        'force_redis', 'force_postgres', 'automatic', 'read_only', 'drain', 'resume', 'detach',
        'create_api_key', 'revoke_api_key')),
    -- What was acted on, where that is not the ledger as a whole.
    ADD COLUMN subject text;

-- Who may call. The secret itself is nowhere: `secret_sha256` is of 256 random bits.
CREATE TABLE api_keys (
    key_id        text        NOT NULL CONSTRAINT api_keys_pkey PRIMARY KEY
                              CONSTRAINT api_keys_key_id CHECK (key_id ~ '^[0-9a-f]{12}$'),
    name          text        NOT NULL CONSTRAINT api_keys_name CHECK (length(name) BETWEEN 1 AND 100),
    scope         text        NOT NULL CONSTRAINT api_keys_scope CHECK (scope IN ('read', 'write', 'admin')),
    secret_sha256 bytea       NOT NULL CONSTRAINT api_keys_secret_sha256 CHECK (octet_length(secret_sha256) = 32),
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz CONSTRAINT api_keys_expires_at CHECK (expires_at > created_at),
    revoked_at    timestamptz
);
CREATE INDEX api_keys_live ON api_keys (created_at) WHERE revoked_at IS NULL;

-- A key is revoked, once; nothing else about it ever changes.
CREATE FUNCTION refuse_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.revoked_at IS NULL
       AND (NEW.key_id, NEW.name, NEW.scope, NEW.secret_sha256, NEW.created_at)
         = (OLD.key_id, OLD.name, OLD.scope, OLD.secret_sha256, OLD.created_at)
       AND NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on an API key refused: it can only be revoked, and once', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER only_revoked BEFORE UPDATE OR DELETE ON api_keys FOR EACH ROW EXECUTE FUNCTION refuse_key_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON api_keys EXECUTE FUNCTION refuse_change();

-- Tell every instance at once; one that misses it finds out by asking.
CREATE FUNCTION announce_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('api_keys', NEW.key_id);
    RETURN NULL;
END $$;
CREATE TRIGGER announce AFTER INSERT OR UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION announce_key();

-- Write down what an operator did to a key, in the caller's SQL transaction.
CREATE FUNCTION record_key_act_v1(p_shard smallint, p_action text, p_subject text, p_actor text, p_reason text)
RETURNS void LANGUAGE sql VOLATILE AS $$
    INSERT INTO operator_actions (action, actor, reason, database_role, epoch_before, epoch_after, acted_at, subject)
    SELECT p_action, p_actor, p_reason, session_user, s.epoch, s.epoch, clock_timestamp(), p_subject
      FROM ledger_shards s WHERE s.shard = p_shard
$$;

-- Make a key; returns whether there was room for another that works.
CREATE FUNCTION create_api_key_v1(
    p_shard smallint, p_key_id text, p_name text, p_scope text, p_secret_sha256 bytea, p_lifetime interval,
    p_live_max integer, p_actor text, p_reason text
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    -- Two who take the last place at once would both find it free.
    LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE;
    IF (SELECT count(*) FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > v_now)) >= p_live_max THEN
        RETURN false;
    END IF;
    INSERT INTO api_keys (key_id, name, scope, secret_sha256, created_at, expires_at)
    VALUES (p_key_id, p_name, p_scope, p_secret_sha256, v_now, v_now + p_lifetime);
    PERFORM record_key_act_v1(p_shard, 'create_api_key', format('%s %s (%s)', p_key_id, p_name, p_scope), p_actor, p_reason);
    RETURN true;
END $$;

-- Revoke a key; returns whether it worked until now.
CREATE FUNCTION revoke_api_key_v1(p_shard smallint, p_key_id text, p_actor text, p_reason text)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_key api_keys;
BEGIN
    UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_id = p_key_id AND revoked_at IS NULL RETURNING * INTO v_key;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM record_key_act_v1(p_shard, 'revoke_api_key', format('%s %s (%s)', p_key_id, v_key.name, v_key.scope), p_actor, p_reason);
    RETURN true;
END $$;
