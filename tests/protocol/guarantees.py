"""What must be true in every state; the journal only grows, so every prefix of it is looked at."""

from tests.protocol import database, scripts
from tests.protocol.requests import is_usable
from tests.protocol.world import Account, State, World


def broken_guarantee(world: World, state: State) -> str | None:
    """Name the guarantee that a state breaks, or return None."""
    return _broken_in_postgres(world, state) or _broken_in_redis(world, state)


def _broken_in_postgres(world: World, state: State) -> str | None:
    journal = state.postgres.journal
    for shard in world.shards:
        if world.available(state.postgres, shard) < 0:
            return f"account {shard} is overdrawn"
    identities = {identity for identity, _ in journal}
    if len(identities) != len(journal):
        return "an identity is journaled twice"
    for task, request in zip(state.tasks, world.requests, strict=True):
        if task.answer == "acknowledged" and request.identity not in identities:
            return f"{request.identity} is acknowledged and not in the journal"
        if task.answer == "misled":
            return f"{request.identity} was accepted before, and is refused"
        if task.answer == "refused" and any(
            (request.identity, (task.number, number)) in journal for number in range(task.round + 1)
        ):
            return f"{request.identity} was refused and applied later"
    return None


def _broken_in_redis(world: World, state: State) -> str | None:
    for shard in world.shards:
        ruling = state.postgres.rulings[shard]
        if ruling.mode != "redis" or not is_usable(world, state, shard):
            continue
        keys = scripts.keys_for(world, state.redis[shard], ruling)
        if keys is None or keys.account is None:
            continue
        broken = _wrong_amount(world, state, shard, keys.account) or _left_over(
            world, state, keys.account
        )
        if broken:
            return broken
    return None


def _wrong_amount(world: World, state: State, shard: int, account: Account) -> str | None:
    """Redis has exactly what PostgreSQL has, but for what is in flight."""
    expected = world.available(state.postgres, shard)
    for (identity, attempt), change in account.held:
        is_journaled = database.journaled_by(state.postgres, identity) == attempt
        expected += -max(change, 0) if is_journaled else min(change, 0)
    if account.available > expected:
        return f"redis {shard} believes in {account.available - expected} that postgres has not"
    if account.available < expected:
        return f"redis {shard} has lost sight of {expected - account.available}"
    return None


def _left_over(world: World, state: State, account: Account) -> str | None:
    """Who ends, or goes again, holds nothing any more; the reaper is for those who died."""
    for (identity, (number, round_number)), change in account.held:
        for task, request in zip(state.tasks, world.requests, strict=True):
            if task.number != number or request.identity != identity:
                continue
            if task.phase == "done" or task.round != round_number:
                return f"{identity}/{number} is over and still holds {change}"
            is_journaled = database.journaled_by(state.postgres, identity) == (number, round_number)
            if task.answer == "acknowledged" and is_journaled and change > 0 and not state.faults:
                return f"credit {identity} is acknowledged and cannot be spent"
    return None
