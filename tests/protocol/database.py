"""What the functions of PostgreSQL do, each in one SQL transaction."""

from tests.protocol.world import Attempt, JournalCopy, Postgres, Request, Ruling, World


def is_recorded(world: World, postgres: Postgres, shard: int) -> bool:
    """Tell whether a shard's epoch was opened in the PostgreSQL that there is now."""
    return postgres.recorded[shard] == postgres.timeline or not world.guards.postgres_identity


def rules(world: World, postgres: Postgres, shard: int, ruling: Ruling) -> bool:
    """The fence: tell whether a shard's ruling is the one that a call was told."""
    current = postgres.rulings[shard]
    if (current.mode, current.epoch) != (ruling.mode, ruling.epoch):
        return False
    if world.guards.fence_word and current.word != ruling.word:
        return False
    return is_recorded(world, postgres, shard)


def is_reserved_first(world: World, request: Request, change: int) -> bool:
    """Tell whether this side of a request goes through Redis before the journal."""
    if request.new_limit is not None:
        return world.guards.limit_order
    return change < 0 or len(request.legs) == 1 or world.guards.registration


def journal(
    world: World, postgres: Postgres, call: JournalCopy, fence: Postgres
) -> tuple[str, Postgres]:
    """Journal an attempt, deciding what Redis did not; returns the outcome and what is committed.

    `fence` is what the statement sees that compares the rulings.
    """
    guards, request = world.guards, world.requests[call.task]
    shards = [leg.shard for leg in request.legs]
    if not guards.shard_fences:
        shards = [min(shards)]
    fenced = guards.journal_fence and not all(
        rules(world, fence, leg.shard, ruling)
        for leg, ruling in zip(request.legs, call.rulings, strict=True)
        if leg.shard in shards
    )
    earlier = _earlier(postgres, call.attempt)
    if fenced or earlier:
        return earlier or "fenced", postgres
    if guards.unique_id and any(request.identity == identity for identity, _ in postgres.journal):
        return "duplicate", postgres
    if request.new_limit is not None and guards.limit_version and call.version != postgres.limit[1]:
        return "outdated", postgres
    if not _is_covered(world, postgres, request, call):
        if call.is_repeated and guards.refusal_record:
            return "refused", postgres._replace(voids=postgres.voids | {call.attempt})
        return "refused", postgres
    after = postgres._replace(journal=postgres.journal | {(request.identity, call.attempt)})
    if request.new_limit is not None:
        after = after._replace(limit=(request.new_limit, postgres.limit[1] + 1))
    return "journaled", after


def _earlier(postgres: Postgres, attempt: Attempt) -> str:
    """What an earlier sending of this attempt, or a tombstone, has made of it."""
    if any(attempt == by for _, by in postgres.journal):
        return "journaled"
    return "void" if attempt in postgres.voids else ""


def _is_covered(world: World, postgres: Postgres, request: Request, call: JournalCopy) -> bool:
    """Decide under the row locks the debits that Redis did not decide."""
    for leg, ruling in zip(request.legs, call.rulings, strict=True):
        change = call.change if request.new_limit is not None else leg.change
        decided = ruling.mode == "redis" and is_reserved_first(world, request, change)
        if change < 0 and not decided and world.available(postgres, leg.shard) + change < 0:
            return False
    return True


def journaled_by(postgres: Postgres, identity: str) -> Attempt | None:
    """The attempt that journaled an identity."""
    return next((by for name, by in postgres.journal if name == identity), None)


def entomb(world: World, postgres: Postgres, entry: tuple[str, Attempt]) -> tuple[str, Postgres]:
    """Tell what the reaper is to do with a reservation, voiding its attempt unless journaled."""
    by = journaled_by(postgres, entry[0])
    if by is not None and (by == entry[1] or not world.guards.attempt):
        return "journaled", postgres
    if not world.guards.tombstone or entry[1] in postgres.voids:
        return "released", postgres
    return "released", postgres._replace(voids=postgres.voids | {entry[1]})


def opened(postgres: Postgres, shard: int, ruling: Ruling) -> Postgres:
    """Record a ruling; the exclusive lock has waited for every journal call before."""
    rulings, recorded = list(postgres.rulings), list(postgres.recorded)
    rulings[shard], recorded[shard] = ruling, postgres.timeline
    return postgres._replace(rulings=tuple(rulings), recorded=tuple(recorded))
