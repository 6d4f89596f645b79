"""The names of Redis keys: all of a shard share one hash tag, all of an epoch carry its number."""

import re

PREFIX = "subbalance"


def epoch_key(shard: int, epoch: int) -> str:
    """The hash that is an epoch's token, its loaded accounts and its slots' newest calls."""
    return f"{PREFIX}:{{{shard}}}:epoch:{epoch}"


def account_key(shard: int, epoch: int, account_id: str) -> str:
    """The hash of one account in one epoch: its balances."""
    return f"{PREFIX}:{{{shard}}}:{epoch}:account:{account_id}"


def flight_key(shard: int, epoch: int) -> str:
    """The hash of an epoch's attempts in flight, each with a record of what it reserved."""
    return f"{PREFIX}:{{{shard}}}:{epoch}:flight"


def account_id_of(key: str) -> str:
    """Read an account's id out of its key."""
    return key.partition(":account:")[2]


def probe_key(shard: int) -> str:
    """A key that is written to see whether Redis takes writes; it holds no money."""
    return f"{PREFIX}:{{{shard}}}:probe"


_EPOCH = re.compile(rf"{PREFIX}:\{{\d+\}}:(?:epoch:)?(\d+)(?::|$)")


def epoch_of(key: str) -> int | None:
    """Read the epoch a key belongs to out of its name; None for a key of no epoch."""
    match = _EPOCH.match(key)
    return int(match[1]) if match else None
