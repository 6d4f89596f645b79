"""`python -m tests.protocol`: search the scenarios, with all guards or without some.

Prints `safe` and the number of states, or the shortest history that breaks a guarantee; exits 1
if one breaks.
"""

import argparse
import random
import sys
import time

from tests.protocol.explore import Finding, explore, walk
from tests.protocol.scenarios import MARKET, REDUNDANT, SCENARIOS, SHOWN_BY
from tests.protocol.world import ALL_GUARDS, Guards, Scenario, World

_WALK_STEPS_MAX = 200


def main() -> int:
    """Do what the command line asks; 0 when nothing breaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", action="append", default=[], choices=Guards._fields)
    parser.add_argument("--scenario", choices=SCENARIOS)
    parser.add_argument("--faults", type=int, help="instead of the scenario's own bound")
    parser.add_argument("--walks", type=int, default=0, help="random walks instead of a search")
    parser.add_argument("--seed", type=int, help="of the first walk; drawn and printed if missing")
    options = parser.parse_args()
    guards = ALL_GUARDS._replace(**dict.fromkeys(options.without, False))
    if options.walks:
        seed = random.randrange(10**6) if options.seed is None else options.seed
        scenario = SCENARIOS[options.scenario] if options.scenario else MARKET
        return _walk(World(_bounded(scenario, options.faults), guards), seed, options.walks)
    broken = False
    for name in _names(options.scenario, options.without):
        started = time.perf_counter()
        finding = explore(World(_bounded(SCENARIOS[name], options.faults), guards))
        duration_s = time.perf_counter() - started
        print(f"{name}: {finding.states} states, {duration_s:.1f} s: {_verdict(finding)}")
        broken = broken or finding.broken is not None
    return int(broken)


def _names(scenario: str | None, without: list[str]) -> list[str]:
    """The scenarios to search: the one asked for, those that show a guard's lack, or all."""
    if scenario:
        return [scenario]
    where = {guard: name for guard, (name, _) in SHOWN_BY.items()}
    where |= {guard: name for guard, (_, name) in REDUNDANT.items()}
    shown = [where[guard] for guard in without]
    return list(dict.fromkeys(shown)) or list(SCENARIOS)


def _bounded(scenario: Scenario, faults: int | None) -> Scenario:
    return scenario if faults is None else scenario._replace(faults_max=faults)


def _walk(world: World, seed: int, count: int) -> int:
    print(f"{count} walks from seed {seed}")
    steps = 0
    for number in range(seed, seed + count):
        finding = walk(world, number, _WALK_STEPS_MAX)
        steps += finding.states
        if finding.broken:
            print(f"seed {number}: {_verdict(finding)}")
            return 1
    print(f"{steps} steps: safe")
    return 0


def _verdict(finding: Finding) -> str:
    if finding.broken is None:
        return "safe"
    steps = "".join(f"\n  {label}" for label in finding.history)
    return f"BROKEN after {len(finding.history)} steps: {finding.broken}{steps}"


if __name__ == "__main__":
    sys.exit(main())
