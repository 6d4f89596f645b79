"""Forgetting what can make no difference any more, so that equal futures are one state."""

from typing import Any

from tests.protocol import database
from tests.protocol.world import Attempt, Copy, Keys, Postgres, Redis, State, World


def reduced(world: World, state: State) -> State:
    """The same state without leftovers of epochs that are over and of faults that are used up."""
    changes: dict[str, Any] = {}
    may_fail = state.faults < world.scenario.faults_max
    may_go_back = may_fail and "restore" in world.hazards and not state.postgres.timeline
    if not may_go_back:
        if state.backup is not None:
            changes["backup"] = None
        if state.network:
            network = frozenset(copy for copy in state.network if not _is_pointless(state, copy))
            if len(network) != len(state.network):
                changes["network"] = network
    reaping = state.reaping
    if reaping is not None and not database.rules(
        world, state.postgres, reaping.shard, reaping.ruling
    ):
        changes["reaping"] = None
    if state.postgres.voids:
        postgres = _without_old_voids(state)
        if postgres is not state.postgres:
            changes["postgres"] = postgres
    for shard in world.shards:
        redis = _without_old_keys(state, shard, keep_keys=may_go_back, keep_image=may_fail)
        if redis is not state.redis[shard]:
            servers = changes.get("redis", state.redis)
            changes["redis"] = (*servers[:shard], redis, *servers[shard + 1 :])
    return state._replace(**changes) if changes else state


def _is_pointless(state: State, copy: object) -> bool:
    """Tell whether a token on its way is that of an epoch that is over."""
    return (
        isinstance(copy, Copy)
        and copy.script == "open"
        and copy.ruling != state.postgres.rulings[copy.shard]
    )


def _without_old_voids(state: State) -> Postgres:
    """Keep the tombstones of attempts that somebody may yet journal."""
    needed: set[Attempt] = {task.attempt for task in state.tasks if task.phase != "done"}
    needed.update(copy.attempt for copy in state.network if not isinstance(copy, Copy))
    voids = state.postgres.voids
    return state.postgres if voids <= needed else state.postgres._replace(voids=voids & needed)


def _without_old_keys(state: State, shard: int, *, keep_keys: bool, keep_image: bool) -> Redis:
    """Drop the keys of epochs that nobody can act in, and an image that cannot come back."""
    redis = state.redis[shard]
    if redis.image is not None and not keep_image:
        redis = redis._replace(image=None)
    current = state.postgres.rulings[shard].epoch
    if keep_keys or not (_has_old(redis.keys, current) or _has_old(redis.image or (), current)):
        return redis
    epochs = _epochs_in_use(state, shard, current)
    keys = _needed(redis.keys, epochs, current)
    image = None if redis.image is None else _needed(redis.image, epochs, current)
    if keys is redis.keys and image is redis.image:
        return redis
    return redis._replace(keys=keys, image=image)


def _has_old(kept: tuple[Keys, ...], current: int) -> bool:
    return bool(kept) and kept[0].token.epoch < current


def _needed(kept: tuple[Keys, ...], epochs: set[int], current: int) -> tuple[Keys, ...]:
    for keys in kept:
        if keys.token.epoch < current and keys.token.epoch not in epochs:
            break
    else:
        return kept
    return tuple(keys for keys in kept if keys.token.epoch >= current or keys.token.epoch in epochs)


def _epochs_in_use(state: State, shard: int, current: int) -> set[int]:
    """Epochs of a shard that somebody may still act in."""
    epochs = {current}
    for task in state.tasks:
        epochs.update(ruling.epoch for ruling in task.rulings)
    for copy in state.network:
        if isinstance(copy, Copy) and copy.script != "open" and copy.shard == shard:
            epochs.add(copy.ruling.epoch)
    return epochs
