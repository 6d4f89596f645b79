"""The names of Redis keys: all of a shard share one hash tag, all of an epoch carry its number."""

PREFIX = "subbalance"


def epoch_key(shard: int, epoch: int) -> str:
    """The hash that is an epoch's token, its loaded accounts and its slots' newest calls."""
    return f"{PREFIX}:{{{shard}}}:epoch:{epoch}"


def account_key(shard: int, epoch: int, account_id: str) -> str:
    """The hash of one account in one epoch: balances and in-flight reservations."""
    return f"{PREFIX}:{{{shard}}}:{epoch}:account:{account_id}"
