"""The way of one request, step by step: reserve, journal, tell Redis, answer.

A call is one step when its reply arrives. Where the scenario allows, the reply may be lost, or the
call delayed: then the sender cannot tell which, and sends again.
"""

from collections.abc import Iterator

from tests.protocol import database
from tests.protocol.refusals import refusal_steps, refusing, repetition_steps
from tests.protocol.sending import (
    Step,
    change_of,
    doubting,
    entry_of,
    finished,
    is_usable,
    name_of,
    released,
    reserving_legs,
    send,
    with_task,
)
from tests.protocol.world import Copy, JournalCopy, Postgres, State, Task, World


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
    elif phase == "refusing":
        yield from refusal_steps(world, state, index)
    elif phase == "repeated":
        yield from repetition_steps(world, state, index)
    elif phase == "tell":
        yield from _tell(world, state, index)


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
        yield f"{name_of(world, index)}: reads the account", with_task(state, index, early)
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
    label = f"{name_of(world, index)}: begins under {epochs}"
    yield label, with_task(state._replace(postgres=postgres), index, task)


def _admit(world: World, state: State, index: int) -> Iterator[Step]:
    """Reserve one leg in Redis."""
    task, who = state.tasks[index], name_of(world, index)
    position = task.left[0]
    shard, ruling = world.requests[index].legs[position].shard, task.rulings[position]
    change = change_of(world, index, task, position)
    call = Copy("admit", shard, ruling, index, entry=entry_of(world, index, task), change=change)

    def replied(word: str, after: State) -> Iterator[Step]:
        label = f"{who}: admit on shard {shard}: {word}"
        # A reply settles all sendings before it: they were overtaken.
        after = with_task(after, index, task._replace(in_doubt=False))
        if word == "admitted":
            left = task.left[1:]
            phase = "admit" if left else "journal"
            admitted = task._replace(phase=phase, left=left, in_doubt=False)
            yield label, with_task(after, index, admitted)
        elif word == "unloaded":
            value = world.available(after.postgres, shard) if task.value is None else task.value
            loading = task._replace(phase="loading", value=value, in_doubt=False)
            yield label, with_task(after, index, loading)
        elif word == "insufficient":
            following = refusing(world, after, index)
            held = ", held by another sending of it" if following.tasks[index].rivals else ""
            yield label + held, following
        elif word == "fenced":
            yield label, released(world, after, index, "again")

    yield from send(world, state, who, call, replied, lambda after: doubting(after, index))
    yield from _give_up(world, state, index)


def _give_up(world: World, state: State, index: int) -> Iterator[Step]:
    """Stop asking Redis: when a reply is missing, or another epoch rules by now."""
    task, who = state.tasks[index], name_of(world, index)
    if task.in_doubt:
        yield f"{who}: redis does not answer", released(world, state, index, "done", "unavailable")
    legs = world.requests[index].legs
    if not all(
        database.rules(world, state.postgres, leg.shard, ruling)
        for leg, ruling in zip(legs, task.rulings, strict=True)
    ):
        yield f"{who}: learns that another epoch rules", released(world, state, index, "again")


def _load(world: World, state: State, index: int) -> Iterator[Step]:
    """Bring to Redis what PostgreSQL said of the account."""
    task, who = state.tasks[index], name_of(world, index)
    position = task.left[0]
    shard, ruling = world.requests[index].legs[position].shard, task.rulings[position]
    call = Copy("load", shard, ruling, value=task.value)
    label = f"{who}: load of {task.value} on shard {shard}"

    def replied(word: str, after: State) -> Iterator[Step]:
        following = task._replace(phase="admit", value=None)
        yield f"{label}: {word}", with_task(after, index, following)

    yield from send(world, state, who, call, replied, lambda after: after)


