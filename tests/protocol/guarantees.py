"""What must be true in every state; the journal only grows, so every prefix of it is looked at."""

from tests.protocol import database, scripts
from tests.protocol.sending import is_usable
from tests.protocol.world import Attempt, Entry, Keys, State, Task, World


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
        broken = _wrong_answer(task, request.identity, journal)
        if broken:
            return broken
    return None


def _wrong_answer(task: Task, identity: str, journal: frozenset[Entry]) -> str | None:
    """What a client was told agrees with the journal."""
    if task.answer == "acknowledged" and all(identity != name for name, _ in journal):
        return f"{identity} is acknowledged and not in the journal"
    if task.answer == "misled":
        return f"{identity} was accepted before, and is refused"
    if task.answer == "refused":
        if any(_won(identity, rival, journal) for rival in task.rivals):
            return f"{identity} was refused while another sending was being accepted"
        if any((identity, (task.number, number)) in journal for number in range(task.round + 1)):
            return f"{identity} was refused and applied later"
    return None


def _won(identity: str, rival: Attempt, journal: frozenset[Entry]) -> bool:
    """Tell whether a sending was accepted, be it that it went again after it had given back."""
    number, first = rival
    return any(
        name == identity and by == number and first <= round_number
        for name, (by, round_number) in journal
    )


def _broken_in_redis(world: World, state: State) -> str | None:
    for shard in world.shards:
        ruling = state.postgres.rulings[shard]
        if ruling.mode != "redis" or not is_usable(world, state, shard):
            continue
        keys = scripts.keys_for(world, state.redis[shard], ruling)
        if keys is None:
            continue
        broken = _wrong_amount(world, state, shard, keys) or _left_over(world, state, keys)
        if broken:
            return broken
    return None


def _wrong_amount(world: World, state: State, shard: int, keys: Keys) -> str | None:
    """Redis has exactly what PostgreSQL has, but for what is in flight."""
    if keys.available is None:
        return None
    expected = world.available(state.postgres, shard)
    for (identity, attempt), change in keys.flight:
        is_journaled = database.journaled_by(state.postgres, identity) == attempt
        expected += -max(change, 0) if is_journaled else min(change, 0)
    if keys.available > expected:
        return f"redis {shard} believes in {keys.available - expected} that postgres has not"
    if keys.available < expected:
        return f"redis {shard} has lost sight of {expected - keys.available}"
    return None


def _left_over(world: World, state: State, keys: Keys) -> str | None:
    """Who ends, or goes again, holds nothing any more; the reaper is for those who died."""
    for (identity, (number, round_number)), change in keys.flight:
        is_journaled = database.journaled_by(state.postgres, identity) == (number, round_number)
        for task, request in zip(state.tasks, world.requests, strict=True):
            if request.identity != identity:
                continue
            if task.answer == "acknowledged" and is_journaled and change > 0 and not state.faults:
                return f"credit {identity} is acknowledged and cannot be spent"
            is_over = task.phase == "done" or task.round != round_number
            if task.number == number and is_over:
                return f"{identity}/{number} is over and still holds {change}"
    return None
