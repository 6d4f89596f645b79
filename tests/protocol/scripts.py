"""What the scripts do in Redis, each at one instant: open, load, admit, confirm."""

from tests.protocol.world import Copy, Entry, Keys, Record, Redis, Ruling, World


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
    word, after = (_admit if call.script == "admit" else _confirm)(world, keys, call)
    if word == "vanished":
        return word, redis
    number = max(newest, call.number or outstanding)
    if number != newest and _counts(world, keys, call, word):
        newer = {**dict(after.newest), call.slot: number}
        after = after._replace(newest=tuple(sorted(newer.items())))
    return word, _put(redis, after)


def _counts(world: World, before: Keys, call: Copy, word: str) -> bool:
    """Tell whether a sending that was carried out makes the ones before it stale."""
    if word in ("insufficient", "unloaded"):
        return world.guards.refused_numbers
    is_told_again = call.script == "admit" and _recorded(before, call.entry) is not None
    return world.guards.told_numbers or not is_told_again


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
    if keys.available is not None and world.guards.first_load:
        return "present", keys
    if keys.available is None and keys.is_loaded and world.guards.loaded_set:
        return "vanished", keys
    return "loaded", keys._replace(is_loaded=True, available=available)


def _recorded(keys: Keys, entry: Entry | None) -> Record | None:
    """The record of an attempt."""
    return next((record for record in keys.flight if record.entry == entry), None)


def _admit(world: World, keys: Keys, call: Copy) -> tuple[str, Keys]:
    """Another attempt of the same identity reserves as well: the journal lets one through."""
    available, entry = keys.available, call.entry
    assert entry is not None
    if world.guards.told_again and _recorded(keys, entry) is not None:
        return "admitted", keys
    if available is None:
        gone = keys.is_loaded and world.guards.loaded_set
        return ("vanished" if gone else "unloaded"), keys
    if call.change < 0 and available + call.change < 0:
        return "insufficient", keys
    counted = call.change if call.change < 0 or not world.guards.credit_wait else 0
    flight = keys.flight | {Record(entry, call.change)}
    return "admitted", keys._replace(available=available + counted, flight=flight)


def _confirm(world: World, keys: Keys, call: Copy) -> tuple[str, Keys]:
    available, entry = keys.available, call.entry
    assert entry is not None
    if call.script == "adjust":
        adjusted = None if available is None else available + call.change
        return "done", keys._replace(available=adjusted)
    mine = _matching(world, keys, entry)
    if not mine and not world.guards.record:
        mine = frozenset({Record(entry, call.change)})
    keys = keys._replace(flight=keys.flight - mine)
    if available is None:
        return "done", keys
    for record in mine:
        change = record.change
        if call.value == "journaled" and change > 0 and world.guards.credit_wait:
            available += change
        elif call.value == "released" and (change < 0 or not world.guards.credit_wait):
            available -= change
    return "done", keys._replace(available=available)


def _matching(world: World, keys: Keys, entry: Entry) -> frozenset[Record]:
    if not world.guards.attempt:
        return frozenset(one for one in keys.flight if one.entry[0] == entry[0])
    return frozenset(one for one in keys.flight if one.entry == entry)
