"""The way of one request, step by step: reserve, journal, tell Redis, answer.

A call is one step when its reply arrives. Where the scenario allows, the reply may be lost, or the
call delayed: then the sender cannot tell which, and sends again.
"""

from collections.abc import Callable, Iterator

from tests.protocol import database, scripts
from tests.protocol.world import Copy, Entry, JournalCopy, Postgres, Redis, State, Task, World

Step = tuple[str, State]


def request_steps(world: World, state: State, index: int) -> Iterator[Step]:
    """Everything that a request may do next."""
    phase = state.tasks[index].phase
    if phase == "new":
        yield from _begin(world, state, index)
    elif phase == "admit":
        yield from _admit(world, state, index)
    elif phase == "loading":
        yield from _load(world, state, index)
    elif phase == "journal":
        yield from _journal(world, state, index)
    elif phase == "locked":
        yield from _journal_behind_a_lock(world, state, index)
    elif phase == "tell":
        yield from _tell(world, state, index)


def _name(world: World, index: int) -> str:
    return f"{world.requests[index].identity}/{index}"


def _with(state: State, index: int, task: Task) -> State:
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


def _begin(world: World, state: State, index: int) -> Iterator[Step]:
    """Learn who rules. Equal sendings begin in their order, which loses no history."""
    request, task = world.requests[index], state.tasks[index]
    twin = world.requests[index - 1] == request if index else False
    if twin and state.tasks[index - 1].number < 0:
        return
    postgres = state.postgres
    rulings = tuple(postgres.rulings[leg.shard] for leg in request.legs)
    if not all(is_usable(world, state, leg.shard) for leg in request.legs):
        return
    if not world.guards.load_order and task.value is None and len(request.legs) == 1:
        early = task._replace(value=world.available(postgres, request.legs[0].shard))
        yield f"{_name(world, index)}: reads the account", _with(state, index, early)
        return
    number = task.number
    if number < 0:
        number = index if world.guards.process_numbers else postgres.processes
        if not world.guards.process_numbers:
            postgres = postgres._replace(processes=postgres.processes + 1)
    change = 0 if request.new_limit is None else request.new_limit - postgres.limit[0]
    task = task._replace(number=number, rulings=rulings, change=change, version=postgres.limit[1])
    left = reserving_legs(world, index, task)
    task = task._replace(phase="admit" if left else "journal", left=left)
    epochs = ", ".join(f"{ruling.mode} {ruling.epoch}" for ruling in rulings)
    label = f"{_name(world, index)}: begins under {epochs}"
    yield label, _with(state._replace(postgres=postgres), index, task)


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


def _entry(world: World, index: int, task: Task) -> Entry:
    return world.requests[index].identity, task.attempt


def _admit(world: World, state: State, index: int) -> Iterator[Step]:
    """Reserve one leg in Redis."""
    task, who = state.tasks[index], _name(world, index)
    position = task.left[0]
    shard, ruling = world.requests[index].legs[position].shard, task.rulings[position]
    change = change_of(world, index, task, position)
    call = Copy("admit", shard, ruling, index, entry=_entry(world, index, task), change=change)

    def replied(word: str, after: State) -> Iterator[Step]:
        label = f"{who}: admit on shard {shard}: {word}"
        # A reply settles all sendings before it: they were overtaken.
        after = _with(after, index, task._replace(in_doubt=False))
        if word == "admitted":
            left = task.left[1:]
            phase = "admit" if left else "journal"
            following = task._replace(phase=phase, left=left, in_doubt=False)
            yield label, _with(after, index, following)
        elif word == "unloaded":
            value = world.available(after.postgres, shard) if task.value is None else task.value
            following = task._replace(phase="loading", value=value, in_doubt=False)
            yield label, _with(after, index, following)
        elif word == "insufficient":
            identity = world.requests[index].identity
            is_known = database.journaled_by(after.postgres, identity) is not None
            repeated = "acknowledged" if world.guards.look_up_first else "misled"
            answer = repeated if is_known else "refused"
            yield label, _release(world, after, index, "done", answer)
        elif word == "in_flight":
            yield from _look_up_another(world, after, index, call)
        elif word == "fenced":
            yield label, _release(world, after, index, "again")

    yield from send(world, state, who, call, replied, lambda after: _doubting(after, index))
    yield from _give_up(world, state, index)


