-- Events: where each consumer of them stands, who wants them by HTTP, and what could not be delivered.
--
-- Why: every change of the ledger is told to others. The journal is the outbox: what is told is read out of the
-- rows that the change itself wrote, in its own SQL transaction, so nothing is told that was not done and nothing
-- that was done can be missed. Locks: SHARE on journal_batches while its index is built, waited for at most two
-- seconds; the journal waits meanwhile, for as long as it takes to sort the batches. Safe while old code runs: yes.

-- Events in the order in which they are told: what was accepted by the time it was journaled. One row a batch.
SET LOCAL lock_timeout = '2s';
CREATE INDEX journal_batches_time ON journal_batches (created_at, batch_seq);

-- Everything before this place was told to the sink: a time; what happened then, 0 acceptance or 1 settlement;
-- the batch; and the step in it, four for each item. It goes on only from the generation that its reader read.
-- told_count counts what was told twice twice.
CREATE TABLE event_cursors (
    sink       text        PRIMARY KEY,
    at         timestamptz NOT NULL,
    kind       smallint    NOT NULL DEFAULT 0 CONSTRAINT event_cursors_kind CHECK (kind IN (0, 1)),
    batch_seq  bigint      NOT NULL DEFAULT 0,
    step       integer     NOT NULL DEFAULT 0,
    generation bigint      NOT NULL DEFAULT 1,
    mark       text,
    told_count bigint      NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A ledger that has a history begins to tell at this migration, a new one at its beginning.
INSERT INTO event_cursors (sink, at, updated_at)
SELECT sink, CASE WHEN EXISTS (SELECT FROM journal_batches) THEN now() ELSE 'epoch' END, now()
  FROM unnest(ARRAY['redis', 'nats']) AS sink;

CREATE TABLE webhooks (
    webhook_no bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id uuid        NOT NULL CONSTRAINT webhooks_webhook_id UNIQUE,
    url        text        NOT NULL,
    secret     text        NOT NULL,
    types      text[],
    account_id text,
    status     text        NOT NULL DEFAULT 'enabled' CONSTRAINT webhooks_status CHECK (status IN ('enabled', 'disabled')),
    reason     text,
    version    bigint      NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- The latest deliveries of each webhook, and the dead letters: events that were given up.
CREATE TABLE webhook_deliveries (
    delivery_no bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_no  bigint      NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    status      text        NOT NULL CONSTRAINT webhook_deliveries_status CHECK (status IN ('delivered', 'dead')),
    event_id    text        NOT NULL,
    event_type  text        NOT NULL,
    account_id  text        NOT NULL,
    sequence    text        NOT NULL,
    tries       integer     NOT NULL,
    http_status integer,
    detail      text,
    ended_at    timestamptz NOT NULL
);

CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_no, status, delivery_no);

-- A time before which nothing can happen any more that is not visible yet: every acceptance and settlement of
-- before is seen by statements that begin after this one. As journal_watermark_v1, and for settlements alike:
-- a settler takes its time while it has its lock, and is visible before it gives it back.
CREATE FUNCTION event_watermark_v1(p_shard smallint) RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_accepted timestamptz := journal_watermark_v1(p_shard);
    v_settling timestamptz;
    v_hidden   boolean;
BEGIN
    SELECT min(a.xact_start), bool_or(a.query = '<insufficient privilege>' OR a.state = 'disabled') INTO v_settling, v_hidden
      FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.classid = (fence_class_v1() + 1)::oid AND l.objid = 0::oid
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
    IF v_hidden THEN
        RAISE EXCEPTION 'who settles is hidden from role %: grant it pg_read_all_stats, and leave track_activities on', current_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN least(v_accepted, v_settling);
END $$;

-- Keep a webhook, for which is what happens from now on, unless there are as many as may be.
CREATE FUNCTION add_webhook_v1(
    p_webhook_id uuid, p_url text, p_secret text, p_types text[], p_account_id text, p_webhooks_max integer
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz;
BEGIN
    LOCK TABLE webhooks IN SHARE ROW EXCLUSIVE MODE;
    -- A later statement, so that its snapshot has everything the lock was waited for.
    IF (SELECT count(*) FROM webhooks) >= p_webhooks_max THEN
        RETURN false;
    END IF;
    v_now := clock_timestamp();
    INSERT INTO webhooks (webhook_id, url, secret, types, account_id, created_at, updated_at)
    VALUES (p_webhook_id, p_url, p_secret, p_types, p_account_id, v_now, v_now);
    INSERT INTO event_cursors (sink, at, updated_at) VALUES ('webhook:' || p_webhook_id, v_now, v_now);
    RETURN true;
END $$;
