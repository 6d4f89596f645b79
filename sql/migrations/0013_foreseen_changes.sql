-- A change of an account that is decided and taken back, in one statement.
--
-- Why: what a dry run of a change writes, and the locks it takes, are to be gone when its answer is sent, whatever
-- becomes of the process that asked. So the statement fails when it knows the outcome, and tells it in the error;
-- PostgreSQL writes that error into its log. Locks: none. Safe while old code runs: yes; it does not call this.

CREATE FUNCTION foresee_change_v1(
    p_shard smallint, p_epoch bigint, p_word text, p_mode text, p_attempt_id bigint, p_account_id text,
    p_config_versions bigint[], p_credit_limit_minor bigint, p_frozen text, p_metadata text, p_closed boolean,
    p_available_minor numeric, p_balance_max bigint
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_change record;
BEGIN
    SELECT c.outcome, c.balance_minor::text AS balance_minor, c.limit_minor INTO v_change
      FROM change_account_v1(p_shard, p_epoch, p_word, p_mode, p_attempt_id, p_account_id, p_config_versions,
                             p_credit_limit_minor, p_frozen, p_metadata, p_closed, p_available_minor, p_balance_max) AS c;
    RAISE EXCEPTION USING ERRCODE = 'SBUND', MESSAGE = 'foreseen and taken back',
          DETAIL = json_build_array(v_change.outcome, v_change.balance_minor, v_change.limit_minor)::text;
END $$;
