"""The change of one account's limit as a model of its own.

Every history of two debits, a credit and a change of the limit from 1 to 0, with a reaper, lost
replies, late copies, processes that die, a switch of epoch and a flight hash that Redis loses,
within a bound on faults. The rest of the protocol is modelled in `tests/protocol/world.py`.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from tests.protocol.explore import history_of

DEBITS = (0, 1)
CHANGE = "change"
RUNNING, CHANGING = "running", "changing"


class Guards(NamedTuple):
    """What keeps a change safe; each can be switched off to see what it is for."""

    stop_seen: bool = True
    """Admission refuses an account that is stopped."""
    drained: bool = True
    """PostgreSQL decides only when nothing is in flight on the account."""
    void: bool = True
    """The reaper puts a tombstone on a change before it undoes it."""
    refusals_kept: bool = True
    """A refused change is written down, so that no late copy of it is decided again."""
    compared: bool = True
    """PostgreSQL compares what Redis has with its own figure."""
    fenced: bool = True
    """PostgreSQL decides only in the epoch that rules."""
    only_where_changing: bool = True
    """A reload changes only an account that is stopped by this change."""
    shown: bool = True
    """The reaper shows Redis what PostgreSQL has only after a change, which was compared."""
    verified: bool = True
    """An account that is stopped without the record of a change begins a new epoch."""


class State(NamedTuple):
    """Everything there is; the account's balance begins at 0."""

    limit: int = 1
    balance: int = 0
    debit_rows: tuple[str, str] = ("", "")
    change_row: str = ""
    epoch: int = 0
    available: int = 1
    stop: str = RUNNING
    records: frozenset[object] = frozenset()
    number: int = 0
    debits: tuple[tuple[str, int], tuple[str, int]] = (("new", 0), ("new", 0))
    changer: tuple[str, int] = ("new", 0)
    sent: int = 0
    reaping: tuple[object, str, int] | None = None
    late: frozenset[tuple[object, ...]] = frozenset()
    credited: bool = False
    faults: int = 0


class World(NamedTuple):
    """The guards that are on, and how many faults may happen in one history."""

    guards: Guards = Guards()
    faults_max: int = 2


Step = tuple[str, State]


def broken(world: World, state: State) -> str:
    """Say which guarantee a state breaks, or nothing."""
    if state.balance + state.limit < 0:
        return "the account is overdrawn"
    if state.stop == RUNNING and state.available > state.balance + state.limit:
        return "redis would let more go than there is"
    if not any(True for label, _ in steps(world, state) if not label.startswith("fault")):
        if state.stop == CHANGING:
            return "the account is stopped for ever"
        if state.changer[0] == "told" and state.limit != 0:
            return "a change that was told is not in force"
    return ""


def steps(world: World, state: State) -> Iterator[Step]:
    """Everything that can happen next; a label that begins with `fault` is one."""
    for number in DEBITS:
        yield from _debit_steps(world, state, number)
    if not state.credited and not (world.guards.stop_seen and state.stop == CHANGING):
        credited = state._replace(credited=True, balance=state.balance + 1)
        yield "a credit comes", credited._replace(available=state.available + 1)
    yield from _change_steps(world, state)
    yield from _reaper_steps(world, state)
    yield from _late_steps(world, state)
    if world.guards.verified and state.stop == CHANGING and CHANGE not in state.records:
        yield "verification begins an epoch", _switched(state)
    if state.faults < world.faults_max:
        worse = state._replace(faults=state.faults + 1)
        if state.epoch == 0:
            yield "fault: another epoch", _switched(worse)
        if state.records:
            yield "fault: redis loses the flight hash", worse._replace(records=frozenset())


def _switched(state: State) -> State:
    """Begin an epoch: the account is loaded from PostgreSQL."""
    return state._replace(
        epoch=state.epoch + 1,
        available=state.balance + state.limit,
        stop=RUNNING,
        records=frozenset(),
        number=0,
        reaping=None,
    )


