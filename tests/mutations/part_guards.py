"""The guards of parts: all or none of a batch, and one key that remembers what was answered."""

from tests.mutations.guard import (
    BATCHES,
    BULK,
    CONDITIONS,
    LUA_MONEY,
    REAPER,
    SQL_PARTS,
    SWITCHES,
    TRANSFERS,
    TWINS,
    Guard,
)

PART_GUARDS = (
    Guard(
        "names_of_parts_in_flight",
        "app/ledger/part.py",
        "any(identity.text in names for identity in self.identities)",
        "False",
        TWINS,
    ),
    Guard(
        "parts_in_flight_are_not_refused_in_part",
        "app/ledger/part_pipeline.py",
        "if refused and admitted and part.is_among(admittance.others):",
        "if False:",
        TWINS,
    ),
    Guard(
        "refusal_record_of_a_part",
        CONDITIONS,
        "p_key_scopes, p_key_names, p_is_repeated);",
        "p_key_scopes, p_key_names, false);",
        SQL_PARTS,
    ),
    Guard(
        "part_key_before_journal",
        CONDITIONS,
        "    IF NOT claim_request_v1(accepted_seq, p_request_scope, p_request_key,"
        " p_request_name, p_request_digest) THEN\n"
        "        outcome := 'duplicate';\n    ELSE\n",
        "    IF false THEN\n        outcome := 'duplicate';\n    ELSE\n",
        SQL_PARTS,
    ),
    Guard(
        "part_key_before_deciding",
        CONDITIONS,
        "    IF NOT claim_request_v1(accepted_seq, p_request_scope, p_request_key,"
        " p_request_name, p_request_digest) THEN\n"
        "        PERFORM undo_batch_v1(",
        "    IF false THEN\n        PERFORM undo_batch_v1(",
        SQL_PARTS,
    ),
    Guard(
        "duplicate_undoes",
        CONDITIONS,
        "    IF outcome = 'duplicate' THEN\n        PERFORM undo_batch_v1(accepted_seq,"
        " p_request_scope, p_request_key, p_request_name, p_key_scopes, p_key_names, false);\n",
        "    IF outcome = 'duplicate' THEN\n",
        SQL_PARTS,
    ),
    Guard(
        "duplicate_undoes_decision",
        CONDITIONS,
        "p_key_names, false);\n        outcome := 'duplicate';\n        RETURN;",
        "p_key_names, true);\n        outcome := 'duplicate';\n        RETURN;",
        SQL_PARTS,
    ),
    Guard(
        "undo_frees_keys",
        BATCHES,
        "WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = p_batch_seq;",
        "WHERE false;",
        SQL_PARTS,
    ),
    Guard(
        "undo_spares_keys_of_others",
        BATCHES,
        "WHERE i.scope = k.scope AND i.name = k.name AND i.batch_seq = p_batch_seq;",
        "WHERE i.scope = k.scope AND i.name = k.name;",
        SQL_PARTS,
    ),
    Guard(
        "atomic_journal",
        CONDITIONS,
        "CASE WHEN p_extent = 'all' AND duplicate_items <> '{}' THEN 'duplicate'",
        "CASE WHEN false THEN 'duplicate'",
        SQL_PARTS,
    ),
    Guard(
        "atomic_decision",
        CONDITIONS,
        "CASE WHEN p_extent = 'all' AND v_left_out <> '{}' THEN 'refused'",
        "CASE WHEN false THEN 'refused'",
        SQL_PARTS,
    ),
    Guard(
        "atomic_admission",
        "lua/admit.lua",
        "if extent == 'each' or #positions == 0 then",
        "if true then",
        LUA_MONEY,
    ),
    Guard(
        "refusals_in_the_same_commit",
        CONDITIONS,
        "cardinality(p_account_nos), p_changes_minor, p_request_digest, p_refusals::jsonb,",
        "cardinality(p_account_nos), p_changes_minor, p_request_digest, '[]'::jsonb,",
        SQL_PARTS,
    ),
    Guard(
        "decided_refusals_in_the_same_commit",
        CONDITIONS,
        "refusals = p_refusals::jsonb || (",
        "refusals = p_refusals::jsonb || NULLIF(p_refusals::jsonb, p_refusals::jsonb) || (",
        SQL_PARTS,
    ),
    Guard(
        "remembered_for_ever",
        TRANSFERS,
        "       AND (NEW.changes_minor, NEW.request_digest, NEW.refusals, NEW.transfer_nos,"
        " NEW.group_nos)\n           IS NOT DISTINCT FROM (OLD.changes_minor, OLD.request_digest,"
        " OLD.refusals, OLD.transfer_nos, OLD.group_nos) THEN\n",
        "       THEN\n",
        SQL_PARTS,
    ),
    Guard(
        "digest_at_the_claim",
        BATCHES,
        "AND k.item_no = -1 AND b.request_digest = p_digest) THEN",
        "AND k.item_no = -1) THEN",
        SQL_PARTS,
    ),
    Guard(
        "digest_is_compared",
        "app/ledger/part.py",
        "stored is None or stored.digest != self.digest",
        "stored is None",
        BULK,
    ),
    Guard(
        "refused_numbers_are_skipped",
        "app/ledger/part.py",
        "item_no += stored.mode is Mode.POSTGRES",
        "item_no += 1",
        SWITCHES,
    ),
    Guard(
        "release_of_a_part_not_journaled",
        "app/ledger/part_pipeline.py",
        "        await self._pipeline.release(slot, ruling, attempt)\n"
        "        return word is Journaled.DUPLICATE",
        "        return word is Journaled.DUPLICATE",
        REAPER,
    ),
    Guard(
        "refusals_of_parts_are_fenced",
        "app/ledger/part_pipeline.py",
        "rules = await self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode)",
        "rules = True",
        SWITCHES,
    ),
)