def _doubting(state: State, index: int) -> State:
    return _with(state, index, state.tasks[index]._replace(in_doubt=True))


def _look_up_another(world: World, state: State, index: int, call: Copy) -> Iterator[Step]:
    """Another attempt holds the identity: if it was journaled tell Redis so, and answer."""
    identity = world.requests[index].identity
    by = database.journaled_by(state.postgres, identity)
    if by is None:
        return
    told = call._replace(script="confirm", entry=(identity, by), value="journaled")
    newest = outstanding(state, call.shard, call.slot)
    _, redis = scripts.execute(world, state.redis[call.shard], told, newest)
    after = with_redis(state, call.shard, redis)
    label = f"{_name(world, index)}: finds itself journaled by another attempt, and confirms that"
    yield label, _release(world, after, index, "done", "acknowledged")


def _give_up(world: World, state: State, index: int) -> Iterator[Step]:
    """Stop asking Redis: when a reply is missing, or another epoch rules by now."""
    task, who = state.tasks[index], _name(world, index)
    if task.in_doubt:
        yield f"{who}: redis does not answer", _release(world, state, index, "done", "unavailable")
    legs = world.requests[index].legs
    if not all(
        database.rules(world, state.postgres, leg.shard, ruling)
        for leg, ruling in zip(legs, task.rulings, strict=True)
    ):
        yield f"{who}: learns that another epoch rules", _release(world, state, index, "again")


def _load(world: World, state: State, index: int) -> Iterator[Step]:
    """Bring to Redis what PostgreSQL said of the account."""
    task, who = state.tasks[index], _name(world, index)
    position = task.left[0]
    shard, ruling = world.requests[index].legs[position].shard, task.rulings[position]
    call = Copy("load", shard, ruling, value=task.value)
    label = f"{who}: load of {task.value} on shard {shard}"

    def replied(word: str, after: State) -> Iterator[Step]:
        following = task._replace(phase="admit", value=None)
        yield f"{label}: {word}", _with(after, index, following)

    yield from send(world, state, who, call, replied, lambda after: after)


def _journal(world: World, state: State, index: int) -> Iterator[Step]:
    """Make the attempt durable, asking again until its outcome is known."""
    task, who, postgres = state.tasks[index], _name(world, index), state.postgres
    if not world.guards.separate_statements:
        seen = Postgres(postgres.rulings, postgres.recorded, timeline=postgres.timeline)
        waiting = task._replace(phase="locked", value=seen)
        yield f"{who}: journal sees the epoch and waits for the lock", _with(state, index, waiting)
        return
    call = _journal_call(task, index)
    outcome, after = database.journal(world, postgres, call, postgres)
    label = f"{who}: journal: {outcome}"
    yield label, _concluded(world, state._replace(postgres=after), index, outcome)
    if task.in_doubt and not world.guards.outcome:
        failed = _release(world, state, index, "done", "unavailable")
        yield f"{who}: takes an error of the journal for its outcome", failed
    if state.faults >= world.scenario.faults_max:
        return
    harmed = _doubting(state._replace(faults=state.faults + 1), index)
    if "journal_reply" in world.hazards:
        lost = harmed._replace(postgres=after)
        yield f"{who}: journal is carried out ({outcome}), its reply is lost", lost
        if not task.in_doubt:
            failed = _release(world, harmed, index, "done", "unavailable")
            yield f"{who}: the journal cannot be reached", failed
    if "journal_copy" in world.hazards:
        late = harmed._replace(network=state.network | {call})
        yield f"{who}: journal is delayed on its way", late


def _journal_behind_a_lock(world: World, state: State, index: int) -> Iterator[Step]:
    """What becomes of a call whose statement took its snapshot before it had the lock."""
    task = state.tasks[index]
    call = _journal_call(task, index)
    outcome, after = database.journal(world, state.postgres, call, task.value)
    after_all = _with(state._replace(postgres=after), index, task._replace(value=None))
    label = f"{_name(world, index)}: journal: {outcome}"
    yield label, _concluded(world, after_all, index, outcome)


