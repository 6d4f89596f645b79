"""Ways to lay out the journal that could follow by a forward migration, to be compared."""

from typing import NamedTuple

_NO_INDEXES = """
ALTER TABLE journal_entries DROP CONSTRAINT IF EXISTS journal_entries_pkey;
DROP INDEX IF EXISTS journal_entries_batch;
"""
_BY_ACCOUNT = "CREATE INDEX ON journal_entries (account_no, batch_seq);"
_BY_BATCH = "CREATE INDEX ON journal_entries (batch_seq);"
_BY_BATCH_BRIN = (
    "CREATE INDEX ON journal_entries USING brin (batch_seq) WITH (pages_per_range = 16);"
)
_KEY_BY_BATCH = "ALTER TABLE journal_entries ADD PRIMARY KEY (batch_seq, item_no, created_at);"
_CLAIM = """
CREATE OR REPLACE FUNCTION claim_keys_v1(
    p_batch_seq bigint, p_account_nos bigint[],
    p_key_items integer[], p_key_scopes integer[], p_key_names text[]
) RETURNS integer[] LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    {insert};
    RETURN '{{}}';
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'a key was used before, and this candidate has no way for that';
END $$;
"""
_KEYS = "unnest(p_key_items, p_key_scopes, p_key_names) AS k (item, scope, name)"
_PLAIN = _CLAIM.format(
    insert=f"""
    INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
    SELECT k.scope, k.name, p_account_nos[k.item + 1], p_batch_seq, k.item FROM {_KEYS}
     ORDER BY k.scope, k.name COLLATE "C\""""
)
_SHORT = """
CREATE TABLE used_keys (
    key uuid PRIMARY KEY, batch_seq bigint NOT NULL, item_no smallint NOT NULL
);
INSERT INTO used_keys SELECT name::uuid, batch_seq, item_no FROM idempotency_keys;
""" + _CLAIM.format(
    insert=f"""
    INSERT INTO used_keys (key, batch_seq, item_no)
    SELECT k.name::uuid, p_batch_seq, k.item FROM {_KEYS} ORDER BY 1"""
)


class Candidate(NamedTuple):
    """A layout: what it is called, and the SQL that makes it out of the schema as it is."""

    name: str
    sql: str
    keys: tuple[str, ...]


ENTRIES = [
    Candidate("as it is", "", ("one",)),
    Candidate(
        "index by account (account_no, batch_seq), index by batch",
        _NO_INDEXES + _BY_ACCOUNT + _BY_BATCH,
        ("one",),
    ),
    Candidate(
        "key (batch_seq, item_no, created_at), index by account",
        _NO_INDEXES + _KEY_BY_BATCH + _BY_ACCOUNT,
        ("one",),
    ),
    Candidate(
        "index by account, BRIN by batch", _NO_INDEXES + _BY_ACCOUNT + _BY_BATCH_BRIN, ("one",)
    ),
    Candidate(
        "key (batch_seq, item_no, created_at), none by account",
        _NO_INDEXES + _KEY_BY_BATCH,
        ("one",),
    ),
    Candidate("no index at all (bound)", _NO_INDEXES, ("one",)),
]
KEYS = [
    Candidate("keys as they are", "", ("time", "random")),
    Candidate("keys by plain INSERT", _PLAIN, ("time", "random")),
    Candidate("keys of 16 bytes, plain INSERT", _SHORT, ("time", "random")),
]
