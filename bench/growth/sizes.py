"""What an account takes in Redis, and a transaction in PostgreSQL: its rows, indexes and WAL."""

from bench.growth.curve import Point, Report
from bench.growth.loading import load_all
from bench.growth.stand import Options, Stand, open_stand
from bench.growth.traffic import account, check, drive, mark, open_accounts

ACCOUNTS = 100_000
_RELATIONS = """
SELECT coalesce(p.inhparent, c.oid)::regclass::text AS name,
       sum(pg_table_size(c.oid)) AS heap, sum(pg_indexes_size(c.oid)) AS indexes
  FROM pg_class c LEFT JOIN pg_inherits p ON p.inhrelid = c.oid
 WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY 1
"""


def sizes(options: Options) -> Report:
    """Fill Redis with accounts, then drive with and without keys, and divide."""
    points = []
    with open_stand(options) as stand:
        open_accounts(stand, ACCOUNTS)
        with stand.serving() as (api,), options.turns:
            before = stand.used_redis_bytes()
            load_all(stand, ACCOUNTS)
            used = (stand.used_redis_bytes() - before) / ACCOUNTS
            figures = {"used_memory": used, "MEMORY USAGE": _usage(stand)}
            points.append(Point("Redis bytes an account", "fresh", 0, figures))
            for keys in ("time", "none"):
                drive(stand, [api], ACCOUNTS, 1, keys)
                stand.rest()
                sized, at = _sizes(stand), mark(stand)
                run = drive(stand, [api], ACCOUNTS, options.seconds, keys)
                check(stand, at, run.figures, api.url, ACCOUNTS)
                after = _sizes(stand)
                rows = run.figures.accepted
                grown = {name: (after[name] - sized.get(name, 0)) / rows for name in after}
                kept = {name: value for name, value in grown.items() if value >= 0.5}
                kept["WAL, settlement not counted in full"] = run.wal_bytes
                step = "a key a request" if keys == "time" else "no keys"
                points.append(Point("PostgreSQL bytes a transaction", step, 0, kept))
            used = (stand.used_redis_bytes() - before) / ACCOUNTS
            points.append(
                Point("Redis bytes an account", "after traffic", 0, {"used_memory": used})
            )
    return Report("sizes", "Sizes", {"accounts": f"{ACCOUNTS:,}"}, points, ("used_memory",))


def _usage(stand: Stand) -> float:
    epoch = stand.ask("SELECT epoch FROM ledger_shards")
    keys = [f"subbalance:{{0}}:{epoch}:account:{account(number)}" for number in range(0, 1000, 10)]
    return sum(stand.redis.memory_usage(key) or 0 for key in keys) / len(keys)


def _sizes(stand: Stand) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in stand.rows(_RELATIONS):
        found[f"{row['name']} heap"] = float(row["heap"])
        found[f"{row['name']} indexes"] = float(row["indexes"])
    return found
