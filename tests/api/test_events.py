"""`GET /api/v1/events`: every kind of change is told, once, in order, as GET shows it."""

import json
from typing import Any

import httpx
import pytest

from app.bootstrap import WorkerServices
from app.infra.queries import load_queries
from tests.api.test_holds import act, hold
from tests.api.test_transactions import opened, sent
from tests.conftest import eventually
from tests.receiver import EVENTS, all_events, by_account, journal_ids


async def types(api: httpx.AsyncClient, account_id: str) -> list[str]:
    return [event["type"] for event in await all_events(api, account_id=account_id)]


async def test_an_event_is_told_in_full(api: httpx.AsyncClient, worker: WorkerServices) -> None:
    await opened(api, opening_balance="0")
    answer = await sent(api, type="credit", amount="2.5", reference="rent", metadata={"a": "1"})
    accepted = answer.json()
    (event,) = await all_events(api)
    batch = int(event["id"].partition("-")[0])
    assert event == {
        "id": f"{batch}-0-accepted",
        "type": "transaction.accepted",
        "account_id": "A",
        "occurred_at": accepted["timestamp"],
        "sequence": event["sequence"],
        "data": {
            "transaction_id": accepted["transaction_id"],
            "account_id": "A",
            "amount": "2.50",
            "type": "credit",
            "currency": "USD",
            "status": "PENDING",
            "mode": "redis",
            "timestamp": accepted["timestamp"],
            "updated_at": accepted["timestamp"],
            "reference": "rent",
            "metadata": {"a": "1"},
            "transfer_id": None,
            "other_account_id": None,
        },
    }
    await worker.settler.settle()
    _, settled = await all_events(api)
    shown = (await api.get(f"/api/v1/transactions/{accepted['transaction_id']}")).json()
    assert (settled["type"], settled["id"]) == ("transaction.settled", f"{batch}-0-settled")
    assert (settled["data"]["status"], settled["data"]["timestamp"]) == (
        "SETTLED",
        accepted["timestamp"],
    )
    for name in shown.keys() - {"updated_at"}:
        assert settled["data"][name] == shown[name]
    assert settled["occurred_at"] >= accepted["timestamp"]


async def test_every_kind_of_change_is_told_once_and_in_order(
    api: httpx.AsyncClient, worker: WorkerServices, database: Any
) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")
    await api.post(
        "/api/v1/transfers",
        json={"debit_account_id": "A", "credit_account_id": "B", "amount": "5"},
    )
    paid = (await hold(api, amount="10", credit_account_id="B")).json()["hold_id"]
    await act(api, paid, "capture", amount="4")
    await worker.settler.settle()
    await act(api, paid, "capture", amount="1", final=True)
    gone = (await hold(api, amount="7")).json()["hold_id"]
    await act(api, gone, "capture", amount="2")
    await act(api, gone, "release")
    await hold(api, amount="1", expires_in_s=1)
    await eventually(worker.expiry.step)
    await worker.settler.settle()

    told = await all_events(api)
    assert {account: sorted(ids) for account, ids in by_account(told).items()} == {
        account: sorted(ids) for account, ids in (await journal_ids(database)).items()
    }
    assert [event["sequence"] for event in told] == sorted(event["sequence"] for event in told)
    assert await types(api, "A") == [
        "transaction.accepted",  # the opening balance
        "transaction.accepted",  # the transfer
        "transaction.accepted",
        "hold.placed",
        "hold.captured",
        *["transaction.settled"] * 3,
        "hold.captured",
        "transaction.accepted",  # what the final capture released
        "transaction.accepted",
        "hold.placed",
        "hold.captured",
        "hold.released",
        "transaction.accepted",
        "transaction.accepted",
        "hold.placed",
        "hold.expired",
        "transaction.accepted",
        *["transaction.settled"] * 5,
    ]
    holds = [event for event in told if event["type"].startswith("hold.")]
    first = [event["data"] for event in holds if event["data"]["hold_id"] == paid]
    assert [(each["status"], each["captured"], each["version"]) for each in first] == [
        ("HELD", "0.00", 1),
        ("HELD", "4.00", 2),
        ("CAPTURED", "5.00", 3),
    ]
    assert (await api.get(f"/api/v1/holds/{paid}")).json() == first[-1]


