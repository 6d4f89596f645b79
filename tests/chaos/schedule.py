"""Which faults happen when: drawn from the seed alone, so that a seed is a schedule.

A plan knows nothing of the run: names and shares, no processes. How one of its faults is carried
out, and what it meets by then, depends on timing.
"""

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

QUIET_FIRST_S = 1.0
QUIET_LAST_S = 1.5
GAP_MEAN_S = 0.7


class Kind(StrEnum):
    """Every fault the kit knows."""

    REDIS_KILL = "redis-kill"
    REDIS_PAUSE = "redis-pause"
    REDIS_FLUSH = "redis-flush"
    REDIS_SCRIPT_FLUSH = "redis-script-flush"
    REDIS_DELETE_ACCOUNT = "redis-delete-account"
    REDIS_DELETE_FLIGHT = "redis-delete-flight"
    REDIS_DELETE_TOKEN = "redis-delete-token"
    REDIS_SNAPSHOT = "redis-snapshot"
    REDIS_PROMOTE = "redis-promote"
    REDIS_MEMORY = "redis-memory"
    POSTGRES_KILL = "postgres-kill"
    POSTGRES_BACKEND = "postgres-backend"
    POSTGRES_PAUSE = "postgres-pause"
    API_KILL = "api-kill"
    API_PAUSE = "api-pause"
    API_STOP = "api-stop"
    WORKER_KILL = "worker-kill"
    WORKER_PAUSE = "worker-pause"
    LINK_DELAY = "link-delay"
    LINK_CUT = "link-cut"
    LINK_REFUSE = "link-refuse"
    LINK_BLOCK = "link-block"
    POINT_KILL = "point-kill"
    POINT_PAUSE = "point-pause"
    POINT_LOSE = "point-lose"
    POINT_HOLD = "point-hold"
    STALE_API = "stale-api"
    LATE_JOURNAL = "late-journal"
    CUT_OFF = "cut-off"
    POWER_CUT = "power-cut"
    OPERATE = "operate"


DESTRUCTIVE_OVER_NETWORK = (
    Kind.REDIS_FLUSH,
    Kind.REDIS_SCRIPT_FLUSH,
    Kind.REDIS_DELETE_ACCOUNT,
)
_WEIGHTS = {
    Kind.REDIS_KILL: 4,
    Kind.REDIS_PAUSE: 4,
    Kind.REDIS_FLUSH: 3,
    Kind.REDIS_SCRIPT_FLUSH: 2,
    Kind.REDIS_DELETE_ACCOUNT: 2,
    Kind.REDIS_DELETE_FLIGHT: 2,
    Kind.REDIS_DELETE_TOKEN: 2,
    Kind.REDIS_SNAPSHOT: 3,
    Kind.REDIS_PROMOTE: 3,
    Kind.REDIS_MEMORY: 2,
    Kind.POSTGRES_KILL: 2,
    Kind.POSTGRES_BACKEND: 2,
    Kind.POSTGRES_PAUSE: 2,
    Kind.API_KILL: 3,
    Kind.API_PAUSE: 3,
    Kind.API_STOP: 2,
    Kind.WORKER_KILL: 2,
    Kind.WORKER_PAUSE: 2,
    Kind.LINK_DELAY: 2,
    Kind.LINK_CUT: 3,
    Kind.LINK_REFUSE: 3,
    Kind.LINK_BLOCK: 3,
    Kind.POINT_KILL: 9,
    Kind.POINT_PAUSE: 7,
    Kind.POINT_LOSE: 7,
    Kind.POINT_HOLD: 6,
    Kind.STALE_API: 4,
    Kind.LATE_JOURNAL: 4,
    Kind.CUT_OFF: 4,
    Kind.POWER_CUT: 1,
    Kind.OPERATE: 2,
}
_JOURNAL = "journal_batch|decide_batch"
_POINTS = (
    *(("redis", "admit"), ("redis", "confirm"), ("postgres", _JOURNAL)) * 3,
    ("redis", "load"),
    ("redis", "open"),
    ("postgres", "open_epoch"),
)
_WORKER_POINTS = (
    ("postgres", "settle_chunk"),
    ("redis", "refresh"),
    ("postgres", "void_attempt"),
    ("postgres", "hold_fence"),
    ("redis", "inspect"),
    ("redis", "confirm"),
    ("postgres", "open_epoch"),
    ("redis", "open"),
)