def _debit_steps(world: World, state: State, number: int) -> Iterator[Step]:
    step, epoch = state.debits[number]
    rules = epoch == state.epoch

    def at(after: State, *place: str | int) -> State:
        debits = list(after.debits)
        debits[number] = (str(place[0]), int(place[1]) if place[1:] else epoch)
        return after._replace(debits=(debits[0], debits[1]))

    if step == "new" and not (world.guards.stop_seen and state.stop == CHANGING):
        if state.available < 1:
            yield f"debit {number} is refused", at(state, "refused")
        else:
            admitted = state._replace(
                available=state.available - 1, records=state.records | {number}
            )
            yield f"debit {number} is admitted", at(admitted, "admitted", state.epoch)
    if step == "admitted":
        after, outcome = _journaled(state, number, epoch)
        if outcome == "fenced":
            yield f"debit {number} is fenced", at(state, "new")
        elif outcome == "void":
            yield f"debit {number} is released", at(_released(state, number, rules), "ended")
        else:
            yield f"debit {number} is journaled", at(after, "journaled")
        if state.faults < world.faults_max:
            worse = state._replace(faults=state.faults + 1)
            late = worse._replace(late=state.late | {("journal", number, epoch)})
            yield f"fault: the journal of debit {number} is late", at(late, "dead")
            yield f"fault: debit {number} dies", at(worse, "dead")
    if step == "journaled":
        records = state.records - {number} if rules else state.records
        yield f"debit {number} is confirmed", at(state._replace(records=records), "ended")


def _journaled(state: State, number: int, epoch: int) -> tuple[State, str]:
    rows = list(state.debit_rows)
    if epoch != state.epoch and not rows[number]:
        return state, "fenced"
    if rows[number]:
        return state, rows[number]
    rows[number] = "journaled"
    return state._replace(debit_rows=(rows[0], rows[1]), balance=state.balance - 1), "journaled"


def _released(state: State, number: int, rules: bool) -> State:
    if number not in state.records or not rules:
        return state
    return state._replace(available=state.available + 1, records=state.records - {number})


def _change_steps(world: World, state: State) -> Iterator[Step]:
    step, figure = state.changer
    epoch = figure if step == "new" else state.changer[1] // 10
    if step in ("told", "over", "dead"):
        return
    may_fail = state.faults < world.faults_max
    worse = state._replace(faults=state.faults + 1)
    if may_fail:
        yield "fault: the change's process dies", worse._replace(changer=("dead", 0))
    if step != "new" and epoch != state.epoch and step != "drained":
        yield "the change is fenced", state._replace(changer=("over", 0))
        return
    shown = state.changer[1] % 10
    sent = state._replace(sent=state.sent + 1)
    if step == "new":
        stopped = _stopped(sent, sent.sent)._replace(changer=("stopped", state.epoch * 10))
        yield "the account is stopped", stopped
        if may_fail:
            worse = worse._replace(sent=sent.sent)
            yield "fault: the reply to stop is lost", _stopped(worse, sent.sent)
            late = worse.late | {("stop", sent.sent, state.epoch)}
            yield "fault: stop is late", worse._replace(late=late)
    if step == "stopped":
        others = state.records - {CHANGE}
        if state.stop == CHANGING and (not others or not world.guards.drained):
            place = ("drained", state.epoch * 10 + state.available)
            yield "the account is drained", state._replace(changer=place)
        yield "the account is busy", state._replace(changer=("undoing", state.epoch * 10))
    if step == "drained":
        after, outcome = _decided(world, state, epoch, shown)
        place = {
            "changed": ("showing", state.epoch * 10),
            "differs": ("over", 0),
            "fenced": ("over", 0),
        }.get(outcome, ("undoing", epoch * 10))
        after = _switched(after) if outcome == "differs" else after
        yield f"the change is decided: {outcome}", after._replace(changer=place)
        if may_fail:
            lost, _ = _decided(world, worse, epoch, shown)
            yield "fault: the decision's reply is lost", lost
            late = worse.late | {("decide", epoch, shown)}
            yield "fault: the decision is late", worse._replace(late=late)
    if step == "showing":
        place = ("reload", state.epoch * 10 + state.limit + state.balance)
        yield "the account is read", state._replace(changer=place)
    if step in ("reload", "undoing"):
        what = shown if step == "reload" else None
        after = _reloaded(world, sent, sent.sent, what)
        end = ("told" if step == "reload" else "over", 0)
        yield f"the account is let go: {step}", after._replace(changer=end)
        if may_fail:
            worse = worse._replace(sent=sent.sent)
            late = worse.late | {("reload", sent.sent, state.epoch, what)}
            yield f"fault: {step} is late", worse._replace(late=late)


