"""What the ways of requests have in common: calls of scripts, and how a sending ends."""

from collections.abc import Callable, Iterator

from tests.protocol import database, scripts
from tests.protocol.world import Copy, Entry, Redis, State, Task, World

Step = tuple[str, State]


def name_of(world: World, index: int) -> str:
    return f"{world.requests[index].identity}/{index}"


def with_task(state: State, index: int, task: Task) -> State:
    tasks = state.tasks
    return state._replace(tasks=(*tasks[:index], task, *tasks[index + 1 :]))


def with_redis(state: State, shard: int, redis: Redis) -> State:
    """Replace what one Redis has."""
    if redis is state.redis[shard]:
        return state
    servers = state.redis
    return state._replace(redis=(*servers[:shard], redis, *servers[shard + 1 :]))


def outstanding(state: State, shard: int, slot: int) -> int:
    """The number of the newest copy of a slot that is on its way to a shard."""
    if not state.network:
        return 0
    numbers = (
        copy.number
        for copy in state.network
        if isinstance(copy, Copy) and copy.slot == slot and copy.shard == shard
    )
    return max(numbers, default=0)


def send(
    world: World,
    state: State,
    who: str,
    call: Copy,
    replied: Callable[[str, State], Iterator[Step]],
    in_doubt: Callable[[State], State],
) -> Iterator[Step]:
    """Call a script: all that may become of the call and its reply."""
    newest = outstanding(state, call.shard, call.slot)
    redis = state.redis[call.shard]
    word, after = scripts.execute(world, redis, call, newest)
    yield from replied(word, with_redis(state, call.shard, after))
    if state.faults >= world.scenario.faults_max:
        return
    harmed = state._replace(faults=state.faults + 1)
    delayed = call._replace(number=0 if call.script == "load" else newest + 1)
    if "redis_reply" in world.hazards:
        lost = in_doubt(with_redis(harmed, call.shard, after))
        yield f"{who}: {call.script} is carried out ({word}), its reply is lost", lost
    if "redis_copy" in world.hazards:
        late = in_doubt(harmed._replace(network=harmed.network | {delayed}))
        yield f"{who}: {call.script} is delayed on its way", late
        if not world.guards.redis_client_retries:
            _, after = scripts.execute(world, redis, call, newest + 1)
            doubled = harmed._replace(network=harmed.network | {delayed})
            for label, following in replied(word, with_redis(doubled, call.shard, after)):
                yield f"{label}; the client had sent it twice", following


def is_usable(world: World, state: State, shard: int) -> bool:
    """Tell whether somebody who asks both servers finds that the recorded ruling holds."""
    ruling = state.postgres.rulings[shard]
    if not database.is_recorded(world, state.postgres, shard):
        return False
    if ruling.mode == "postgres":
        return True
    return scripts.keys_for(world, state.redis[shard], ruling) is not None


def change_of(world: World, index: int, task: Task, position: int) -> int:
    """The signed change of a leg; that of a limit is known once its begin has read the old one."""
    request = world.requests[index]
    return task.change if request.new_limit is not None else request.legs[position].change


def reserving_legs(world: World, index: int, task: Task) -> tuple[int, ...]:
    """Positions of the legs that go through Redis before the journal, debits first."""
    request = world.requests[index]
    changes = {
        position: change_of(world, index, task, position)
        for position, ruling in enumerate(task.rulings)
        if ruling.mode == "redis"
    }
    reserved = [
        position
        for position, change in changes.items()
        if database.is_reserved_first(world, request, change)
    ]
    return tuple(sorted(reserved, key=lambda position: (changes[position] > 0, position)))


def entry_of(world: World, index: int, task: Task) -> Entry:
    return world.requests[index].identity, task.attempt


def doubting(state: State, index: int) -> State:
    return with_task(state, index, state.tasks[index]._replace(in_doubt=True))


def released(world: World, state: State, index: int, then: str, answer: str = "") -> State:
    """Give back what the attempt may hold in epochs that still rule, then end or go again."""
    task, legs = state.tasks[index], world.requests[index].legs
    reserved = reserving_legs(world, index, task)
    is_reserving = task.phase in ("admit", "loading", "refusing")
    untouched = task.left[int(task.in_doubt) :] if is_reserving else ()
    left = tuple(
        position
        for position in reserved
        if position not in untouched
        and database.rules(world, state.postgres, legs[position].shard, task.rulings[position])
    )
    value = ("released", then, answer)
    task = task._replace(phase="tell", answer=answer, left=left, in_doubt=False, value=value)
    return finished(world, state, index, task, then) if not left else with_task(state, index, task)


def finished(world: World, state: State, index: int, task: Task, then: str) -> State:
    """Forget what is over; after the last round the client is told to come again."""
    if then == "done":
        answer = task.value[2] if task.value else task.answer
        rivals = task.rivals if answer == "refused" else frozenset()
        over = Task("done", answer, task.number, task.round, rivals=rivals)
        return with_task(state, index, over)
    if task.round + 1 >= world.scenario.rounds_max:
        return with_task(state, index, Task("done", "unavailable", task.number, task.round))
    return with_task(state, index, Task("new", "", task.number, task.round + 1))
