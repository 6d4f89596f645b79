"""The balance integrity check: what clients were told against what the stores hold, to the cent.

Pure: two records in, a list of checks out, so that tests can falsify a record and see it noticed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tests.drills.history import History, Intention, Outcome
from tests.drills.observed import Observed, Row

_SHOWN_MAX = 5
_OPENING_PREFIX = "opening:"


class Check(NamedTuple):
    """One statement, whether it holds, and the facts it was judged by."""

    name: str
    passed: bool
    detail: str


def all_passed(checks: Iterable[Check]) -> bool:
    """Tell whether every one of at least one check holds."""
    results = [check.passed for check in checks]
    return bool(results) and all(results)


def check_integrity(history: History, observed: Observed) -> list[Check]:
    """Judge a finished drill; Redis must have been brought back and all accounts be loaded."""
    return [
        *check_journal(history, observed),
        *check_books(observed),
        _three_stores_agree(observed),
        _nothing_reserved(observed),
        _nothing_stale(observed),
        _verified(observed),
    ]


def check_journal(history: History, observed: Observed) -> list[Check]:
    """Compare what clients were told with the journal."""
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in observed.rows:
        by_key[row.key or ""].append(row)
    return [
        _acknowledged_once(history, by_key),
        _one_answer_per_key(history),
        _nothing_unasked(history, by_key),
        _refused_changed_nothing(history, by_key),
        _modes_are_told(history, by_key),
        _sums_agree(history, observed, by_key),
    ]


def check_books(observed: Observed) -> list[Check]:
    """Check what must hold of PostgreSQL by itself, whoever was told what."""
    return [_conserved(observed), _balances_are_sums(observed), _never_overdrawn(observed)]


def judged(name: str, wrong: list[str], right: str) -> Check:
    """A check that lists what is wrong, or says how much was right."""
    if not wrong:
        return Check(name, True, right)
    more = f" and {len(wrong) - _SHOWN_MAX} more" if len(wrong) > _SHOWN_MAX else ""
    return Check(name, False, "; ".join(wrong[:_SHOWN_MAX]) + more)


def _matches(intention: Intention, row: Row) -> bool:
    return (row.account_id, row.change_minor) == (intention.account_id, intention.change_minor)


def _acknowledged_once(history: History, by_key: dict[str, list[Row]]) -> Check:
    wrong = []
    accepted = history.with_outcome(Outcome.ACCEPTED)
    for intention in accepted:
        rows = by_key.get(intention.key, [])
        if len(rows) != 1:
            wrong.append(f"{intention.key} was accepted and has {len(rows)} rows")
        elif not _matches(intention, rows[0]):
            wrong.append(f"{intention.key} asked {intention.change_minor}, row {rows[0]}")
        elif intention.acceptances[0].transaction_id != rows[0].transaction_id:
            wrong.append(f"{intention.key} was told another id than {rows[0].transaction_id}")
    return judged(
        "every 2xx is in the journal exactly once", wrong, f"{len(accepted)} acknowledged movements"
    )


def _one_answer_per_key(history: History) -> Check:
    wrong = [
        f"{intention.key} was told {len(ids)} ids"
        for intention in history.intentions
        if len(ids := {sending.transaction_id for sending in intention.acceptances}) > 1
    ]
    replayed = sum(sending.replayed for _, sending in history.sendings())
    return judged("a repeated key gets the first answer", wrong, f"{replayed} replays")


def _nothing_unasked(history: History, by_key: dict[str, list[Row]]) -> Check:
    wanted = {intention.key: intention for intention in history.intentions}
    wrong, openings = [], Counter[str]()
    for key, rows in by_key.items():
        for row in rows:
            if key in wanted:
                if not _matches(wanted[key], row):
                    wrong.append(f"{key} moved {row.change_minor} on {row.account_id}")
            elif key == f"{_OPENING_PREFIX}{row.account_id}":
                openings[row.account_id] += row.change_minor
            else:
                wrong.append(f"row {row.transaction_id} was asked by nobody")
        if key in wanted and len(rows) > 1:
            wrong.append(f"{key} moved {len(rows)} times")
    wrong += [
        f"{account_id} was opened with {openings[account_id]}"
        for account_id in history.openings.keys() | openings.keys()
        if openings[account_id] != history.openings.get(account_id, 0)
    ]
    rows_count = sum(len(rows) for rows in by_key.values())
    return judged("the journal holds nothing that was not asked", wrong, f"{rows_count} rows")


def _refused_changed_nothing(history: History, by_key: dict[str, list[Row]]) -> Check:
    refused = history.with_outcome(Outcome.REFUSED)
    wrong = [
        f"{intention.key} was refused ({intention.sendings[-1].code}) and has a row"
        for intention in refused
        if intention.key in by_key
    ]
    return judged("a definite refusal changed nothing", wrong, f"{len(refused)} refused")


def _modes_are_told(history: History, by_key: dict[str, list[Row]]) -> Check:
    """Every acceptance names who decided, a repeated one too, and the journal names the same."""
    wrong, told = [], 0
    for intention in history.intentions:
        modes = {row.mode for row in by_key.get(intention.key, [])}
        for sending in intention.acceptances:
            told += 1
            if modes != {sending.mode}:
                wrong.append(f"{intention.key} was told {sending.mode}, the journal says {modes}")
    return judged("answers name who decided", wrong, f"{told} answers named a mode")


def _sums_agree(history: History, observed: Observed, by_key: dict[str, list[Row]]) -> Check:
    """Opening plus accepted changes is the balance; unknown ones count by what became of them."""
    expected, unknown = Counter[str](history.openings), 0
    for intention in history.intentions:
        outcome = intention.outcome
        if outcome is Outcome.UNKNOWN:
            unknown += 1
        if outcome is Outcome.ACCEPTED or (outcome is Outcome.UNKNOWN and intention.key in by_key):
            expected[intention.account_id] += intention.change_minor
    wrong = []
    for account_id in history.openings:
        balance = observed.balances.get(account_id)
        found = None
        if balance is not None:
            found = balance.available_minor - observed.limits_minor[account_id]
        if found != expected[account_id]:
            wrong.append(f"{account_id}: accepted {expected[account_id]}, balance {found}")
    detail = f"{len(history.openings)} accounts to the cent, {unknown} intentions left unknown"
    return judged("sum of accepted = change of balance", wrong, detail)


def _three_stores_agree(observed: Observed) -> Check:
    wrong = []
    for account_id, balance in observed.balances.items():
        sources = {"Redis": observed.redis.get(account_id)}
        sources |= {f"API {url}": said.get(account_id) for url, said in observed.api.items()}
        wrong += [
            f"{account_id}: PostgreSQL {tuple(balance)}, {name} {said and tuple(said)}"
            for name, said in sources.items()
            if said != balance
        ]
    if not observed.api or observed.mode != "redis":
        wrong.append(f"nothing to compare: mode {observed.mode}, {len(observed.api)} instances")
    detail = f"{len(observed.balances)} accounts, {len(observed.api)} instances"
    return judged("API = PostgreSQL = Redis to the cent", wrong, detail)


def _conserved(observed: Observed) -> Check:
    wrong = [
        f"{currency}: settled {settled}, pending {pending} left over"
        for currency, (settled, pending) in observed.totals_minor.items()
        if settled or pending
    ]
    if not observed.totals_minor:
        wrong.append("there are no balances")
    return judged(
        "per currency all balances sum to zero", wrong, ", ".join(sorted(observed.totals_minor))
    )


def _balances_are_sums(observed: Observed) -> Check:
    settled, debit, credit = Counter[str](), Counter[str](), Counter[str]()
    for row in observed.rows:
        if row.status == "SETTLED":
            settled[row.account_id] += row.change_minor
        elif row.change_minor < 0:
            debit[row.account_id] -= row.change_minor
        else:
            credit[row.account_id] += row.change_minor
    wrong = []
    for account_id, balance in observed.balances.items():
        sums = (settled[account_id], debit[account_id], credit[account_id])
        available = sums[0] + sums[2] - sums[1] + observed.limits_minor[account_id]
        if tuple(balance) != (*sums, available):
            wrong.append(f"{account_id}: rows say {sums}, balance says {tuple(balance)}")
    return judged("balances are the sums of their rows", wrong, f"{len(observed.rows)} rows")


def _never_overdrawn(observed: Observed) -> Check:
    """Walk the journal in its order; no prefix of it may overdraw an account."""
    running, wrong, lowest = Counter[str](), [], Counter[str]()
    for row in sorted(observed.rows, key=lambda row: (row.batch_seq, row.item_no)):
        running[row.account_id] += row.change_minor
        left = running[row.account_id] + observed.limits_minor.get(row.account_id, 0)
        if left < min(0, lowest[row.account_id]):
            wrong.append(f"{row.account_id} at {left} after batch {row.batch_seq}")
            lowest[row.account_id] = left
    return judged(
        "no account is overdrawn at any prefix of the journal", wrong, f"{len(observed.rows)} rows"
    )


def _nothing_reserved(observed: Observed) -> Check:
    return judged(
        "no reservation is left in Redis", observed.reservations, f"epoch {observed.epoch}"
    )


def _nothing_stale(observed: Observed) -> Check:
    name = "nothing of ended epochs is left in Redis"
    return judged(name, observed.stale_keys, f"epoch {observed.epoch}")


def _verified(observed: Observed) -> Check:
    """Take the service's own proof too; it must have compared every account with Redis."""
    said = observed.verify
    wrong = [f"{found}" for found in said.get("mismatches", [])]
    if said.get("status") != "verified":
        wrong.append(f"status: {said.get('status')}")
    if said.get("complete") is not True:
        wrong.append("not complete")
    compared = said.get("compared", {})
    if compared.get("redis_accounts", 0) != len(observed.balances):
        wrong.append(f"Redis was compared for {compared.get('redis_accounts', 0)} accounts")
    facts = ", ".join(f"{name} {count}" for name, count in sorted(compared.items()))
    return judged("GET /api/v1/verify proves it", wrong, facts)
