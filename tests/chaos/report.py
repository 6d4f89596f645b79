"""What a run did and found, as text and as JSON."""

from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec

from tests.chaos.checker import Violation
from tests.chaos.faults import Incident
from tests.chaos.history import History
from tests.chaos.schedule import Kind
from tests.chaos.stage import Ended
from tests.chaos.trial import Rest

SHOWN_VIOLATIONS_MAX = 12
DETAIL_CHARACTERS_MAX = 2_500


class Report(msgspec.Struct, kw_only=True):
    """One run."""

    seed: int
    seconds: float
    timing: str
    environment: dict[str, str]
    requests: dict[str, int]
    operations: int
    rows: int
    behind: int
    reads: int
    changes: int
    events: int
    told_s: float
    accepted_per_s: float
    accepted_by_mode: dict[str, int]
    longest_silence_s: float
    silent_from_s: float
    faults: dict[str, int]
    not_carried_out: dict[str, int]
    recovery_s: dict[str, float]
    switch_s: dict[str, float]
    ready_s: float
    settled_s: float
    settled_bound_s: float
    epochs: dict[str, int]
    calls: dict[str, int]
    verify: str
    ended: list[Ended]
    violations: list[Violation]
    incidents: list[str]

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was found."""
        return not self.violations

    def text(self) -> str:
        """The report for people."""
        lines = [
            f"seed {self.seed}: {self.seconds:.0f} s, timing {self.timing}",
            f"  load      {self.operations} operations, {self.rows} rows, {self.reads} reads",
            f"  accounts  were changed {self.changes} times",
            f"  requests  {_counted(self.requests)}",
            f"  accepted  {self.accepted_per_s:.0f}/s, {_counted(self.accepted_by_mode)}",
            f"  silence   {self.longest_silence_s:.2f} s at most, from {self.silent_from_s:.1f} s",
            f"  faults    {_counted(self.faults)}",
        ]
        if self.not_carried_out:
            lines.append(f"  no effect {_counted(self.not_carried_out)}")
        worst = sorted(self.recovery_s.items(), key=lambda item: -item[1])
        lines.append("  recovery  " + ", ".join(f"{kind} {s:.2f} s" for kind, s in worst))
        if self.switch_s:
            switches = (f"{name} {s:.2f} s" for name, s in self.switch_s.items())
            lines.append("  switches  " + ", ".join(switches) + " at most")
        lines.append(
            f"  after it  ready {self.ready_s:.1f} s, settled and equal {self.settled_s:.1f} s "
            f"(bound {self.settled_bound_s:.0f} s), epochs {_counted(self.epochs)}, "
            f"verify: {self.verify}"
        )
        lines.append(f"  events    {self.events} told to all after {self.told_s:.1f} s more")
        if self.behind:
            lines.append(f"  {self.behind} accounts show an earlier settlement in Redis")
        for one in self.ended:
            last = one.log_tail.splitlines()[-1:] or ["it wrote nothing"]
            how = f"ended by itself at {one.at_s:.1f} s with status {one.status}"
            lines.append(f"  {one.name} {how}: {last[0]}")
        return "\n".join([*lines, *self._violations()])

    def _violations(self) -> list[str]:
        if self.is_clean:
            return ["  violations: none"]
        counts = Counter(violation.kind for violation in self.violations)
        lines = [f"  VIOLATIONS: {_counted(dict(counts))}   (--seed {self.seed})"]
        for violation in self.violations[:SHOWN_VIOLATIONS_MAX]:
            detail = msgspec.json.format(to_json(violation.detail), indent=2).decode()
            lines.append(f"  {violation.kind}: {violation.subject}")
            lines += [f"    {line}" for line in detail[:DETAIL_CHARACTERS_MAX].splitlines()]
        if len(self.violations) > SHOWN_VIOLATIONS_MAX:
            lines.append(f"  and {len(self.violations) - SHOWN_VIOLATIONS_MAX} more")
        return [*lines, "  what was done:", *(f"    {line}" for line in self.incidents)]


def to_json(value: Any) -> bytes:
    """Encode anything the kit reports."""
    return msgspec.json.encode(value, enc_hook=str)


def _counted(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count}" for name, count in ordered) or "none"


def of_load(history: History, seconds: float) -> dict[str, Any]:
    """The part of a report that the clients' history tells."""
    silence_s, silent_from_s = longest_silence(history, seconds)
    return {
        "seconds": seconds,
        "requests": history.count_by_outcome(),
        "operations": len(history.operations),
        "reads": history.reads,
        "changes": sum(len(rules) - 1 for rules in history.rules.values()),
        "accepted_per_s": round(len(history.accepted_instants()) / seconds, 1),
        "accepted_by_mode": accepted_by_mode(history),
        "longest_silence_s": silence_s,
        "silent_from_s": silent_from_s,
    }


