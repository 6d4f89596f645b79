"""Balances as of an instant and statements over HTTP: what is told, in pages and in CSV."""

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app import limits
from app.bootstrap import WorkerServices
from app.settings import Settings
from tests.api.test_transactions import INSTANT, opened, sent, told
from tests.conftest import eventually, serving

STATEMENT = "/api/v1/accounts/A/statement"
FUTURE = "9999-01-01T00:00:00Z"


async def balance_at(api: httpx.AsyncClient, at: str, **more: str) -> dict[str, Any]:
    answer = await api.get("/api/v1/balance/A", params={"at": at, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def statement(api: httpx.AsyncClient, **asked: Any) -> dict[str, Any]:
    answer = await api.get(STATEMENT, params=asked)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def complete_statement(api: httpx.AsyncClient, count: int) -> dict[str, Any]:
    """Wait until the watermark has passed so many rows."""

    async def has_all() -> dict[str, Any] | None:
        page = await statement(api, limit=1000)
        return page if len(page["rows"]) == count else None

    page: dict[str, Any] = await eventually(has_all)
    return page


def later(instant: str, **by: int) -> str:
    moment = datetime.fromisoformat(instant) + timedelta(**by)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


async def test_a_balance_as_of_an_instant_is_told_in_full(api: httpx.AsyncClient) -> None:
    await opened(api)
    booked = (await sent(api, amount="40")).json()["timestamp"]
    await sent(api, amount="1")
    answer = await balance_at(api, booked)
    assert INSTANT.fullmatch(answer.pop("watermark"))
    assert answer == {
        "account_id": "A",
        "currency": "USD",
        "at": booked,
        "by": "booked",
        "balance": "60.00",
        "is_final": True,
    }
    assert (await balance_at(api, later(booked, microseconds=-1)))["balance"] == "100.00"
    assert (await balance_at(api, "1970-01-01T00:00:00Z"))["balance"] == "0.00"


async def test_it_stays_when_what_was_pending_is_settled(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await opened(api)
    instants = []
    for number in range(6):
        instants.append((await sent(api, amount="1.00")).json()["timestamp"])
        if number in (1, 3):
            await worker.settler.settle()
    expected = ["99.00", "98.00", "97.00", "96.00", "95.00", "94.00"]
    assert [(await balance_at(api, at))["balance"] for at in instants] == expected
    await worker.settler.settle()
    assert [(await balance_at(api, at))["balance"] for at in instants] == expected


async def test_offsets_and_letters_of_rfc_3339_are_understood(api: httpx.AsyncClient) -> None:
    await opened(api)
    booked = datetime.fromisoformat((await sent(api)).json()["timestamp"])
    local = booked.astimezone(tz=datetime.strptime("+0700", "%z").tzinfo).isoformat()
    for text in (local, booked.isoformat().replace("T", "t").replace("+00:00", "z")):
        assert (await balance_at(api, text))["balance"] == "99.00"


@pytest.mark.parametrize(
    ("currency", "opening", "amount", "left"),
    [("JPY", "100", "1", "99"), ("USD", "100", "0.01", "99.99"), ("KWD", "1", "0.001", "0.999")],
)
async def test_amounts_have_their_currency_s_decimals(
    api: httpx.AsyncClient, currency: str, opening: str, amount: str, left: str
) -> None:
    await opened(api, currency=currency, opening_balance=opening)
    booked = (await sent(api, amount=amount)).json()["timestamp"]
    assert (await balance_at(api, booked))["balance"] == left
    page = await complete_statement(api, 2)
    assert (page["rows"][1]["amount"], page["closing_balance"]) == (amount, left)
    found = await api.get(
        "/api/v1/transactions",
        params={"account_id": "A", "amount_min": amount, "amount_max": amount},
    )
    assert [each["amount"] for each in found.json()["transactions"]] == [amount]


async def test_by_effective_time_a_backdated_entry_counts_from_then(
    api: httpx.AsyncClient, database: Any
) -> None:
    await opened(api)
    booked = (await sent(api, amount="40")).json()["timestamp"]
    # As a posting with effective_at writes it.
    await database.execute("ALTER TABLE journal_entries DISABLE TRIGGER append_only")
    await database.execute(
        "UPDATE journal_entries SET effective_at = '2020-01-01Z' WHERE change_minor < 0"
    )
    before = later(booked, microseconds=-1)
    assert (await balance_at(api, before))["balance"] == "100.00"
    effective = await balance_at(api, before, by="effective")
    assert (effective["balance"], effective["is_final"], effective["by"]) == (
        "60.00",
        False,
        "effective",
    )
    assert (await balance_at(api, "2020-01-01T00:00:00Z", by="effective"))["balance"] == "-40.00"
    earlier = "2019-12-31T23:59:59.999999Z"
    assert (await balance_at(api, earlier, by="effective"))["balance"] == "0.00"
    row = (await complete_statement(api, 2))["rows"][1]
    assert row["effective_at"] == "2020-01-01T00:00:00.000000Z"
    found = (await api.get("/api/v1/transactions", params={"account_id": "A"})).json()
    assert found["transactions"][0]["effective_at"] == "2020-01-01T00:00:00.000000Z"
    assert found["transactions"][1].get("effective_at") is None


async def test_a_holding_account_has_history_too(api: httpx.AsyncClient) -> None:
    await opened(api)
    held = (await api.post("/api/v1/holds", json={"account_id": "A", "amount": "60"})).json()
    answer = await api.get("/api/v1/balance/holding:USD", params={"at": held["timestamp"]})
    assert answer.json()["balance"] == "60.00"


async def test_a_statement_is_told_in_full(api: httpx.AsyncClient, worker: WorkerServices) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")
    await worker.settler.settle()
    chosen = str(uuid4())
    spent = (await sent(api, amount="2.5", id=chosen, reference="rent")).json()
    body = {"debit_account_id": "A", "credit_account_id": "B", "amount": "10"}
    transfer = (await api.post("/api/v1/transfers", json=body)).json()
    page = await complete_statement(api, 3)
    opening, rent, moved = page.pop("rows")
    assert INSTANT.fullmatch(page.pop("watermark"))
    assert page.pop("from") == opening["booked_at"]
    assert page.pop("to") > moved["booked_at"]
    assert page == {
        "account_id": "A",
        "currency": "USD",
        "opening_balance": "0.00",
        "closing_balance": "87.50",
        "next_cursor": None,
        "is_final": False,
    }
    assert (opening["type"], opening["balance"], opening["status"]) == (
        "credit",
        "100.00",
        "SETTLED",
    )
    assert rent == {
        "transaction_id": chosen,
        "booked_at": spent["timestamp"],
        "effective_at": None,
        "type": "debit",
        "amount": "2.50",
        "balance": "97.50",
        "status": "PENDING",
        "reference": "rent",
        "transfer_id": None,
        "other_account_id": None,
        "reverses": None,
        "hold_id": None,
    }
    assert moved["transfer_id"] == transfer["transfer_id"]
    assert (moved["other_account_id"], moved["balance"]) == ("B", "87.50")


async def test_pages_give_each_row_once_and_balances_that_follow(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await opened(api)
    batches = [[{"account_id": "A", "amount": "1", "type": "debit"}] * 4 for _ in range(3)]
    for items in batches:  # one batch has one time: its rows are told apart by their numbers
        answer = await api.post("/api/v1/transactions", json={"transactions": items})
        assert answer.status_code == 201, answer.text
        await worker.settler.settle()
    whole = await complete_statement(api, 13)
    rows: list[Any] = []
    asked: dict[str, Any] = {"limit": 3, "to": whole["to"]}
    balance, pages = "0.00", 0
    while True:
        page = await statement(api, **asked)
        assert page["opening_balance"] == balance
        assert page["is_final"]
        rows, balance, pages = rows + page["rows"], page["closing_balance"], pages + 1
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert rows == whole["rows"]
    assert (balance, pages) == ("88.00", 5)
    assert [row["balance"] for row in rows] == [f"{amount}.00" for amount in range(100, 87, -1)]


async def test_a_period_begins_with_its_first_instant_and_ends_before_its_last(
    api: httpx.AsyncClient,
) -> None:
    await opened(api)
    first, second, third = [(await sent(api)).json()["timestamp"] for _ in range(3)]
    page = await statement(api, **{"from": second, "to": third})
    assert [row["booked_at"] for row in page["rows"]] == [second]
    assert (page["opening_balance"], page["closing_balance"]) == ("99.00", "98.00")
    assert (page["from"], page["to"], page["is_final"]) == (second, third, True)
    empty = await statement(api, **{"from": later(first, microseconds=1), "to": second})
    assert (empty["rows"], empty["opening_balance"], empty["closing_balance"]) == (
        [],
        "99.00",
        "99.00",
    )
    month = await statement(api, **{"from": first, "to": FUTURE})
    assert not month["is_final"]


async def test_a_row_that_may_be_preceded_by_another_waits_for_it(
    api: httpx.AsyncClient, database: Any, database_url: str
) -> None:
    """While a batch is on its way no page shows what was booked after it."""
    await opened(api)
    first = (await sent(api)).json()["timestamp"]
    await complete_statement(api, 2)
    async with database.transaction():
        await database.execute("SELECT enter_fence_v1(0::smallint)")
        second = (await sent(api)).json()["timestamp"]
        page = await statement(api)
        assert [row["booked_at"] for row in page["rows"]][1:] == [first]
        assert page["watermark"] < second
        answer = await balance_at(api, second)
        assert (answer["balance"], answer["is_final"]) == ("98.00", False)
    page = await complete_statement(api, 3)
    assert page["watermark"] > second
    assert (await balance_at(api, second))["is_final"]


async def read_csv(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


@pytest.mark.parametrize(
    ("reference", "written"),
    [
        ("rent", "rent"),
        ('say "hi", twice', 'say "hi", twice'),
        ("Größe ✓", "Größe ✓"),
        ("=1+1", "'=1+1"),
        ("+49 30", "'+49 30"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("a=b", "a=b"),
        (None, ""),
    ],
)
async def test_csv_is_quoted_and_runs_no_formula(
    api: httpx.AsyncClient, reference: str | None, written: str
) -> None:
    await opened(api)
    await sent(api, reference=reference)
    page = await complete_statement(api, 2)
    rows = await read_csv(await api.get(STATEMENT, params={"format": "csv"}))
    assert [row["reference"] for row in rows] == ["opening balance", written]
    for row, shown in zip(rows, page["rows"], strict=True):
        text = {name: value or "" for name, value in shown.items()}
        assert row == {**text, "reference": row["reference"]}


async def test_csv_goes_on_by_its_link_and_tells_the_rest_in_headers(
    api: httpx.AsyncClient,
) -> None:
    await opened(api)
    for _ in range(4):
        await sent(api)
    whole = await complete_statement(api, 5)
    asked = {"limit": "2", "from": whole["from"], "to": whole["to"]}
    answer = await api.get(STATEMENT, params=asked, headers={"accept": "text/csv"})
    rows, balance = await read_csv(answer), "0.00"
    for _ in range(2):
        assert answer.headers["x-opening-balance"] == balance
        balance = answer.headers["x-closing-balance"]
        assert answer.headers["x-is-final"] == "true"
        assert answer.headers["x-statement-to"] == whole["to"]
        assert answer.links["next"]["rel"] == "next"
        answer = await api.get(answer.links["next"]["url"])
        rows += await read_csv(answer)
    assert "link" not in answer.headers
    assert [row["transaction_id"] for row in rows] == [
        row["transaction_id"] for row in whole["rows"]
    ]
    assert answer.headers["x-closing-balance"] == whole["closing_balance"]
    assert answer.headers["content-disposition"] == 'attachment; filename="statement-A.csv"'


async def test_a_page_of_several_slices_is_whole(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(api)
    items = [{"account_id": "A", "amount": "0.01", "type": "debit"}] * 20
    await api.post("/api/v1/transactions", json={"transactions": items})
    whole = await complete_statement(api, 21)
    monkeypatch.setattr(limits, "STATEMENT_SLICE_ROWS", 5)
    for limit in (4, 5, 9, 10, 20, 21, 30):
        page = await statement(api, limit=limit)
        assert page["rows"] == whole["rows"][:limit]
        assert (page["next_cursor"] is None) == (limit >= 21)


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("*/*", False),
        ("application/json", False),
        ("text/csv", True),
        ("text/csv, application/json;q=0.5", True),
        ("text/html", False),
    ],
)
async def test_the_form_is_as_accept_says_unless_it_is_named(
    api: httpx.AsyncClient, accept: str, is_csv: bool
) -> None:
    await opened(api)
    for named, wanted in ((None, is_csv), ("csv", True), ("json", False)):
        params = {} if named is None else {"format": named}
        answer = await api.get(STATEMENT, params=params, headers={"accept": accept})
        assert answer.headers["content-type"].startswith("text/csv") == wanted


@pytest.mark.parametrize(
    ("path", "status", "code", "pointer"),
    [
        ("/balance/A?at=then", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=2026-01-01", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=2026-01-01T00:00:00", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=2026-01-01T00:00:00+07:00", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=2026-02-30T00:00:00Z", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=2026-01-01T00:00:60Z", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=2026-01-01T00:00:00.1234567Z", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=0001-01-01T00:00:00%2B01:00", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=9999-12-31T23:59:59-01:00", 400, "invalid_parameter", "/at"),
        ("/balance/A?at=9999-12-31T23:59:59.999999Z", 422, "instant_in_future", "/at"),
        ("/balance/A?at=2026-01-01T00:00:00Z&by=settled", 400, "invalid_parameter", "/by"),
        ("/balance/A?at=2026-01-01T00:00:00Z&at=now", 400, "invalid_parameter", "/at"),
        ("/balance/A?by=booked", 400, "invalid_parameter", "/by"),
        ("/balance/NOBODY?at=2026-01-01T00:00:00Z", 404, "account_not_found", "/account_id"),
        ("/balance/external:USD?at=2026-01-01T00:00:00Z", 422, "account_reserved", "/account_id"),
        ("/balance/A%00?at=2026-01-01T00:00:00Z", 400, "account_id_malformed", "/account_id"),
        ("/accounts/NOBODY/statement", 404, "account_not_found", "/account_id"),
        ("/accounts/external:USD/statement", 422, "account_reserved", "/account_id"),
        ("/accounts/A%20B/statement", 400, "account_id_malformed", "/account_id"),
        ("/accounts/A/statement?from=9999-01-01T00:00:00Z", 422, "instant_in_future", "/from"),
        ("/accounts/A/statement?from=then", 400, "invalid_parameter", "/from"),
        ("/accounts/A/statement?to=then", 400, "invalid_parameter", "/to"),
        (
            "/accounts/A/statement?from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z",
            400,
            "invalid_parameter",
            "/to",
        ),
        ("/accounts/A/statement?limit=0", 400, "invalid_parameter", "/limit"),
        ("/accounts/A/statement?limit=1001", 400, "invalid_parameter", "/limit"),
        ("/accounts/A/statement?limit=10001&format=csv", 400, "invalid_parameter", "/limit"),
        ("/accounts/A/statement?limit=-1", 400, "invalid_parameter", "/limit"),
        ("/accounts/A/statement?format=pdf", 400, "invalid_parameter", "/format"),
        ("/accounts/A/statement?cursor=nonsense", 400, "invalid_cursor", "/cursor"),
        ("/accounts/A/statement?cursor=", 400, "invalid_cursor", "/cursor"),
        # 1.1.1, before the account; -1.0.0; beyond all time
        ("/accounts/A/statement?cursor=MS4xLjE", 400, "invalid_cursor", "/cursor"),
        ("/accounts/A/statement?cursor=LTEuMC4w", 400, "invalid_cursor", "/cursor"),
        (
            "/accounts/A/statement?cursor=OTIyMzM3MjAzNjg1NDc3NTgwNy4wLjA",
            400,
            "invalid_cursor",
            "/cursor",
        ),
        ("/accounts/A/statement?page=2", 400, "invalid_parameter", "/page"),
        ("/accounts/A/statement?limit=1&limit=2", 400, "invalid_parameter", "/limit"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    api: httpx.AsyncClient, path: str, status: int, code: str, pointer: str
) -> None:
    await opened(api)
    answer = await api.get(f"/api/v1{path}")
    assert told(answer) == (status, code, pointer)


async def test_a_crowd_of_readings_waits_and_is_turned_away_in_time(
    settings: Settings, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_WAIT_S", 0.2)
    async with serving(settings) as api:
        await opened(api)
        async with database.transaction():
            await database.execute("LOCK TABLE journal_detachments IN ACCESS EXCLUSIVE MODE")
            most = limits.HISTORY_READS_MAX
            crowd = [asyncio.create_task(api.get(STATEMENT)) for _ in range(most)]

            async def all_read() -> bool:
                waiting = await database.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted"
                    " AND relation = 'journal_detachments'::regclass"
                )
                return bool(waiting == most)

            await eventually(all_read)
            refused = await api.get(STATEMENT)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert (await api.get("/api/v1/balance/A")).status_code == 200
        assert [each.status_code for each in await asyncio.gather(*crowd)] == [200] * len(crowd)
