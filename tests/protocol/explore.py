"""Search: every history within a scenario's bounds, shortest first, or long random ones."""

import gc
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from tests.protocol.guarantees import broken_guarantee
from tests.protocol.reduction import reduced
from tests.protocol.requests import request_steps
from tests.protocol.sending import Step
from tests.protocol.surroundings import arrivals, surrounding_steps
from tests.protocol.world import State, World

STATES_MAX = 2_000_000
_REQUESTS_SHARES = (0.6, 0.8, 0.9, 0.97)

S = TypeVar("S")


class Finding(NamedTuple):
    """The outcome of a search; `broken` is None when every state kept every guarantee."""

    states: int
    broken: str | None
    history: tuple[str, ...]
    """What happened, in order, until the guarantee broke."""
    labels: frozenset[str]
    """Everything that happened in any history."""


def explore(world: World, states_max: int = STATES_MAX) -> Finding:
    """Visit every reachable state, breadth first: the first broken guarantee's history is shortest.

    Raises `OverflowError` when there are more states than `states_max`.
    """
    with _no_cycles():
        return _explore(world, states_max)


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Spare the collector's search for cycles: states are tuples and have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _explore(world: World, states_max: int) -> Finding:
    start = world.start()
    came_from: dict[State, tuple[str, State] | None] = {start: None}
    queue, labels = deque([start]), set[str]()
    while queue:
        state = queue.popleft()
        for label, following in _steps(world, state):
            labels.add(label)
            step = (label, state)
            if came_from.setdefault(following, step) is not step:
                continue
            broken = broken_guarantee(world, following)
            if broken:
                history = history_of(came_from, following)
                return Finding(len(came_from), broken, history, frozenset(labels))
            queue.append(following)
        if len(came_from) > states_max:
            raise OverflowError(f"more than {states_max} states")
    return Finding(len(came_from), None, (), frozenset(labels))


def walk(world: World, seed: int, steps_max: int) -> Finding:
    """Follow one random history of a world with some of the hazards.

    With few hazards at a time each of them has its turn in calm surroundings.
    """
    chance = random.Random(seed)
    hazards = sorted(world.hazards)
    some = frozenset(chance.sample(hazards, chance.randint(0, len(hazards))))
    openings_max = chance.randint(1, world.scenario.openings_max)
    scenario = world.scenario._replace(hazards=some, openings_max=openings_max)
    world = World(scenario, world.guards)
    requests_share = chance.choice(_REQUESTS_SHARES)
    state, history = world.start(), list[str]()
    while len(history) < steps_max:
        onward = [
            step for index in range(len(state.tasks)) for step in request_steps(world, state, index)
        ]
        around = list(surrounding_steps(world, state))
        if not onward and not around:
            break
        prefers = chance.random() < requests_share
        label, state = chance.choice((onward or around) if prefers else (around or onward))
        history.append(label)
        broken = broken_guarantee(world, state)
        if broken:
            return Finding(len(history), broken, tuple(history), frozenset(history))
    return Finding(len(history), None, tuple(history), frozenset(history))


def _steps(world: World, state: State) -> Iterator[Step]:
    """Everything that may happen next; when every request has ended, only what is on its way."""
    is_over = True
    for index, task in enumerate(state.tasks):
        if task.phase != "done":
            is_over = False
            for label, following in request_steps(world, state, index):
                yield label, reduced(world, following)
    around = arrivals(world, state) if is_over else surrounding_steps(world, state)
    for label, following in around:
        yield label, reduced(world, following)


def history_of(came_from: Mapping[S, tuple[str, S] | None], state: S) -> tuple[str, ...]:
    """What happened, in order, until a state was reached."""
    labels: list[str] = []
    step = came_from[state]
    while step is not None:
        labels.append(step[0])
        step = came_from[step[1]]
    return tuple(reversed(labels))
