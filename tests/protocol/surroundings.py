"""What happens around the requests: faults, switches of the epoch, late copies, the reaper."""

from collections.abc import Iterator

from tests.protocol import database, scripts
from tests.protocol.sending import Step, outstanding, send, with_redis
from tests.protocol.world import Copy, Keys, Reaping, Redis, Ruling, State, Task, World


def surrounding_steps(world: World, state: State) -> Iterator[Step]:
    """Everything that may happen next without any request's doing."""
    yield from _openings(world, state)
    yield from arrivals(world, state)
    if world.scenario.has_reaper:
        yield from _reaping(world, state)
    if state.faults < world.scenario.faults_max:
        for shard in world.shards:
            yield from _redis_faults(world, state, shard)
        if "restore" in world.hazards and not state.postgres.timeline:
            yield from _restore(world, state)


def _redis_faults(world: World, state: State, shard: int) -> Iterator[Step]:
    """A new run has a new replication id; a promotion changes the replication id alone."""
    redis, hazards = state.redis[shard], world.hazards
    run, replication, image = redis.run + 1, redis.replication + 1, redis.image
    harmed = state._replace(faults=state.faults + 1)

    def fault(label: str, after: Redis) -> Step:
        return f"redis {shard}: {label}", with_redis(harmed, shard, after)

    if "restart" in hazards:
        yield fault("restarts empty", Redis(run, replication, (), image))
    if "flush" in hazards and redis.keys:
        yield fault("is flushed", redis._replace(keys=()))
    if "key" in hazards:
        for position, keys in enumerate(redis.keys):
            if keys.available is not None:
                kept = list(redis.keys)
                kept[position] = keys._replace(available=None)
                yield fault("loses the account's key", redis._replace(keys=tuple(kept)))
    if image is None and hazards & {"image", "failback"}:
        label = f"redis {shard}: its snapshot or replica is as it is now"
        yield label, with_redis(state, shard, redis._replace(image=redis.keys))
    if image is not None and "image" in hazards:
        old = Redis(run, replication, image, image)
        yield fault("comes back with an old snapshot", old)
    if image is not None and "failback" in hazards:
        old = Redis(redis.run, replication, image, image)
        yield fault("resyncs from a lagging replica and is promoted again", old)


def _openings(world: World, state: State) -> Iterator[Step]:
    """Anybody may open the next epoch at any time; the lock and the expected epoch order them."""
    if state.openings >= world.scenario.openings_max:
        return
    word = state.openings + 1 if world.guards.epoch_word else 0
    for shard in world.shards:
        current, redis = state.postgres.rulings[shard], state.redis[shard]
        epochs = [current.epoch + 1]
        if not world.guards.compare_and_set and current.epoch > 1:
            epochs.append(current.epoch)
        for epoch in epochs:
            if current.mode == "redis" and world.scenario.may_fall_back:
                yield _open(state, shard, Ruling("postgres", epoch, word=word))
            yield _open(state, shard, Ruling("redis", epoch, redis.run, redis.replication, word))


def _open(state: State, shard: int, ruling: Ruling) -> Step:
    """Record a ruling; the token of one for Redis is then on its way, once."""
    network = state.network
    if ruling.mode == "redis":
        network |= {Copy("open", shard, ruling)}
    postgres = database.opened(state.postgres, shard, ruling)
    after = state._replace(postgres=postgres, network=network, openings=state.openings + 1)
    return f"shard {shard}: {ruling.mode} {ruling.epoch} is opened", after


def arrivals(world: World, state: State) -> Iterator[Step]:
    """Copies that were delayed, and tokens, may arrive at any time or never."""
    for copy in sorted(state.network, key=repr) if len(state.network) > 1 else state.network:
        left = state._replace(network=state.network - {copy})
        if not isinstance(copy, Copy):
            outcome, postgres = database.journal(world, state.postgres, copy, state.postgres)
            identity = world.requests[copy.task].identity
            label = f"a late journal call of {identity}/{copy.task} arrives: {outcome}"
            yield label, left._replace(postgres=postgres)
            continue
        word, redis = scripts.execute(world, state.redis[copy.shard], copy, 0)
        label = f"redis {copy.shard}: a late {copy.script} arrives: {word}"
        if copy.script == "open":
            label = f"redis {copy.shard}: the token of epoch {copy.ruling.epoch} arrives: {word}"
        yield label, without_old_numbers(with_redis(left, copy.shard, redis), copy)
        if copy.script == "open" and not world.guards.redis_client_retries:
            again = with_redis(state, copy.shard, redis)
            yield f"{label}; the client sent it twice", again


def without_old_numbers(state: State, copy: Copy) -> State:
    """Forget the numbers of a slot that has no copy on its way any more."""
    if copy.number == 0:
        return state
    if outstanding(state, copy.shard, copy.slot):
        return state
    redis = state.redis[copy.shard]
    image = redis.image
    cleaned = redis._replace(
        keys=tuple(_without_slot(keys, copy.slot) for keys in redis.keys),
        image=None if image is None else tuple(_without_slot(keys, copy.slot) for keys in image),
    )
    return with_redis(state, copy.shard, cleaned)


def _without_slot(keys: Keys, slot: int) -> Keys:
    return keys._replace(newest=tuple(one for one in keys.newest if one[0] != slot))


def _reaping(world: World, state: State) -> Iterator[Step]:
    """Look up an attempt, however young; commit a tombstone if need be; then tell Redis."""
    reaping = state.reaping
    if reaping is not None:
        shard, ruling, (entry, change), word = reaping
        call = Copy("confirm", shard, ruling, entry=entry, change=change, value=word)

        def replied(reply: str, after: State) -> Iterator[Step]:
            label = f"reaper: tells that {entry} is {word}: {reply}"
            yield label, after._replace(reaping=None)

        yield from send(world, state, "reaper", call, replied, lambda after: after)
        return
    for shard in world.shards:
        ruling = state.postgres.rulings[shard]
        if ruling.mode != "redis" or not database.is_recorded(world, state.postgres, shard):
            continue
        keys = scripts.keys_for(world, state.redis[shard], ruling)
        if keys is None:
            continue
        for record in sorted(keys.flight):
            word, postgres = database.entomb(world, state.postgres, record.entry)
            found = Reaping(shard, ruling, record, word)
            label = f"reaper: finds that {record.entry} is {word}"
            yield label, state._replace(postgres=postgres, reaping=found)


def _restore(world: World, state: State) -> Iterator[Step]:
    """Fall back to what was committed earlier; whoever was told of later commits lost them."""
    if state.backup is None:
        label = "postgres: a standby lags, or a backup is taken"
        yield label, state._replace(backup=state.postgres)
        return
    survived = {identity for identity, _ in state.backup.journal}
    tasks = tuple(
        _bereft(task) if request.identity not in survived else task
        for task, request in zip(state.tasks, world.requests, strict=True)
    )
    after = state.backup._replace(timeline=1)
    yield (
        "postgres: is restored to that moment",
        state._replace(postgres=after, tasks=tasks, faults=state.faults + 1),
    )


def _bereft(task: Task) -> Task:
    """Mark a task that has learnt of a commit which is lost, whether or not it has answered."""
    if task.phase == "tell" and task.value[2] == "acknowledged":
        lost = "lost" if task.answer else ""
        return task._replace(answer=lost, value=(*task.value[:2], "lost"))
    return task._replace(answer="lost") if task.answer == "acknowledged" else task
