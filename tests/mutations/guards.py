"""The guards that keep money safe, how each is switched off, and the tests that notice."""

from tests.mutations.account_guards import ACCOUNT_GUARDS
from tests.mutations.condition_guards import CONDITION_GUARDS
from tests.mutations.group_guards import GROUP_GUARDS
from tests.mutations.guard import (
    BATCHES,
    CONDITIONS,
    DECIDE,
    DECISION,
    FENCE,
    JOURNAL,
    LATE_COPIES,
    LOST_REPLIES,
    LUA_MONEY,
    REAPER,
    RELIABILITY,
    SWITCHES,
    TELLING,
    TWINS,
    Guard,
)
from tests.mutations.hold_guards import HOLD_GUARDS
from tests.mutations.part_guards import PART_GUARDS

__all__ = ["FENCE", "GUARDS", "Guard"]

GUARDS: tuple[Guard, ...] = (
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
        CONDITIONS,
        "    PERFORM enter_fence_v1(p_shard);\n"
        "    IF epoch_rules_v1(p_shard, p_epoch, p_word, 'redis') THEN\n",
        "    IF (SELECT s.epoch = p_epoch AND s.redis_token = p_word AND s.mode = 'redis'\n"
        "               AND s.postgres_identity = postgres_identity_v1()\n"
        "          FROM enter_fence_v1(p_shard) f, ledger_shards s WHERE s.shard = p_shard) THEN\n",
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
        "used_keys_are_claimed_one_by_one",
        BATCHES,
        "    RETURN claim_keys_v1(p_batch_seq, p_account_nos, p_key_items, p_key_scopes,"
        " p_key_names);\nEND $$;",
        "    RETURN '{}';\nEND $$;",
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
        "told_again",
        "lua/admit.lua",
        "if record then\n",
        "if false then\n",
        LOST_REPLIES,
    ),
    Guard(
        "record_acts_once",
        "lua/confirm.lua",
        "redis.call('HDEL', flight_key, attempt)\n",
        "redis.call('HDEL', flight_key, attempt)\n"
        "local old = 'old:' .. attempt\n"
        "if record then redis.call('HSET', epoch_key, old, record) end\n"
        "record = record or redis.call('HGET', epoch_key, old)\n"
        "refused_json, keys_text, items_text ="
        " string.match(record or '', '^([^\\n]*)\\n([^\\n]*)\\n([^\\n]*)')\n",
        LOST_REPLIES,
    ),
    Guard(
        "accounts_of_the_record",
        "lua/confirm.lua",
        "keys_text ~= table.concat(KEYS, ' ', 3)",
        "false",
        REAPER,
    ),
    Guard(
        "numbers_of_nothing_reserved",
        "lua/admit.lua",
        "redis.call('HSET', epoch_key, 'slot:' .. slot, number)\nredis.call('HDEL'",
        "if #writes > 0 then redis.call('HSET', epoch_key, 'slot:' .. slot, number) end\n"
        "redis.call('HDEL'",
        LATE_COPIES,
    ),
    Guard(
        "numbers_of_accounts_not_loaded",
        "lua/admit.lua",
        "redis.call('HSET', epoch_key, 'slot:' .. slot, number)\nredis.call('HDEL'",
        "if #unloaded == 0 then redis.call('HSET', epoch_key, 'slot:' .. slot, number) end\n"
        "redis.call('HDEL'",
        LATE_COPIES,
    ),
    Guard(
        "numbers_of_what_is_told_again",
        "lua/admit.lua",
        "if record then\n  redis.call('HSET', epoch_key, 'slot:' .. slot, number)\n",
        "if record then\n",
        LATE_COPIES,
    ),
    Guard(
        "names_in_flight",
        "app/ledger/refusals.py",
        "any(identity.text in others for identity in item.identities)",
        "False",
        TWINS,
    ),
    Guard(
        "names_at_once",
        "lua/admit.lua",
        "return {'done', refused[1], refused[2], refused[3], refused[4]}",
        "return {'done', refused[1], refused[2], refused[3], #refused[1] > 0 and"
        " names_of_others(flight_key, ARGV[7], ARGV[8]) or {}}",
        TWINS,
    ),
    Guard(
        "repetitions_tell_of_credits",
        "app/ledger/pipeline.py",
        "            found = await self._find(duplicates)\n"
        "            await self._tell_of_credits(slot, ruling, duplicates, found)\n",
        "            found = await self._find(duplicates)\n",
        TWINS,
    ),
    Guard(
        "credit_wait",
        DECISION,
        "return false, high, low, sum_high, sum_low",
        "local more_high, more_low = add(high, low, change_high, change_low)\n"
        "  return false, more_high, more_low, sum_high, sum_low",
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
        CONDITIONS,
        "        PERFORM FROM accounts a WHERE a.account_no = ANY (p_account_nos)"
        " ORDER BY a.account_no FOR NO KEY UPDATE;\n",
        "",
        DECIDE,
    ),
    Guard(
        "refusal_record",
        CONDITIONS,
        "p_key_scopes, p_key_names, p_is_repeated);",
        "p_key_scopes, p_key_names, false);",
        DECIDE,
    ),
    Guard(
        "claim_before_deciding",
        CONDITIONS,
        "v_duplicates := claim_keys_v1(accepted_seq, p_account_nos, p_key_items, p_key_scopes,"
        " p_key_names);",
        "v_duplicates := '{}';",
        DECIDE,
    ),
    Guard(
        "release_on_void",
        "app/ledger/pipeline.py",
        "                await self.release(slot, ruling, attempt)\n                return [*again",
        "                return [*again",
        REAPER,
    ),
    Guard(
        "refusals_are_fenced",
        "app/ledger/refusals.py",
        "self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode),",
        "asyncio.sleep(0, True),",
        SWITCHES,
    ),
    Guard(
        "untold_credits",
        "app/ledger/refusals.py",
        "credited = await self.credited(slot, ruling, short) if rules else set()",
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
        "compare_and_set",
        RELIABILITY,
        "WHERE shard = p_shard AND epoch = p_expected_epoch AND mode <> 'closed'",
        "WHERE shard = p_shard AND mode <> 'closed'",
        f"{JOURNAL} {SWITCHES}",
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
        SWITCHES,
    ),
    Guard(
        "older_versions_decide_no_more",
        "app/ledger/mode.py",
        'self._is_outdated = state["protocol_version"] > PROTOCOL_VERSION',
        "self._is_outdated = False",
        SWITCHES,
    ),
    Guard(
        "epochs_of_older_versions_end_before_anything_is_decided",
        "app/ledger/mode.py",
        'await self._next(state, "") if _is_older(state) else _ruling(state)',
        "_ruling(state)",
        SWITCHES,
    ),
    Guard(
        "epochs_of_older_versions_are_left_alone",
        "app/ledger/mode.py",
        "recorded.token and not _is_older(state)",
        "recorded.token",
        SWITCHES,
    ),
    Guard(
        "debits_are_told_when_nothing_follows",
        "app/ledger/batcher.py",
        "            self._let_finish()\n",
        "",
        TELLING,
    ),
    Guard(
        "credits_are_told_before_their_answer",
        "app/ledger/admission.py",
        "is_credited = any(item.is_credit for item, _ in outcomes)",
        "is_credited = False",
        TELLING,
    ),
    Guard(
        "released_is_told_at_once",
        "app/ledger/admission.py",
        "if released or is_credited or",
        "if is_credited or",
        f"{TWINS} {LOST_REPLIES} tests/failure/test_reservations.py",
    ),
    Guard(
        "refused_names_are_in_flight_no_more",
        "app/ledger/admission.py",
        "slot.journaled or not attempt.is_whole:",
        "slot.journaled:",
        TELLING,
    ),
    Guard(
        "transfers_of_known_accounts_need_a_key_too",
        "app/ledger/service.py",
        "self._require_name(requests, idempotency_key)\n        postgres = self._accounts.curr",
        "postgres = self._accounts.curr",
        "tests/api/test_transfers.py",
    ),
    Guard(
        "transfers_of_known_accounts_have_one_currency",
        "app/ledger/service.py",
        "check_transfers(requests, known)",
        "",
        "tests/api/test_ways.py",
    ),
    Guard(
        "whole_requests_have_their_end",
        "app/api/whole_requests.py",
        "if end < first:",
        "end = end if end > 0 else len(data)\n    if len(data) < first:",
        "tests/unit/test_whole_requests.py",
    ),
    Guard(
        "told_only_when_heard",
        "app/ledger/admission.py",
        "if call_word in (Script.DONE, Script.UNLOADED):",
        "if call_word:",
        "tests/failure/test_reservations.py",
    ),
    *PART_GUARDS,
    *ACCOUNT_GUARDS,
    *GROUP_GUARDS,
    *HOLD_GUARDS,
    *CONDITION_GUARDS,
)
