"""Compares what the clients were told with what the servers hold, and the servers with themselves.

Pure: it gets a history and facts and returns violations. Each one is provable from what it is
given; where an outcome was unknown to every client, both ends are allowed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from tests.chaos.facts import EntryRow, Facts, FoundRow, LineRow, reservations
from tests.chaos.history import Bulk, History, Operation, Outcome, Sending
from tests.chaos.hold_checker import CLAIMS_NOTHING, ending_holds, wrong_holds
from tests.chaos.rule_checker import wrong_by_rules

REUSED = "idempotency_key_reused"
CONFLICT = "idempotency_identity_conflict"
OPENING_REFERENCE = "opening balance"
EXTERNAL = "external"
VANISHED, LEAKED = "redis_vanished", "reservation_leaked"
# No kind of the service's own: amounts that stay taken, for what held them was deleted.
FORGOTTEN = "forgotten"
_REQUEST_NAMES = ("key:{}", "part:0:{}")
MADE_BY_FAULTS = frozenset({VANISHED, LEAKED})
NAMES_A_REQUEST = -1
IN_FLIGHT = frozenset({"left_in_flight", "leaked_reservation", "incoming_left"})
# What may be so while the service is still coming to rest.
MAY_PASS = IN_FLIGHT | {
    "not_settled",
    "hold_not_ended",
    "redis_does_not_decide",
    "redis_unreadable",
    "ruling_epoch_has_no_token",
    "loaded_set_differs",
    "redis_available_differs",
    "redis_entries_differ",
    "redis_split_differs",
}


class Violation(NamedTuple):
    """Something that must not be: what kind, whose, and the numbers."""

    kind: str
    subject: str
    detail: dict[str, Any]


def check(
    history: History,
    facts: Facts,
    *,
    is_whole: bool = True,
    explained: frozenset[str] = MADE_BY_FAULTS,
) -> list[Violation]:
    """Everything that can be compared.

    Not `is_whole` when the facts are the run's own part. `explained` are the kinds of mismatches
    that the service's own check may have found because of the faults.
    """
    found = [*check_operations(history, facts), *check_reads(history), *check_prefixes(facts)]
    found += [*check_keys(history, facts), *check_settlement(facts), *check_views(facts)]
    for kind, subject, detail in wrong_by_rules(history):
        found.append(Violation(kind, subject, {"told": detail}))
    found += [*check_verifications(facts, explained), *check_once(history, facts)]
    found += [Violation("hold_not_ended", each, {}) for each in ending_holds(facts)]
    found += check_bulks(history, facts)
    if is_whole:
        found += check_request_keys(history, facts)
        found += [*check_conservation(facts), *check_batches(facts)]
    if facts.redis is not None:
        found += check_redis(facts)
    return found


def check_operations(history: History, facts: Facts) -> Iterator[Violation]:
    """Each operation has as many rows as its answers say, and they say what it said."""
    rows: dict[str, list[EntryRow]] = defaultdict(list)
    for entry in facts.entries:
        rows[entry.reference].append(entry)
    known = {operation.reference for operation in history.operations}
    for operation in history.operations:
        if not operation.holds:
            yield from _check_operation(operation, rows[operation.reference])
    for kind, reference, detail in wrong_holds(history.operations, facts):
        yield Violation(kind, reference, {"hold": detail})
    for entry in facts.entries:
        is_opening = entry.reference == OPENING_REFERENCE
        if entry.account_id in history.accounts and not is_opening and entry.reference not in known:
            yield Violation("row_nobody_asked_for", entry.reference, entry._asdict())


def _check_operation(operation: Operation, rows: list[EntryRow]) -> Iterator[Violation]:
    for kind in (*_wrong_rows(operation, rows), *_wrong_answers(operation)):
        detail = {"operation": operation.summary(), "rows": [row._asdict() for row in rows]}
        yield Violation(kind, operation.reference, detail)


def _wrong_rows(operation: Operation, rows: list[EntryRow]) -> Iterator[str]:
    accepted = operation.accepted
    sent = [sending for sending in operation.sendings if not sending.is_other_body]
    movements = operation.movements
    if len(rows) > len(movements):
        yield "moved_more_than_once"
    if 0 < len(rows) < len(movements):
        yield "done_in_part"
    if accepted and not rows:
        yield "acknowledged_and_lost"
    if rows and all(sending.outcome in CLAIMS_NOTHING for sending in sent):
        yield "refused_and_applied"
    if rows and sorted((row.account_id, row.change_minor) for row in rows) != sorted(movements):
        yield "row_differs_from_request"
    ids = {row.transaction_id for row in rows}
    if rows and operation.transaction_id not in {None, *ids}:
        yield "row_has_another_id"
    if rows and {name for sending in accepted for name in _told(sending)} - ids:
        yield "answer_names_another_row"


def check_bulks(history: History, facts: Facts) -> Iterator[Violation]:
    """Of an atomic request all transactions are there, or none."""
    for bulk, batches in _places(history, facts):
        if bulk.is_atomic and None in batches and any(batches):
            sent = [operation.summary() for operation in bulk.operations]
            detail = {"key": bulk.key, "batches": batches, "operations": sent}
            yield Violation("done_in_part", bulk.operations[0].reference, detail)


def check_request_keys(history: History, facts: Facts) -> Iterator[Violation]:
    """A key that names a whole request stands with its transactions, and with nothing else."""
    names = {key.name: key.batch_seq for key in facts.keys if key.item_no == NAMES_A_REQUEST}
    for bulk, batches in _places(history, facts):
        if bulk.key is not None:
            named = {names.pop(name.format(bulk.key), None) for name in _REQUEST_NAMES}
            if named != ({place for place in batches if place} or {None}):
                detail = {"named": named, "batches": batches}
                yield Violation("key_and_rows_disagree", bulk.key, detail)
    for name in names:
        yield Violation("key_without_request", name, {})


def _places(history: History, facts: Facts) -> Iterator[tuple[Bulk, list[int | None]]]:
    """Each request of several, and the batches of its transactions."""
    places = {entry.reference: entry.batch_seq for entry in facts.entries}
    for bulk in history.bulks:
        yield bulk, [places.get(operation.reference) for operation in bulk.operations]


def check_once(history: History, facts: Facts) -> Iterator[Violation]:
    """A version that was read is good for one transaction, and one is taken back once."""
    there = {entry.reference for entry in facts.entries}
    used: dict[tuple[str, object], list[str]] = defaultdict(list)
    for operation in history.operations:
        if operation.reference in there and operation.version is not None:
            used[operation.account_id, operation.version].append(operation.reference)
        if operation.reference in there and operation.reverses is not None:
            used["reversal", operation.reverses].append(operation.reference)
    for (subject, what), references in used.items():
        if len(references) > 1:
            kind = "reversed_twice" if subject == "reversal" else "one_version_two_transactions"
            yield Violation(kind, f"{subject} {what}", {"references": references})


def _told(sending: Sending) -> Iterator[str]:
    """The ids of the movements that an answer names."""
    if "transfers" in sending.fields:
        for transfer in sending.fields["transfers"]:
            yield transfer["transfer_id"]
            yield transfer["credit_transaction_id"]
    else:
        yield str(sending.fields.get("transaction_id"))


def _wrong_answers(operation: Operation) -> Iterator[str]:
    accepted = operation.accepted
    for of_bulk in (False, True):
        answers = {sending.answer for sending in accepted if sending.of_bulk is of_bulk}
        if len(answers) > 1:
            yield "replay_differs"
    if sum(not sending.replayed for sending in accepted) > 1:
        yield "accepted_anew_twice"
    for sending in operation.sendings:
        if sending.outcome is Outcome.BROKEN:
            yield "broken_answer"
        was_decided = sending.outcome in (Outcome.ACCEPTED, Outcome.REFUSED)
        if sending.is_other_body and was_decided and sending.code != REUSED:
            yield "other_body_not_refused_as_reused"
        if not sending.is_other_body and sending.code in (REUSED, CONFLICT):
            yield "same_body_refused_as_reused"


def check_reads(history: History) -> Iterator[Violation]:
    """What was accepted was found by whoever looked."""
    for miss in history.invisible:
        detail = {"api": miss.api, "at_s": miss.at_s, "what": miss.detail}
        yield Violation("accepted_and_not_visible", miss.operation.reference, detail)


def check_verifications(facts: Facts, explained: frozenset[str]) -> Iterator[Violation]:
    """The service's own check found nothing but what a fault of the kit explains.

    It repairs what it finds in Redis, so that by now it may be gone.
    """
    for row in facts.found:
        if row.kind not in explained and not (FORGOTTEN in explained and _stays_taken(row)):
            yield Violation("verification_found", f"{row.kind} {row.account_id}", row._asdict())


def _stays_taken(row: FoundRow) -> bool:
    """Tell whether Redis holds back what PostgreSQL has to spend; the other way is an error."""
    if row.kind == "redis_available":
        return Decimal(row.found) < Decimal(row.expected)
    stays = ("redis_incoming", "redis_entries")
    return row.kind in stays and Decimal(row.found) > Decimal(row.expected)


def check_keys(history: History, facts: Facts) -> Iterator[Violation]:
    """Every used key names one row, and every row of a named operation is named by its keys."""
    names = {key.name: key for key in facts.keys}
    for key in facts.keys:
        if not key.account_id and key.item_no != NAMES_A_REQUEST:
            yield Violation("key_without_row", key.name, key._asdict())
    rows = defaultdict(list)
    for entry in facts.entries:
        rows[entry.reference].append(entry)
    for operation in history.operations:
        account_id, change_minor = operation.movements[0]
        named = [
            (row.batch_seq, row.item_no, row.account_id)
            for row in rows[operation.reference]
            if (row.account_id, row.change_minor) == (account_id, change_minor)
        ]
        for kind, name in (("key", operation.key), ("id", operation.transaction_id)):
            if name is None:
                continue
            key = names.get(f"{kind}:{name}")
            place = (key.batch_seq, key.item_no, key.account_id) if key else None
            if place not in (named or [None]):
                detail = {"name": name, "key": place, "rows": named}
                yield Violation("key_and_row_disagree", operation.reference, detail)


def check_prefixes(facts: Facts) -> Iterator[Violation]:
    """No account is below the highest limit it had after any prefix of the journal."""
    balances: dict[str, int] = defaultdict(int)
    reported: set[str] = set()
    for entry in sorted(facts.entries):
        account = facts.accounts.get(entry.account_id)
        balances[entry.account_id] += entry.change_minor
        if account is None or account.kind == EXTERNAL or entry.account_id in reported:
            continue
        if balances[entry.account_id] < -account.highest_limit_minor:
            reported.add(entry.account_id)
            detail = {"balance_minor": balances[entry.account_id], "at": entry._asdict()}
            yield Violation("below_limit_at_a_prefix", entry.account_id, detail)


def check_settlement(facts: Facts) -> Iterator[Violation]:
    """Settled is the sum of what is settled, and each account's lines are a gapless chain to it."""
    sums: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    folded: dict[tuple[str, int | None], list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in facts.entries:
        if entry.status == "SETTLED":
            sums[entry.account_id] += entry.change_minor
            counts[entry.account_id] += 1
            cell = folded[entry.account_id, entry.settlement_id]
            cell[0] += 1
            cell[1 if entry.change_minor < 0 else 2] += abs(entry.change_minor)
    reached: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for line in sorted(facts.lines, key=lambda line: (line.account_id, line.version_after)):
        version, settled = reached[line.account_id]
        version, settled = (
            version + line.entry_count,
            settled + line.credit_minor - line.debit_minor,
        )
        if (line.version_after, line.settled_after_minor) != (version, settled):
            yield Violation("settlement_chain_broken", line.account_id, line._asdict())
        reached[line.account_id] = (line.version_after, line.settled_after_minor)
        account = facts.accounts.get(line.account_id)
        cell = folded.pop((line.account_id, line.settlement_id), [0, 0, 0])
        is_external = account is None or account.kind == EXTERNAL
        if not is_external and cell != [line.entry_count, line.debit_minor, line.credit_minor]:
            yield Violation("settlement_line_wrong", line.account_id, {"line": line, "rows": cell})
    for (account_id, settlement_id), cell in folded.items():
        detail = {"settlement_id": settlement_id, "rows": cell}
        yield Violation("settled_without_line", account_id, detail)
    for account in facts.accounts.values():
        own = (account.version, account.settled_minor)
        journal = (counts[account.account_id], sums[account.account_id])
        if own != reached[account.account_id] or (account.kind != EXTERNAL and own != journal):
            detail = {"account": own, "lines": reached[account.account_id], "journal": journal}
            yield Violation("settled_is_not_the_sum", account.account_id, detail)


def check_conservation(facts: Facts) -> Iterator[Violation]:
    """Per currency everything settled sums to zero, the external account's included."""
    sums: dict[str, int] = defaultdict(int)
    for account in facts.accounts.values():
        sums[account.currency] += account.settled_minor
    for currency, total in sums.items():
        if total:
            yield Violation("money_not_conserved", currency, {"sum_minor": total})


def check_batches(facts: Facts) -> Iterator[Violation]:
    """A batch has the entries it counts, a void one has none, and epochs follow each other."""
    known = {batch.batch_seq for batch in facts.batches}
    for batch in facts.batches:
        if batch.entries != batch.entry_count or (batch.status == "VOID" and batch.entries):
            yield Violation("batch_count_wrong", str(batch.batch_seq), batch._asdict())
    for entry in facts.entries:
        if entry.batch_seq not in known:
            yield Violation("row_without_batch", entry.reference, entry._asdict())
    epoch = 0
    for batch in sorted(facts.batches):
        if batch.status != "VOID" and batch.epoch < epoch:
            detail = {**batch._asdict(), "epoch_before": epoch}
            yield Violation("journaled_after_its_epoch", str(batch.batch_seq), detail)
        epoch = max(epoch, batch.epoch if batch.status != "VOID" else 0)


def check_views(facts: Facts) -> Iterator[Violation]:
    """The public views show what the journal holds."""
    for account_id, expected in balances(facts).items():
        account, view = facts.accounts[account_id], facts.views.get(account_id)
        scale = 10**account.exponent
        shown = None if view is None else Balance(*(figure * scale for figure in view[1:]))
        if shown != expected:
            yield Violation("view_differs", account_id, {"journal": expected, "view": shown})


class Balance(NamedTuple):
    """A customer account's figures in minor units."""

    settled: int
    pending_debit: int
    pending_credit: int
    available: int


def balances(facts: Facts) -> dict[str, Balance]:
    """Each customer account's figures, from its settled balance and the pending rows."""
    pending: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for entry in facts.entries:
        if entry.status == "PENDING":
            pending[entry.account_id][entry.change_minor > 0] += abs(entry.change_minor)
    found = {}
    for account in facts.accounts.values():
        if account.kind != EXTERNAL:
            debit, credit = pending[account.account_id]
            available = account.settled_minor + credit - debit + account.credit_limit_minor
            found[account.account_id] = Balance(account.settled_minor, debit, credit, available)
    return found


def check_redis(facts: Facts) -> Iterator[Violation]:
    """To the cent what PostgreSQL holds, for every loaded account, and nothing left in flight."""
    held, expected = facts.redis, balances(facts)
    counts = Counter(entry.account_id for entry in facts.entries)
    if held is None or facts.ruling.mode != "redis":
        return
    epoch = str(facts.ruling.epoch)
    lines: dict[str, list[LineRow]] = defaultdict(list)
    for line in facts.lines:
        lines[line.account_id].append(line)
    if not held.has_token:
        yield Violation("ruling_epoch_has_no_token", epoch, {})
    if held.loaded != held.accounts.keys():
        unlike = sorted(held.loaded ^ held.accounts.keys())
        yield Violation("loaded_set_differs", epoch, {"accounts": unlike})
    if held.flight:
        yield Violation("left_in_flight", epoch, {"flight": held.flight})
    for account_id, fields in held.accounts.items():
        leaked = reservations(held.flight, account_id)
        detail = {"redis": fields, "journal": expected.get(account_id), "epoch": epoch}
        if leaked:
            yield Violation("leaked_reservation", account_id, {**detail, "in_flight": leaked})
        if fields.get("incoming") != "0":
            yield Violation("incoming_left", account_id, detail)
        if account_id not in expected:
            yield Violation("redis_knows_an_account_that_is_not", account_id, detail)
            continue
        if fields.get("entries") != str(counts[account_id]):
            yield Violation("redis_entries_differ", account_id, detail)
        if fields.get("available") != str(expected[account_id].available):
            yield Violation("redis_available_differs", account_id, detail)
        elif not _is_a_state_passed_through(
            expected[account_id], facts.accounts[account_id].version, lines[account_id], fields
        ):
            yield Violation("redis_split_differs", account_id, detail)


def _is_a_state_passed_through(
    now: Balance, version_now: int, lines: list[LineRow], fields: dict[str, str]
) -> bool:
    """Tell whether settled and pending amounts are those of this or of an earlier settlement.

    Settlements are shown in Redis afterwards, and one may be missed until the account's next.
    """
    version = int(fields.get("version", "-1"))
    later = [line for line in lines if line.version_after > version]
    if version_now - sum(line.entry_count for line in later) != version:
        return False
    debit = sum(line.debit_minor for line in later)
    credit = sum(line.credit_minor for line in later)
    then = (now.settled - credit + debit, now.pending_debit + debit, now.pending_credit + credit)
    names = ("settled", "pending_debit", "pending_credit")
    return tuple(fields.get(name) for name in names) == tuple(str(figure) for figure in then)


def count_behind(facts: Facts) -> int:
    """How many accounts show an earlier settlement in Redis than PostgreSQL has."""
    held = facts.redis.accounts if facts.redis is not None else {}
    return sum(
        fields.get("version") != str(facts.accounts[account_id].version)
        for account_id, fields in held.items()
        if account_id in facts.accounts
    )