def _stopped(state: State, number: int) -> State:
    if number <= state.number or state.stop == CHANGING:
        return state._replace(number=max(number, state.number))
    return state._replace(number=number, stop=CHANGING, records=state.records | {CHANGE})


def _reloaded(world: World, state: State, number: int | None, shown: int | None) -> State:
    """Let the account go; the reaper has numbers of its own."""
    if number is not None and number <= state.number:
        return state
    after = state._replace(
        number=state.number if number is None else number, records=state.records - {CHANGE}
    )
    if state.stop != CHANGING and world.guards.only_where_changing:
        return after
    return after._replace(stop=RUNNING, available=state.available if shown is None else shown)


def _decided(world: World, state: State, epoch: int, available: int) -> tuple[State, str]:
    guards = world.guards
    if state.change_row:
        return state, state.change_row
    if epoch != state.epoch and guards.fenced:
        return state, "fenced"
    if guards.compared and available != state.balance + state.limit:
        return state._replace(change_row="differs"), "differs"
    if state.balance < 0:
        row = "refused" if guards.refusals_kept else ""
        return state._replace(change_row=row), "refused"
    return state._replace(change_row="changed", limit=0), "changed"


def _reaper_steps(world: World, state: State) -> Iterator[Step]:
    if state.reaping is not None:
        what, verdict, shown = state.reaping
        after = state._replace(reaping=None)
        if what == CHANGE:
            after = _reloaded(world, after, None, shown if verdict == "decided" else None)
        elif verdict == "void":
            after = _released(after, int(str(what)), rules=True)
        else:
            after = after._replace(records=after.records - {what})
        yield f"the reaper ends {what}: {verdict}", after
        return
    for record in state.records:
        if record == CHANGE:
            row = state.change_row or ("void" if world.guards.void else "")
            is_shown = row == "changed" or (row not in ("", "void") and not world.guards.shown)
            verdict = "decided" if is_shown else "undone"
            voided = state._replace(change_row=row)
            yield (
                "the reaper takes the change",
                voided._replace(reaping=(CHANGE, verdict, state.limit + state.balance)),
            )
        else:
            rows = list(state.debit_rows)
            number = int(str(record))
            rows[number] = rows[number] or "void"
            voided = state._replace(debit_rows=(rows[0], rows[1]))
            yield (
                f"the reaper takes debit {number}",
                voided._replace(reaping=(number, rows[number], 0)),
            )


def _late_steps(world: World, state: State) -> Iterator[Step]:
    for copy in state.late:
        after = state._replace(late=state.late - {copy})
        kind, first, *more = copy
        number = int(str(first))
        if kind == "journal":
            after, _ = _journaled(after, number, int(str(more[0])))
        elif kind == "decide":
            after, _ = _decided(world, after, number, int(str(more[0])))
        elif more[0] == state.epoch and kind == "stop":
            after = _stopped(after, number)
        elif more[0] == state.epoch:
            shown = None if more[1] is None else int(str(more[1]))
            after = _reloaded(world, after, number, shown)
        yield f"a late {kind} arrives", after


class Finding(NamedTuple):
    """The outcome of a search; `broken` is empty when every state kept every guarantee."""

    states: int
    broken: str
    history: tuple[str, ...]
    labels: frozenset[str]


def explore(world: World) -> Finding:
    """Visit every reachable state, breadth first: the first broken one's history is shortest."""
    start = State()
    came_from: dict[State, tuple[str, State] | None] = {start: None}
    queue, labels = deque([start]), set[str]()
    while queue:
        state = queue.popleft()
        why = broken(world, state)
        if why:
            return Finding(len(came_from), why, history_of(came_from, state), frozenset(labels))
        for label, following in steps(world, state):
            labels.add(label)
            if following not in came_from:
                came_from[following] = (label, state)
                queue.append(following)
    return Finding(len(came_from), "", (), frozenset(labels))