async def test_internal_accounts_have_no_events(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await opened(api)
    held = (await hold(api)).json()["hold_id"]
    await act(api, held, "capture")
    await worker.settler.settle()
    accounts = {event["account_id"] for event in await all_events(api)}
    assert accounts == {"A"}


async def test_a_reversal_is_told_of_the_reversing_transaction(api: httpx.AsyncClient) -> None:
    await opened(api, opening_balance="0")
    first = (await sent(api, type="credit", effective_at="2020-01-01T00:00:00Z")).json()
    answer = await api.post(f"/api/v1/transactions/{first['transaction_id']}/reversal")
    assert answer.status_code == 201, answer.text
    told = await all_events(api)
    assert [event["type"] for event in told] == [
        "transaction.accepted",
        "transaction.accepted",
        "transaction.reversed",
    ]
    assert told[0]["data"]["effective_at"] == "2020-01-01T00:00:00.000000Z"
    assert "reverses" not in told[0]["data"]
    assert told[1]["data"] == told[2]["data"]
    reversing = (await api.get(f"/api/v1/transactions/{told[2]['data']['transaction_id']}")).json()
    assert reversing == told[2]["data"]
    assert reversing["reverses"] == first["transaction_id"]


async def test_an_event_shows_its_transaction_as_get_does(
    api: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")
    await opened(api, "Y", currency="JPY", opening_balance="100")
    await opened(api, "K", currency="KWD", opening_balance="0.005")
    said = {"reference": 'q"\\\u00e9\u2028', "metadata": {"b": "2", "a": "1"}}
    await sent(api, id="7d0e7c1c-8a4f-4c57-9d3c-0a3c5a1e8f11", **said)
    await sent(api, amount="0.05", effective_at="2020-01-01T00:00:00.5+07:00")
    transfer = {"debit_account_id": "A", "credit_account_id": "B", "amount": "5", **said}
    assert (await api.post("/api/v1/transfers", json=transfer)).status_code == 201
    held = (await hold(api, credit_account_id="B")).json()["hold_id"]
    await act(api, held, "capture")
    items = [{"account_id": "K", "amount": "0.001", "type": "credit"}] * 20
    assert (await api.post("/api/v1/transactions", json={"transactions": items})).is_success
    told = [event for event in await all_events(api) if event["type"] == "transaction.accepted"]
    assert len(told) == 3 + 2 + 2 + 2 + 20
    assert sum("effective_at" in event["data"] for event in told) == 1
    await shown_alike(api, told)
    await worker.settler.settle()
    settled = [event for event in await all_events(api) if event["type"] == "transaction.settled"]
    assert len(settled) == len(told)
    await shown_alike(api, settled)


async def shown_alike(api: httpx.AsyncClient, told: list[dict[str, Any]]) -> None:
    for event in told:
        shown = await api.get(f"/api/v1/transactions/{event['data']['transaction_id']}")
        assert json.dumps(event["data"]) == json.dumps(shown.json())  # in the same order


async def test_pages_of_any_size_have_the_same_events(api: httpx.AsyncClient) -> None:
    await opened(api)
    await opened(api, "B")
    items = [{"account_id": "AB"[n % 2], "amount": "1", "type": "debit"} for n in range(9)]
    answer = await api.post("/api/v1/transactions", json={"transactions": items})
    assert answer.status_code < 300, answer.text
    held = (await hold(api, credit_account_id="B")).json()["hold_id"]
    await act(api, held, "capture", amount="4", final=True)
    whole = await all_events(api)
    assert len(whole) > 12
    for limit in (1, 2, 5):
        assert await all_events(api, limit=limit) == whole
    for account_id in "AB":
        wanted = [event for event in whole if event["account_id"] == account_id]
        for limit in (1, 3, 100):
            assert await all_events(api, limit=limit, account_id=account_id) == wanted
    later = await api.get(EVENTS, params={"cursor": whole[4]["sequence"]})
    assert later.json()["events"] == whole[5:]


async def test_a_sink_in_the_middle_of_a_settlement_is_behind(
    api: httpx.AsyncClient, worker: WorkerServices, database: Any
) -> None:
    await opened(api)
    await sent(api)
    await worker.settler.settle()
    settled_at = await database.fetchval("SELECT max(settled_at) FROM settlements")
    last = await database.fetchval("SELECT max(batch_seq) FROM journal_batches")
    lags = load_queries("events")["event_cursors"].sql
    for batch_seq, is_behind in ((last, True), (last + 1, False)):
        await database.execute(
            "UPDATE event_cursors SET at = $1, kind = 1, batch_seq = $2", settled_at, batch_seq
        )
        for row in await database.fetch(lags):
            assert (row["lag_s"] > 0) is is_behind, row["sink"]


async def test_what_is_not_committed_holds_the_feed_up_and_is_not_left_out(
    api: httpx.AsyncClient, database: Any, database_url: str
) -> None:
    import asyncpg

    await opened(api)
    other = await asyncpg.connect(database_url)
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT enter_fence_v1(0::smallint)")
        await other.execute(
            """
            WITH b AS (
                INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status,
                                             entry_count, changes_minor, created_at)
                VALUES (nextval('journal_batch_seq'), 0, 1, 'redis', 1, 'PENDING',
                        1, '{100}', clock_timestamp())
                RETURNING batch_seq, created_at)
            INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no)
            SELECT a.account_no, b.batch_seq, b.created_at, 100, 0
              FROM accounts a, b WHERE a.account_id = 'A'
            """
        )
        after = await sent(api)
        assert after.status_code == 201
        before = await all_events(api)
        await transaction.commit()
    finally:
        await other.close()
    told = await all_events(api)
    assert len(before) == 1
    assert told[:1] == before
    assert [event["data"]["type"] for event in told] == ["credit", "credit", "debit"]
    assert told[2]["data"]["transaction_id"] == after.json()["transaction_id"]


@pytest.mark.parametrize(
    ("params", "status", "code", "pointer"),
    [
        ({"cursor": "x"}, 400, "invalid_cursor", "/cursor"),
        ({"cursor": ""}, 400, "invalid_cursor", "/cursor"),
        ({"cursor": "9" * 200}, 400, "invalid_cursor", "/cursor"),
        (
            {"cursor": "0000000000000000-2-000000000000000000-000000"},
            400,
            "invalid_cursor",
            "/cursor",
        ),
        (
            {"cursor": "0000000000000000-0-999999999999999999-000000"},
            400,
            "invalid_cursor",
            "/cursor",
        ),
        ({"limit": "0"}, 400, "invalid_parameter", None),
        ({"limit": "1001"}, 400, "invalid_parameter", None),
        ({"account_id": "NOBODY"}, 404, "account_not_found", "/account_id"),
        ({"account_id": "a b"}, 400, "account_id_malformed", "/account_id"),
        ({"account_id": "external:USD"}, 422, "account_reserved", "/account_id"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    api: httpx.AsyncClient, params: dict[str, str], status: int, code: str, pointer: str | None
) -> None:
    answer = await api.get(EVENTS, params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert pointer is None or answer.json()["pointer"] == pointer
