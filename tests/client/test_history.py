"""What is asked about the past, and how its answers are read: against answers as they are written.

So these do not hang on how fast the service settles and where its watermark is.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import msgspec
import pytest

from subbalance import Expect, NewTransaction
from tests.client.calling import Ledger
from tests.client.flaky import Behaviour, FlakyServer, answering, flaky
from tests.client.test_command import Shell

Connect = Callable[..., Ledger]
INSTANT = "2026-11-21T07:29:45.254179Z"
MOMENT = datetime(2026, 11, 21, 7, 29, 45, 254179, tzinfo=UTC)
TRANSACTION = {
    "transaction_id": str(uuid4()),
    "account_id": "A",
    "amount": "2.50",
    "type": "debit",
    "currency": "USD",
    "status": "SETTLED",
    "mode": "redis",
    "timestamp": INSTANT,
}
ROW = {
    "transaction_id": str(uuid4()),
    "booked_at": INSTANT,
    "effective_at": None,
    "type": "debit",
    "amount": "2.50",
    "balance": "7.50",
    "status": "SETTLED",
    "reverses": str(uuid4()),
}
PAGE = {
    "account_id": "A",
    "currency": "USD",
    "from": INSTANT,
    "to": INSTANT,
    "opening_balance": "10.00",
    "closing_balance": "7.50",
    "watermark": INSTANT,
    "is_final": True,
}


def told(answer: Any) -> Behaviour:
    return answering("200 OK", msgspec.json.encode(answer), content_type="application/json")


def asked(server: FlakyServer, number: int = 0) -> tuple[str, dict[str, str]]:
    """The path and the query of a request."""
    parts = urlsplit(server.seen[number].path)
    return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}


async def test_a_balance_is_read_as_of_an_instant(connect: Connect) -> None:
    answer = {
        "account_id": "A",
        "currency": "USD",
        "at": INSTANT,
        "by": "effective",
        "balance": "7.50",
        "watermark": INSTANT,
        "is_final": False,
    }
    with flaky("", told(answer)) as server:
        balance = await connect(server.url).get_balance_at("A", MOMENT, by="effective")
    assert (balance.balance, balance.at, balance.is_final) == (Decimal("7.50"), MOMENT, False)
    assert asked(server) == (
        "/api/v1/balance/A",
        {"at": "2026-11-21T07:29:45.254179+00:00", "by": "effective"},
    )


async def test_an_instant_without_a_time_zone_is_not_sent(connect: Connect) -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        await connect("http://x").get_balance_at("A", MOMENT.replace(tzinfo=None))


async def test_a_statement_is_read_by_page_and_whole(connect: Connect) -> None:
    first, last = {**PAGE, "rows": [ROW, ROW], "next_cursor": "more"}, {**PAGE, "rows": [ROW]}
    with flaky("", told(first)) as server:
        page = await connect(server.url).get_statement("A", start=INSTANT, page_items=2)
    assert (page.opening_balance, page.start, len(page.rows)) == (Decimal(10), MOMENT, 2)
    assert page.rows[0].reverses == UUID(str(ROW["reverses"]))
    assert asked(server) == ("/api/v1/accounts/A/statement", {"from": INSTANT, "limit": "2"})
    with flaky("", told(first), told(last)) as server:
        rows = await connect(server.url).list_statement("A", end=INSTANT)
    assert len(rows) == 3
    assert asked(server, 1)[1] == {"to": INSTANT, "cursor": "more"}


async def test_transactions_are_sought_over_empty_pages(connect: Connect) -> None:
    pages = (
        {"transactions": [], "next_cursor": "more"},
        {"transactions": [{**TRANSACTION, "effective_at": INSTANT}]},
    )
    with flaky("", *map(told, pages)) as server:
        found = await connect(server.url).search_transactions(
            account_id="A", type="debit", amount_min=Decimal("1E1"), metadata={"order": "7"}
        )
    assert [each.effective_at for each in found] == [MOMENT]
    wanted = {"account_id": "A", "type": "debit", "amount_min": "10", "metadata.order": "7"}
    assert [asked(server, number)[1] for number in (0, 1)] == [wanted, {**wanted, "cursor": "more"}]
    with pytest.raises(ValueError, match="account_id or a reference"):
        await connect(server.url).search_transactions()


async def test_what_is_not_given_is_not_sent(connect: Connect) -> None:
    """So that the client works with a service that does not know it yet."""
    with flaky("", told(TRANSACTION)) as server:
        client = connect(server.url)
        await client.post("A", "debit", 1)
        await client.post(
            "A",
            "debit",
            1,
            expect=Expect(available_at_least=Decimal("2.50"), version=7),
            effective_at=MOMENT,
        )
    plain = {"account_id": "A", "amount": "1", "type": "debit"}
    assert msgspec.json.decode(server.seen[0].body) == plain
    assert msgspec.json.decode(server.seen[1].body) == {
        **plain,
        "expect": {"available_at_least": "2.50", "version": 7},
        "effective_at": "2026-11-21T07:29:45.254179+00:00",
    }


def test_items_carry_what_they_expect_and_when_they_count() -> None:
    item = NewTransaction("A", "debit", 1, expect=Expect(version=0), effective_at=INSTANT)
    assert item.body()["expect"] == {"version": 0}
    assert item.body()["effective_at"] == INSTANT


def test_a_statement_and_transactions_are_printed(a: str) -> None:
    with flaky("", told({**PAGE, "rows": [ROW]})) as server:
        words = ("statement", a, "--from", INSTANT, "--to", INSTANT)
        lines = Shell(server.url).run(*words).stdout.splitlines()
    assert lines[0].split("\t")[:2] == ["booked_at", "transaction_id"]
    assert lines[1].split("\t")[2:] == ["debit", "2.50", "7.50", "SETTLED", ""]
    evil = {**TRANSACTION, "reference": "=1+1"}
    with flaky("", told({"transactions": [evil]})) as server:
        words = ("export", "transactions", "--account", a)
        head, line = Shell(server.url).run(*words).stdout.splitlines()
    assert head.startswith("transaction_id,account_id,amount,type,")
    assert line.startswith(f"{TRANSACTION['transaction_id']},A,2.50,debit,")
    assert ",'=1+1," in line
    for wrong in (["balance", a, "--by", "booked"], ["statement", a, "--from", "yesterday"]):
        Shell(server.url).run(*wrong, code=2)
    Shell(server.url).run("export", "transactions", code=2)
