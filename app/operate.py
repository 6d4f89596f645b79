"""`python -m app.operate`: what an operator does to the ledger as a whole.

It works on the database that DATABASE_URL names, whatever else is down. Every act is written down
in `operator_actions` with who did it and why, and shows in `/health/detailed`.
"""

import argparse
import asyncio
import getpass
import os
import socket
import sys

from app import errors, limits
from app.bootstrap import open_operator_services
from app.infra.log import masked, start_log
from app.ledger.detachment import detach_months, month_of
from app.ledger.model import Verification
from app.security.command import act_on_keys, add_key_acts
from app.settings import load_settings

ACTIONS = {
    "status": "show who decides and what operators have set",
    "verify": "compare everything with everything; exit code 1 when something differs",
    "force-redis": "nobody may take the decision away from Redis",
    "force-postgres": "PostgreSQL decides until told otherwise",
    "automatic": "nothing is forced any more",
    "read-only": "accept nothing from here on; reads go on",
    "drain": "the same, and settle what is pending, before maintenance",
    "resume": "accept again after read-only or drain",
    "detach": "take the journal's months before --before out of it; their tables stay",
    "key": "make, list or revoke API keys",
}
_DRAIN_S = 60
_DRAIN_PAUSE_S = 0.1
_ACTOR_LENGTH_MAX = 200


async def operate(arguments: argparse.Namespace) -> int:
    """Do one thing and say what came of it; 0 when it is as it should be."""
    async with open_operator_services(load_settings(os.environ)) as services:
        if arguments.action == "key":
            return await act_on_keys(services.keys, arguments)
        if arguments.action == "verify":
            return _tell(await services.verifier.verify(limits.VERIFY_COMMAND_S))
        if arguments.action == "detach":
            before = month_of(arguments.before)
            tables = await detach_months(services.store, before, arguments.by, arguments.reason)
            print(f"detached, and kept as tables of their own: {', '.join(tables)}")
        elif arguments.action != "status":
            action = arguments.action.replace("-", "_")
            epoch = await services.store.control(action, arguments.by, arguments.reason)
            print(f"done: {arguments.action}; epoch {epoch} rules")
        if arguments.action == "drain":
            async with asyncio.timeout(_DRAIN_S):
                while (await services.store.health_facts()).settler_lag_ms:
                    await services.settler.settle()
                    await asyncio.sleep(_DRAIN_PAUSE_S)
            print("drained: nothing is pending")
        state = await services.mode.read_state()
        facts = await services.store.health_facts()
        print(
            f"mode {state['mode']}, epoch {state['epoch']}, forced {state['forced_mode'] or 'no'}"
        )
        if facts.controls is not None and facts.controls.last_action is not None:
            controls = facts.controls
            at = controls.last_action_at
            print(f"last act: {controls.last_action} by {controls.last_actor} at {at}")
        return 0


def _tell(verification: Verification) -> int:
    counts = ", ".join(f"{count} {name}" for name, count in verification.compared.items())
    print(f"compared {counts} in {verification.duration_ms:.0f} ms")
    for mismatch in verification.mismatches:
        print(
            f"MISMATCH {mismatch.kind} in {mismatch.store}, account {mismatch.account_id}:"
            f" expected {mismatch.expected}, found {mismatch.found} {mismatch.place}"
        )
    if not verification.complete:
        print("not complete: time ran out, or Redis went away")
    verdict = "verified" if verification.is_clean else "mismatch"
    print(verdict)
    return 0 if verification.is_clean and verification.complete else 1


def _actor() -> str:
    """Name whoever runs this, also where the user has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_ACTOR_LENGTH_MAX]


def main(arguments: list[str]) -> int:
    """Run one command; 2 when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m app.operate")
    acts = parser.add_subparsers(dest="action", required=True, metavar="action")
    noted = argparse.ArgumentParser(add_help=False)
    noted.add_argument("--by", default=_actor(), help="who does it")
    noted.add_argument("--reason", default="", help="why, for whoever reads it later")
    for name, what in ACTIONS.items():
        if name == "key":
            add_key_acts(acts.add_parser(name, help=what), noted)
        else:
            act = acts.add_parser(name, help=what, parents=[noted])
            if name == "detach":
                act.add_argument("--before", help="the first month that stays, as YYYY-MM")
    start_log("operate", "error", dict, stream=sys.stderr)
    try:
        return asyncio.run(operate(parser.parse_args(arguments)))
    except (errors.LedgerError, TimeoutError) as error:
        detail = error.detail if isinstance(error, errors.LedgerError) else "it took too long"
        print(f"error: {masked(detail)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
