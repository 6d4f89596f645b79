"""What the scripts do in Redis, each at one instant: open, load, admit, confirm."""

from tests.protocol.world import Account, Copy, Entry, Keys, Redis, Reservation, Ruling, World


def keys_for(world: World, redis: Redis, ruling: Ruling) -> Keys | None:
    """Find the keys of an epoch, or None where a script told this ruling is fenced."""
    guards = world.guards
    if guards.redis_identity and redis.run != ruling.run:
        return None
    if guards.replication_id and redis.replication != ruling.replication:
        return None
    for keys in redis.keys:
        if keys.token.epoch == ruling.epoch:
            return keys if keys.token == ruling or not guards.token else None
    return None if guards.token else Keys(ruling)


def execute(world: World, redis: Redis, call: Copy, outstanding: int) -> tuple[str, Redis]:
    """Run a call; returns its word and Redis afterwards.

    A call with number 0 is newer than all copies on their way, the newest of which is
    `outstanding`.
    """
    if call.script == "open":
        return _open(redis, call.ruling)
    keys = keys_for(world, redis, call.ruling)
    if keys is None:
        return "fenced", redis
    if call.script == "load":
        word, keys = _load(world, keys, call.value)
        return word, _put(redis, keys)
    newest = dict(keys.newest).get(call.slot, 0)
    if world.guards.sending_numbers and call.number and newest >= call.number:
        return "stale", redis
    word, keys = (_admit if call.script == "admit" else _confirm)(world, keys, call)
    if word == "vanished":
        return word, redis
    number = max(newest, call.number or outstanding)
    if number != newest:
        keys = keys._replace(newest=tuple(sorted({**dict(keys.newest), call.slot: number}.items())))
    return word, _put(redis, keys)


def _put(redis: Redis, keys: Keys) -> Redis:
    epoch, kept = keys.token.epoch, redis.keys
    for position, other in enumerate(kept):
        if other is keys:
            return redis
        if other.token.epoch >= epoch:
            rest = kept[position + (other.token.epoch == epoch) :]
            return redis._replace(keys=(*kept[:position], keys, *rest))
    return redis._replace(keys=(*kept, keys))


def _open(redis: Redis, ruling: Ruling) -> tuple[str, Redis]:
    """Write the token unless the epoch has one."""
    for keys in redis.keys:
        if keys.token.epoch == ruling.epoch:
            return ("done" if keys.token == ruling else "fenced"), redis
    return "done", _put(redis, Keys(ruling))


def _load(world: World, keys: Keys, available: int) -> tuple[str, Keys]:
    if keys.account is not None and world.guards.first_load:
        return "present", keys
    if keys.account is None and keys.is_loaded and world.guards.loaded_set:
        return "vanished", keys
    return "loaded", keys._replace(is_loaded=True, account=Account(available))


def _admit(world: World, keys: Keys, call: Copy) -> tuple[str, Keys]:
    account, entry = keys.account, call.entry
    assert entry is not None
    if account is None:
        gone = keys.is_loaded and world.guards.loaded_set
        return ("vanished" if gone else "unloaded"), keys
    for reservation in account.held:
        if reservation.entry[0] == entry[0]:
            return ("admitted" if reservation.entry == entry else "in_flight"), keys
    if call.change < 0 and account.available + call.change < 0:
        return "insufficient", keys
    counted = call.change if call.change < 0 or not world.guards.credit_wait else 0
    held = account.held | {Reservation(entry, call.change)}
    return "admitted", keys._replace(account=Account(account.available + counted, held))


def _confirm(world: World, keys: Keys, call: Copy) -> tuple[str, Keys]:
    account, entry = keys.account, call.entry
    assert entry is not None
    if account is None:
        return "done", keys
    if call.script == "adjust":
        return "done", keys._replace(account=Account(account.available + call.change, account.held))
    available, mine = account.available, _matching(world, account, entry)
    for reservation in mine:
        change = reservation.change
        if call.value == "journaled" and change > 0 and world.guards.credit_wait:
            available += change
        elif call.value == "released" and (change < 0 or not world.guards.credit_wait):
            available -= change
    return "done", keys._replace(account=Account(available, account.held - mine))


def _matching(world: World, account: Account, entry: Entry) -> frozenset[Reservation]:
    if not world.guards.attempt:
        return frozenset(one for one in account.held if one.entry[0] == entry[0])
    return frozenset(one for one in account.held if one.entry == entry)
