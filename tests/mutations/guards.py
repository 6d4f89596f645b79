"""The guards that keep money safe, how each is switched off, and the tests that notice."""

from typing import NamedTuple

FENCE = "lua/include/fence.lua"
RELIABILITY = "sql/migrations/0002_ledger_reliability.sql"
LUA_MONEY = "tests/lua/test_money.py"
JOURNAL = "tests/sql/test_journal.py"
DECIDE = "tests/sql/test_decide.py"
REAPER = "tests/failure/test_reaper.py"
FALLBACK = "tests/failure/test_fallback.py"


class Guard(NamedTuple):
    """A guard: replacing `text` in `path` by `without` switches it off; `tests` must then fail."""

    name: str
    path: str
    text: str
    without: str
    tests: str


GUARDS = (
    Guard(
        "token",
        FENCE,
        "if redis.call('HGET', epoch_key, 'identity') ~= identity then return true end",
        "",
        LUA_MONEY,
    ),
    Guard(
        "redis_identity",
        FENCE,
        "return string.find(identity, run_id .. ' ' .. replication_id .. ' ', 1, true) ~= 1",
        "return false",
        LUA_MONEY,
    ),
    Guard(
        "master_only",
        FENCE,
        "if not string.find(replication, 'role:master', 1, true) then return true end",
        "",
        LUA_MONEY,
    ),
    Guard(
        "sending_numbers",
        FENCE,
        "return newest and tonumber(newest) >= tonumber(number)",
        "return false",
        LUA_MONEY,
    ),
    Guard(
        "journal_fence",
        RELIABILITY,
        "SELECT s.epoch = p_epoch AND s.redis_token = p_word AND s.mode = p_mode AND",
        "SELECT",
        JOURNAL,
    ),
    Guard(
        "fence_word",
        RELIABILITY,
        "s.epoch = p_epoch AND s.redis_token = p_word AND",
        "s.epoch = p_epoch AND",
        JOURNAL,
    ),
    Guard(
        "postgres_identity",
        RELIABILITY,
        "AND s.mode = p_mode AND s.postgres_identity = postgres_identity_v1()",
        "AND s.mode = p_mode",
        JOURNAL,
    ),
    Guard(
        "separate_statements",
        RELIABILITY,
        "    PERFORM enter_fence_v1(p_shard);\n"
        "    v_rules := epoch_rules_v1(p_shard, p_epoch, p_word, 'redis');\n",
        "    SELECT s.epoch = p_epoch AND s.redis_token = p_word AND s.mode = 'redis'\n"
        "           AND s.postgres_identity = postgres_identity_v1() INTO v_rules\n"
        "      FROM enter_fence_v1(p_shard) f, ledger_shards s WHERE s.shard = p_shard;\n",
        JOURNAL,
    ),
    Guard(
        "unique_id",
        RELIABILITY,
        "IF v_count = cardinality(p_key_items) THEN",
        "IF true THEN",
        JOURNAL,
    ),
    Guard(
        "tombstone",
        RELIABILITY,
        "    INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status,"
        " entry_count, created_at)\n"
        "    SELECT nextval('journal_batch_seq'), p_shard, s.epoch, s.mode, p_attempt_id, 'VOID',"
        " 0, clock_timestamp()\n"
        "      FROM ledger_shards s WHERE s.shard = p_shard\n"
        "    ON CONFLICT (attempt_id) DO NOTHING;\n"
        "    RETURN (SELECT status = 'VOID' FROM journal_batches WHERE attempt_id = p_attempt_id);",
        "    RETURN NOT EXISTS (SELECT FROM journal_batches WHERE attempt_id = p_attempt_id);",
        REAPER,
    ),
    Guard(
        "attempt_matching",
        "lua/confirm.lua",
        "if holder == attempt then",
        "if holder then",
        LUA_MONEY,
    ),
    Guard(
        "credit_wait",
        "lua/admit.lua",
        "    account.incoming = incoming\n",
        "    account.incoming, account.available = incoming, add(account.available, change)\n",
        LUA_MONEY,
    ),
    Guard(
        "loaded_set",
        "lua/load.lua",
        "redis.call('HSETNX', epoch_key, 'loaded:' .. key, '1') == 0",
        "false",
        LUA_MONEY,
    ),
    Guard(
        "no_client_retries",
        "app/infra/redis.py",
        "Retry(NoBackoff(), retries)",
        "Retry(NoBackoff(), retries + 3)",
        "tests/failure/test_lost_replies.py",
    ),
    Guard(
        "number_under_locks",
        RELIABILITY,
        "        PERFORM FROM accounts a WHERE a.account_no = ANY (p_account_nos)"
        " ORDER BY a.account_no FOR NO KEY UPDATE;\n",
        "",
        DECIDE,
    ),
    Guard(
        "refusal_record",
        RELIABILITY,
        "IF cardinality(v_left_out) = v_count AND NOT p_is_repeated THEN",
        "IF cardinality(v_left_out) = v_count THEN",
        DECIDE,
    ),
    Guard(
        "claim_before_deciding",
        RELIABILITY,
        "v_duplicates := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes,"
        " p_key_names);",
        "v_duplicates := '{}';",
        DECIDE,
    ),
    Guard(
        "release_on_void",
        "app/ledger/pipeline.py",
        "                await self._release(slot, ruling, attempt_id, admitted)\n"
        "                return [*again",
        "                return [*again",
        REAPER,
    ),
    Guard(
        "refusals_are_fenced",
        "app/ledger/pipeline.py",
        "self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode),",
        "asyncio.sleep(0, True),",
        FALLBACK,
    ),
    Guard(
        "untold_credits",
        "app/ledger/pipeline.py",
        "credited = await self._tell_of_untold(slot, ruling, refused) if rules else set()",
        "credited = set()",
        REAPER,
    ),
    Guard(
        "fence_held_by_verify",
        "app/ledger/compare.py",
        '            await connection.execute(VERIFY_QUERIES["hold_fence"], SHARD)\n',
        "",
        "tests/integration/test_verify.py",
    ),
    Guard(
        "reaper_list",
        "app/ledger/reaper.py",
        "attempt_id, outcomes, keys)",
        'attempt_id, outcomes, "whole")',
        REAPER,
    ),
    Guard(
        "compare_and_set",
        RELIABILITY,
        "WHERE shard = p_shard AND epoch = p_expected_epoch AND mode <> 'closed'",
        "WHERE shard = p_shard AND mode <> 'closed'",
        f"{JOURNAL} {FALLBACK}",
    ),
    Guard(
        "closed_is_closed",
        RELIABILITY,
        "WHERE shard = p_shard AND epoch = p_expected_epoch AND mode <> 'closed'",
        "WHERE shard = p_shard AND epoch = p_expected_epoch",
        JOURNAL,
    ),
    Guard(
        "numbers_go_ahead",
        RELIABILITY,
        "    PERFORM setval('process_numbers',\n",
        "    PERFORM length('process_numbers' ||\n",
        JOURNAL,
    ),
    Guard(
        "token_is_waited_for",
        "app/ledger/mode.py",
        "range(_TOKEN_POLLS_MAX if may_come else 1)",
        "range(1)",
        FALLBACK,
    ),
)
