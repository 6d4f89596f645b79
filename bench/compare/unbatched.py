"""This service with and without micro-batching: what a lonely request waits, what many get.

"Unbatched" is the same code with batches of one: one admission, one commit and one confirm each.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from bench.compare.contestants import Ledger, Say, Service, measured, warm_up
from bench.compare.marks import Alone
from bench.compare.plan import in_turns
from bench.compare.samples import Cell, Median, Sample

BATCHED, UNBATCHED = "micro-batched", "unbatched, 16 slots"
_ONE = {"SUBBALANCE_BATCH_ITEMS": "1"}
VARIANTS = {
    BATCHED: {},
    "unbatched, 4 slots": {**_ONE, "SUBBALANCE_SLOTS": "4"},
    UNBATCHED: {**_ONE, "SUBBALANCE_SLOTS": "16"},
    "unbatched, 32 slots": {**_ONE, "SUBBALANCE_SLOTS": "32"},
}
BUSY_CONNECTIONS = (64, 256)
_CONFIDENCE = 0.95


def lonely(ledger: Ledger, rounds: int, seconds: float, say: Say) -> list[Sample]:
    """One connection: both variants are up at once and driven in turns, so they share the noise.

    Each is the first to be started half of the time, for that alone makes a difference.
    """
    samples: list[Sample] = []
    for half, order in enumerate(((BATCHED, UNBATCHED), (UNBATCHED, BATCHED))):
        services = {
            variant: Service(ledger, f"lonely-{half}-{number}", VARIANTS[variant])
            for number, variant in enumerate(order)
        }
        for variant, service in services.items():
            warm_up(service, Cell(variant, 1, 1))
        for number in range(half * rounds // 2, (half + 1) * rounds // 2):
            for variant in order[:: 1 if number % 2 else -1]:
                cell = Cell(variant, 1, 1)
                samples.append(measured(services[variant], cell, number + 1, seconds, say))
        for service in services.values():
            service.api.stop()
    return samples


def busy(ledger: Ledger, rounds: int, seconds: float, say: Say) -> list[Sample]:
    """Many connections: one variant after the other, round by round, all up at once."""
    services = {
        variant: Service(ledger, f"busy-{number}", settings)
        for number, (variant, settings) in enumerate(VARIANTS.items())
    }
    wanted = [
        Cell(variant, 1, connections) for connections in BUSY_CONNECTIONS for variant in VARIANTS
    ]
    for variant, service in services.items():
        warm_up(service, Cell(variant, 1, BUSY_CONNECTIONS[0]))
    return [
        measured(services[cell.competitor], cell, number, seconds, say)
        for number in range(1, rounds + 1)
        for cell in in_turns(wanted, number)
    ]


def gains(found: Mapping[Cell, Median]) -> list[str]:
    """Write how many times as many requests micro-batching serves as the best of the others."""
    table = ["| conns | micro-batched, tx/s | best unbatched, tx/s | times |", "|---|---|---|---|"]
    for connections in BUSY_CONNECTIONS:
        rates = {variant: found[Cell(variant, 1, connections)].per_second for variant in VARIANTS}
        ours = rates.pop(BATCHED)
        best = max(rates.values())
        table.append(f"| {connections} | {ours:,.0f} | {best:,.0f} | {ours / best:.2f} |")
    return table


def alone(samples: Sequence[Sample]) -> Alone:
    """Compare the two variants turn by turn."""
    p50 = {(s.cell.competitor, s.round): s.figures.p50_us for s in samples}
    turns = sorted({number for _, number in p50})
    ratios = sorted(p50[BATCHED, number] / p50[UNBATCHED, number] for number in turns)
    low, high = interval(ratios)
    return Alone(statistics.median(ratios), low, high, len(ratios))


def interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Bound the median at 95 % confidence by order statistics; assumes nothing of the noise."""
    count, chance, left_out = len(ordered), 0.0, 0
    for number in range(count // 2):
        chance += math.comb(count, number) / 2**count
        if 2 * chance > 1 - _CONFIDENCE:
            break
        left_out = number + 1
    return ordered[max(0, left_out - 1)], ordered[min(count - 1, count - left_out)]