def _journal(world: World, state: State, index: int) -> Iterator[Step]:
    """Make the attempt durable, asking again until its outcome is known."""
    task, who, postgres = state.tasks[index], name_of(world, index), state.postgres
    if not world.guards.separate_statements:
        seen = Postgres(postgres.rulings, postgres.recorded, timeline=postgres.timeline)
        waiting = task._replace(phase="locked", value=seen)
        yield (
            f"{who}: journal sees the epoch and waits for the lock",
            with_task(state, index, waiting),
        )
        return
    call = _journal_call(task, index)
    outcome, after = database.journal(world, postgres, call, postgres)
    label = f"{who}: journal: {outcome}"
    yield label, _concluded(world, state._replace(postgres=after), index, outcome)
    if task.in_doubt and not world.guards.outcome:
        failed = released(world, state, index, "done", "unavailable")
        yield f"{who}: takes an error of the journal for its outcome", failed
    if state.faults >= world.scenario.faults_max:
        return
    harmed = doubting(state._replace(faults=state.faults + 1), index)
    if "journal_reply" in world.hazards:
        lost = harmed._replace(postgres=after)
        yield f"{who}: journal is carried out ({outcome}), its reply is lost", lost
        if not task.in_doubt:
            failed = released(world, harmed, index, "done", "unavailable")
            yield f"{who}: the journal cannot be reached", failed
    if "journal_copy" in world.hazards:
        late = harmed._replace(network=state.network | {call})
        yield f"{who}: journal is delayed on its way", late


def _journal_behind_a_lock(world: World, state: State, index: int) -> Iterator[Step]:
    """What becomes of a call whose statement took its snapshot before it had the lock."""
    task = state.tasks[index]
    call = _journal_call(task, index)
    outcome, after = database.journal(world, state.postgres, call, task.value)
    after_all = with_task(state._replace(postgres=after), index, task._replace(value=None))
    label = f"{name_of(world, index)}: journal: {outcome}"
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
        return with_task(state, index, task._replace(phase="repeated", in_doubt=False))
    if outcome == "refused":
        return released(world, state, index, "done", "refused")
    forgets = {"void": not guards.release_on_void, "fenced": not guards.release_on_fence}
    if forgets.get(outcome, False):
        return finished(world, state, index, task, "again")
    return released(world, state, index, "again")


def _tell_journaled(world: World, state: State, index: int) -> State:
    """Answer, and tell Redis; where there is a credit to be spent, tell Redis first."""
    task = state.tasks[index]
    left = tuple(position for position, ruling in enumerate(task.rulings) if ruling.mode == "redis")
    waits = any(change_of(world, index, task, position) > 0 for position in left)
    answer = "" if waits and world.guards.confirm_first else "acknowledged"
    value = ("journaled", "done", "acknowledged")
    task = task._replace(phase="tell", answer=answer, left=left, in_doubt=False, value=value)
    return (
        finished(world, state, index, task, "done") if not left else with_task(state, index, task)
    )


def _tell(world: World, state: State, index: int) -> Iterator[Step]:
    """Tell one Redis what became of the attempt, until it knows or its epoch is over."""
    task, who, request = state.tasks[index], name_of(world, index), world.requests[index]
    position = task.left[0]
    shard, ruling = request.legs[position].shard, task.rulings[position]
    word, then, answer = task.value
    change = change_of(world, index, task, position)
    script = "confirm" if database.is_reserved_first(world, request, change) else "adjust"
    entry = entry_of(world, index, task)
    call = Copy(script, shard, ruling, index, entry=entry, change=change, value=word)

    def told(after: State) -> State:
        following = task._replace(left=task.left[1:], in_doubt=False)
        if following.left:
            return with_task(after, index, following)
        return finished(world, after, index, following, then)

    def replied(reply: str, after: State) -> Iterator[Step]:
        yield f"{who}: tells shard {shard} it is {word}: {reply}", told(after)

    def unsure(after: State) -> State:
        return with_task(after, index, task._replace(in_doubt=True, answer=answer))

    yield from send(world, state, who, call, replied, unsure)
    if not database.rules(world, state.postgres, shard, ruling):
        yield f"{who}: learns that nobody is left to tell", told(state)
