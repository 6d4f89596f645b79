"""Before a request is refused or answered as a repetition: what another sending has made of it."""

from collections.abc import Iterator

from tests.protocol import database, scripts
from tests.protocol.sending import Step, name_of, outstanding, released, with_redis, with_task
from tests.protocol.world import Attempt, Copy, State, World


def refusing(world: World, state: State, index: int) -> State:
    """Go on with a request that Redis has refused just now, and note who else was in flight.

    The answer of the refusal says whether anybody was; without a guard it is asked for later.
    """
    task = state.tasks[index]
    rivals = _rivals(world, state, index) or frozenset()
    is_flying = bool(rivals) if world.guards.names_at_once else None
    if not world.guards.names_in_flight:
        is_flying = False
    task = task._replace(phase="refusing", value=is_flying, rivals=rivals, in_doubt=False)
    return with_task(state, index, task)


def _rivals(world: World, state: State, index: int) -> frozenset[Attempt] | None:
    """The other attempts of a request that are in flight; None where a script is fenced."""
    task, request = state.tasks[index], world.requests[index]
    position = task.left[0]
    redis = state.redis[request.legs[position].shard]
    keys = scripts.keys_for(world, redis, task.rulings[position])
    if keys is None:
        return None
    return frozenset(
        attempt
        for (identity, attempt), _ in keys.flight
        if identity == request.identity and attempt[0] != task.number
    )


def refusal_steps(world: World, state: State, index: int) -> Iterator[Step]:
    """Read the journal, at an instant of its own; then answer."""
    if state.tasks[index].value is None:
        yield from _read_flights(world, state, index)
    else:
        yield from _read_journal(world, state, index)


def _read_flights(world: World, state: State, index: int) -> Iterator[Step]:
    """Look late for others; who is not in flight any more was journaled or given back."""
    label = f"{name_of(world, index)}: reads what is in flight"
    rivals = _rivals(world, state, index)
    if rivals is None:
        yield f"{label}: fenced", released(world, state, index, "again")
        return
    found = f"{label}: {'finds itself' if rivals else 'it is not there'}"
    yield found, with_task(state, index, state.tasks[index]._replace(value=bool(rivals)))


def _read_journal(world: World, state: State, index: int) -> Iterator[Step]:
    """Look the identity up, and whether the epoch in which it was refused still rules."""
    task, request = state.tasks[index], world.requests[index]
    by = database.journaled_by(state.postgres, request.identity)
    label = f"{name_of(world, index)}: looks itself up: {'journaled' if by else 'not journaled'}"
    if by is not None and world.guards.look_up_first:
        told = told_of(world, state, index, by)
        yield label, released(world, told, index, "done", "acknowledged")
        return
    position = task.left[0]
    shard, ruling = request.legs[position].shard, task.rulings[position]
    if not database.rules(world, state.postgres, shard, ruling):
        yield f"{label}, its epoch is over", released(world, state, index, "again")
    elif task.value:
        waiting = task._replace(phase="admit", value=None, rivals=frozenset())
        yield f"{label}, waits for the other", with_task(state, index, waiting)
    else:
        answer = "misled" if by else "refused"
        yield label, released(world, state, index, "done", answer)


def repetition_steps(world: World, state: State, index: int) -> Iterator[Step]:
    """The journal has another attempt of the request: tell Redis of that one, and answer."""
    who = name_of(world, index)
    by = database.journaled_by(state.postgres, world.requests[index].identity)
    if by is None:
        yield f"{who}: is not journaled any more", released(world, state, index, "done", "lost")
        return
    label = f"{who}: finds itself journaled by another attempt, and confirms that"
    after = told_of(world, state, index, by) if world.guards.tell_repeated else state
    yield label, released(world, after, index, "done", "acknowledged")


def told_of(world: World, state: State, index: int, by: Attempt) -> State:
    """Confirm an attempt of the same request that the journal has, wherever it is in flight."""
    task, request = state.tasks[index], world.requests[index]
    for leg, ruling in zip(request.legs, task.rulings, strict=True):
        if ruling.mode != "redis":
            continue
        entry = (request.identity, by)
        keys = scripts.keys_for(world, state.redis[leg.shard], ruling)
        if keys is None or entry not in {record.entry for record in keys.flight}:
            continue
        call = Copy("confirm", leg.shard, ruling, index, 0, entry, leg.change, "journaled")
        newest = outstanding(state, leg.shard, index)
        _, redis = scripts.execute(world, state.redis[leg.shard], call, newest)
        state = with_redis(state, leg.shard, redis)
    return state