def of_faults(history: History, incidents: list[Incident], apis: list[str]) -> dict[str, Any]:
    """The part of a report about what was broken."""
    kinds = [(str(one.fault.kind), one.happened) for one in incidents]
    return {
        "faults": dict(Counter(kind for kind, happened in kinds if happened)),
        "not_carried_out": dict(Counter(kind for kind, happened in kinds if not happened)),
        "recovery_s": recovery_times(history, incidents, apis),
        "switch_s": switch_times(history, incidents),
        "incidents": incident_lines(incidents),
    }


def of_rest(rest: Rest, bound_s: float) -> dict[str, Any]:
    """The part of a report about what was found afterwards."""
    return {
        "ready_s": rest.ready_s,
        "settled_s": rest.settled_s,
        "settled_bound_s": bound_s,
        "rows": rest.rows,
        "behind": rest.behind,
        "events": rest.events,
        "told_s": rest.told_s,
        "verify": rest.verify,
        "violations": rest.violations,
    }


def incident_lines(incidents: list[Incident]) -> list[str]:
    """One line for each fault, with its real instants."""
    return [
        f"{one.began_s:7.3f}-{one.healed_s:7.3f} {one.fault.describe()}"
        + (f"  [{one.note}]" if one.note else "")
        for one in sorted(incidents, key=lambda one: one.began_s)
    ]


def recovery_times(
    history: History, incidents: list[Incident], apis: list[str]
) -> dict[str, float]:
    """For each kind the longest time from its end until every API had accepted something anew.

    Counted only where no other fault was there meanwhile and the clients went on long enough.
    """
    accepted = history.accepted_instants()
    worst: dict[str, float] = {}
    for incident in incidents:
        firsts = [_first_after(accepted, api, incident.healed_s) for api in apis]
        recovered_s = max((first for first in firsts if first is not None), default=0.0)
        if None in firsts or not incident.happened:
            continue
        if not any(_is_there(other, incident, recovered_s) for other in incidents):
            kind, took = str(incident.fault.kind), recovered_s - incident.healed_s
            worst[kind] = round(max(worst.get(kind, 0.0), took), 3)
    return worst


def switch_times(history: History, incidents: list[Incident]) -> dict[str, float]:
    """The longest time from Redis's death to the first acceptance by PostgreSQL, and from its
    return to the first one by Redis again, where no other fault of Redis came in between.
    """
    answers = sorted(
        (sending.started_s, sending.ended_s, str(sending.fields.get("mode")))
        for operation in history.operations
        for sending in operation.accepted
        if not sending.replayed
    )
    of_redis = [one for one in incidents if one.happened and _touches_redis(one)]
    worst: dict[str, float] = {}
    for incident in of_redis:
        if incident.fault.kind is not Kind.REDIS_KILL:
            continue
        others = [other for other in of_redis if other is not incident]
        until_s = min((o.began_s for o in others if o.healed_s > incident.began_s), default=1e9)
        for name, mode, since_s in (
            ("to postgres", "postgres", incident.began_s),
            ("back to redis", "redis", incident.healed_s),
        ):
            ends = (end for start, end, by in answers if by == mode and since_s <= start < until_s)
            first = min(ends, default=None)
            if first is not None and until_s > since_s:
                worst[name] = round(max(worst.get(name, 0.0), first - since_s), 3)
    return worst


def _touches_redis(incident: Incident) -> bool:
    fault = incident.fault
    return fault.kind.startswith(("redis", "stale", "power")) or "redis" in (
        fault.server,
        fault.victim,
    )


def _first_after(
    accepted: list[tuple[float, float, str]], api: str, instant: float
) -> float | None:
    """When an API first accepted something that was sent after an instant."""
    ends = (end for start, end, name in accepted if name == api and start >= instant)
    return min(ends, default=None)


def _is_there(other: Incident, incident: Incident, until_s: float) -> bool:
    """Tell whether another fault was there between an incident's end and a later instant."""
    is_another = other is not incident and other.happened
    return is_another and other.began_s < until_s and other.healed_s > incident.healed_s


def longest_silence(history: History, seconds: float) -> tuple[float, float]:
    """The longest time during the load in which nothing was accepted, and when it began."""
    ends = sorted(end for _, end, _ in history.accepted_instants() if end <= seconds)
    marks = [0.0, *ends, seconds]
    silence_s, from_s = max((later - earlier, earlier) for earlier, later in pairwise(marks))
    return round(silence_s, 3), round(from_s, 3)


def accepted_by_mode(history: History) -> dict[str, int]:
    """How many operations each mode accepted, as far as the answers say."""
    modes: Counter[str] = Counter()
    for operation in history.operations:
        if operation.accepted:
            modes[str(operation.accepted[0].fields.get("mode", "unnamed mode"))] += 1
    return dict(modes)