def _journal_call(task: Task, index: int) -> JournalCopy:
    return JournalCopy(
        index, task.attempt, task.rulings, task.change, task.version, is_repeated=task.in_doubt
    )


def _concluded(world: World, state: State, index: int, outcome: str) -> State:
    """Go on from what the journal said of an attempt."""
    task, guards = state.tasks[index], world.guards
    if outcome == "journaled":
        return _tell_journaled(world, state, index)
    if outcome == "duplicate":
        return _release(world, state, index, "done", "acknowledged")
    if outcome == "refused":
        return _release(world, state, index, "done", "refused")
    forgets = {"void": not guards.release_on_void, "fenced": not guards.release_on_fence}
    if forgets.get(outcome, False):
        return _finished(world, state, index, task, "again")
    return _release(world, state, index, "again")


def _tell_journaled(world: World, state: State, index: int) -> State:
    """Answer, and tell Redis; where there is a credit to be spent, tell Redis first."""
    task = state.tasks[index]
    left = tuple(position for position, ruling in enumerate(task.rulings) if ruling.mode == "redis")
    waits = any(change_of(world, index, task, position) > 0 for position in left)
    answer = "" if waits and world.guards.confirm_first else "acknowledged"
    value = ("journaled", "done", "acknowledged")
    task = task._replace(phase="tell", answer=answer, left=left, in_doubt=False, value=value)
    return _finished(world, state, index, task, "done") if not left else _with(state, index, task)


def _release(world: World, state: State, index: int, then: str, answer: str = "") -> State:
    """Give back what the attempt may hold in epochs that still rule, then end or go again."""
    task, legs = state.tasks[index], world.requests[index].legs
    reserved = reserving_legs(world, index, task)
    is_reserving = task.phase in ("admit", "loading")
    untouched = task.left[int(task.in_doubt) :] if is_reserving else ()
    left = tuple(
        position
        for position in reserved
        if position not in untouched
        and database.rules(world, state.postgres, legs[position].shard, task.rulings[position])
    )
    value = ("released", then, answer)
    task = task._replace(phase="tell", answer=answer, left=left, in_doubt=False, value=value)
    return _finished(world, state, index, task, then) if not left else _with(state, index, task)


def _finished(world: World, state: State, index: int, task: Task, then: str) -> State:
    """Forget what is over; after the last round the client is told to come again."""
    if then == "done":
        answer = task.value[2] if task.value else task.answer
        return _with(state, index, Task("done", answer, task.number, task.round))
    if task.round + 1 >= world.scenario.rounds_max:
        return _with(state, index, Task("done", "unavailable", task.number, task.round))
    return _with(state, index, Task("new", "", task.number, task.round + 1))


def _tell(world: World, state: State, index: int) -> Iterator[Step]:
    """Tell one Redis what became of the attempt, until it knows or its epoch is over."""
    task, who, request = state.tasks[index], _name(world, index), world.requests[index]
    position = task.left[0]
    shard, ruling = request.legs[position].shard, task.rulings[position]
    word, then, answer = task.value
    change = change_of(world, index, task, position)
    script = "confirm" if database.is_reserved_first(world, request, change) else "adjust"
    entry = _entry(world, index, task)
    call = Copy(script, shard, ruling, index, entry=entry, change=change, value=word)

    def told(after: State) -> State:
        following = task._replace(left=task.left[1:], in_doubt=False)
        if following.left:
            return _with(after, index, following)
        return _finished(world, after, index, following, then)

    def replied(reply: str, after: State) -> Iterator[Step]:
        yield f"{who}: tells shard {shard} it is {word}: {reply}", told(after)

    def unsure(after: State) -> State:
        return _with(after, index, task._replace(in_doubt=True, answer=answer))

    yield from send(world, state, who, call, replied, unsure)
    if not database.rules(world, state.postgres, shard, ruling):
        yield f"{who}: learns that nobody is left to tell", told(state)