# A run that keeps losing Redis spends its time in mode postgres, and one that does not never
# leaves mode redis; so each seed makes another family rare.
_THEMES = (("none",), ("redis", "stale"), ("api", "worker", "postgres"), ("point", "late"))
RARER = 0.15


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One planned fault; what a field means depends on the kind."""

    number: int
    at_s: float
    kind: Kind
    lasts_s: float
    process: str = ""  # the API or worker that is hit or whose way to a server is
    server: str = ""  # redis or postgres
    label: str = ""  # the call at which a trap springs
    phase: str = ""  # sent or executed
    victim: str = ""  # whom a trap hits: process, redis or postgres
    manner: str = ""  # a variant of the kind
    share: float = 0.0  # picks one of what is there by then

    def describe(self) -> str:
        """One line for people."""
        shown = {name: value for name, value in self._texts().items() if value}
        words = " ".join(f"{name}={value}" for name, value in shown.items())
        return (
            f"#{self.number} {self.at_s:.2f}s {self.kind} for {self.lasts_s:.2f}s {words}".strip()
        )

    def _texts(self) -> dict[str, str]:
        names = ("process", "server", "label", "phase", "victim", "manner")
        return {name: getattr(self, name) for name in names}


class Cast(NamedTuple):
    """Who may be hit, by name."""

    apis: tuple[str, ...]
    workers: tuple[str, ...]


def plan(
    seed: int,
    seconds: float,
    cast: Cast,
    kinds: Sequence[Kind] = tuple(Kind),
    gap_s: float = GAP_MEAN_S,
) -> list[Fault]:
    """Draw the faults of a run, one every `gap_s` on average."""
    rng = random.Random(f"{seed}:faults")
    rarer = rng.choice(_THEMES)
    weights = [_WEIGHTS[kind] * (RARER if kind.startswith(rarer) else 1) for kind in kinds]
    faults: list[Fault] = []
    at_s = QUIET_FIRST_S
    while kinds:
        at_s += rng.expovariate(1 / gap_s)
        if at_s > seconds - QUIET_LAST_S:
            break
        kind = rng.choices(list(kinds), weights)[0]
        drawn = _draw(kind, rng, cast)
        faults.append(Fault(number=len(faults), at_s=round(at_s, 3), kind=kind, **drawn))
    return faults


def _draw(kind: Kind, rng: random.Random, cast: Cast) -> dict[str, Any]:
    """Draw the particulars of one fault."""
    drawn: dict[str, Any] = {"lasts_s": _lasting(rng), "share": round(rng.random(), 6)}
    family = kind.partition("-")[0]
    if family in ("api", "stale", "late", "cut"):
        drawn["process"] = rng.choice(cast.apis)
    if family == "worker":
        drawn["process"] = rng.choice(cast.workers) if cast.workers else ""
    if family in ("link", "point"):
        drawn.update(_draw_way(kind, rng, cast))
    if kind is Kind.REDIS_PROMOTE:
        drawn["manner"] = rng.choice(("killed", "alive", "returned", "demoted"))
    if kind is Kind.POWER_CUT:
        drawn["manner"] = rng.choice(("servers first", "service first"))
    if kind is Kind.OPERATE:
        drawn["manner"] = rng.choice(("force-postgres", "force-redis", "read-only"))
    if kind is Kind.STALE_API:
        drawn["manner"] = rng.choice(("flush", "kill", "delete", "snapshot"))
        drawn["label"], drawn["phase"] = rng.choice(
            (("admit", "executed"), (_JOURNAL, "sent"), ("load", "sent"), ("admit", "sent"))
        )
    if kind is Kind.CUT_OFF:
        drawn["manner"] = rng.choice(("refused", "blocked"))
        drawn["label"], drawn["phase"] = _JOURNAL, rng.choice(("sent", "executed", "executed"))
    if kind is Kind.LATE_JOURNAL:
        drawn["manner"] = rng.choice(("alive", "killed", "paused"))
        drawn["label"] = _JOURNAL
    return drawn


def _draw_way(kind: Kind, rng: random.Random, cast: Cast) -> dict[str, Any]:
    """Draw whose way to which server, and for a trap the call, its phase and the victim."""
    of_worker = bool(cast.workers) and rng.random() < 0.25
    process = rng.choice(cast.workers if of_worker else cast.apis)
    if kind.startswith("link"):
        return {"process": process, "server": rng.choice(("redis", "postgres"))}
    server, label = rng.choice(_WORKER_POINTS if of_worker else _POINTS)
    drawn = {"process": process, "server": server, "label": label}
    drawn["phase"] = rng.choice(("sent", "executed"))
    if kind is Kind.POINT_HOLD:
        drawn["phase"] = "sent"
        drawn["manner"] = rng.choice(("alive", "alive", "cut", "killed"))
    if kind in (Kind.POINT_KILL, Kind.POINT_PAUSE):
        drawn["victim"] = rng.choice(("process", "process", server, "redis", "postgres"))
        drawn["manner"] = rng.choice(("pass", "lose"))
    if kind is Kind.POINT_LOSE:
        drawn["manner"] = rng.choice(("cut", "drop"))
    return drawn


def _lasting(rng: random.Random) -> float:
    """Mostly short, sometimes longer than every time-out on the way to Redis."""
    longest = rng.choice((0.2, 0.6, 1.5, 3.0))
    return round(rng.uniform(0.05, longest), 3)
