"""`/api/v1/holds`: placed, captured in whole and in parts, released, expired, and known again."""

import asyncio
import csv
import io
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from app.bootstrap import WorkerServices
from app.settings import Settings
from tests.api.test_transactions import INSTANT, available, opened, told
from tests.conftest import eventually, serving
from tests.receiver import all_events

HOLDS = "/api/v1/holds"


async def hold(api: httpx.AsyncClient, key: str | None = None, **fields: Any) -> httpx.Response:
    body = {"account_id": "A", "amount": "60.00", **fields}
    return await api.post(HOLDS, json=body, headers={"idempotency-key": key} if key else {})


async def act(
    api: httpx.AsyncClient, hold_id: str, what: str, key: str | None = None, **fields: Any
) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return await api.post(f"{HOLDS}/{hold_id}/{what}", json=fields, headers=headers)


async def figures(api: httpx.AsyncClient, account_id: str = "A") -> tuple[str, str]:
    """What is available and what is held."""
    balance = (await api.get(f"/api/v1/balance/{account_id}")).json()
    return balance["available_balance"], balance["held"]


@pytest.fixture
async def accounts(api: httpx.AsyncClient) -> None:
    await opened(api)
    await opened(api, "B", opening_balance="0")


async def test_a_hold_is_told_in_full(api: httpx.AsyncClient, accounts: None) -> None:
    answer = await hold(
        api, credit_account_id="B", expires_in_s=60, reference="card", metadata={"b": "1"}
    )
    body = answer.json()
    assert answer.status_code == 201
    hold_id = body["hold_id"]
    assert UUID(hold_id).version == 8
    for name in ("timestamp", "updated_at", "expires_at"):
        assert INSTANT.fullmatch(body.pop(name))
    assert body == {
        "hold_id": hold_id,
        "account_id": "A",
        "credit_account_id": "B",
        "amount": "60.00",
        "captured": "0.00",
        "released": "0.00",
        "remaining": "60.00",
        "currency": "USD",
        "status": "HELD",
        "version": 1,
        "mode": "redis",
        "reference": "card",
        "metadata": {"b": "1"},
    }
    assert await figures(api) == ("40.00", "60.00")
    found = await api.get(f"{HOLDS}/{hold_id}")
    assert found.json() == answer.json()


async def test_a_capture_takes_all_and_pays_whom_it_is_for(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api, credit_account_id="B")).json()["hold_id"]
    answer = await act(api, hold_id, "capture")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["captured"], body["remaining"]) == ("CAPTURED", "60.00", "0.00")
    assert await figures(api) == ("40.00", "0.00")
    assert await available(api, "B") == "60.00"
    assert (await api.get(f"{HOLDS}/{hold_id}")).json() == body


async def test_parts_are_captured_until_one_is_final(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api, credit_account_id="B")).json()["hold_id"]
    first = (await act(api, hold_id, "capture", amount="10")).json()
    assert (first["status"], first["remaining"], first["version"]) == ("HELD", "50.00", 2)
    assert await figures(api) == ("40.00", "50.00")
    last = (await act(api, hold_id, "capture", amount="20", final=True)).json()
    assert (last["status"], last["captured"], last["released"]) == ("CAPTURED", "30.00", "30.00")
    assert await figures(api) == ("70.00", "0.00")
    assert await available(api, "B") == "30.00"


async def test_a_capture_of_all_that_is_left_ends_the_hold(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api, credit_account_id="B")).json()["hold_id"]
    await act(api, hold_id, "capture", amount="10")
    last = (await act(api, hold_id, "capture", amount="50")).json()
    assert (last["status"], last["remaining"]) == ("CAPTURED", "0.00")


async def test_without_a_receiver_what_is_captured_leaves(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api)).json()["hold_id"]
    body = (await act(api, hold_id, "capture", amount="25", final=True)).json()
    assert (body["captured"], body["released"]) == ("25.00", "35.00")
    assert await figures(api) == ("75.00", "0.00")
    verified = (await api.get("/api/v1/verify")).json()
    assert verified["mismatches"] == []


async def test_a_release_gives_back_what_is_held_still(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api, credit_account_id="B")).json()["hold_id"]
    await act(api, hold_id, "capture", amount="10")
    answer = await api.post(f"{HOLDS}/{hold_id}/release")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["captured"], body["released"]) == ("RELEASED", "10.00", "50.00")
    assert await figures(api) == ("90.00", "0.00")


@pytest.mark.parametrize("what", ["capture", "release"])
async def test_a_hold_that_has_ended_is_over(
    api: httpx.AsyncClient, accounts: None, what: str
) -> None:
    hold_id = (await hold(api)).json()["hold_id"]
    await act(api, hold_id, "release")
    answer = await act(api, hold_id, what)
    assert (answer.status_code, answer.json()["code"]) == (422, "hold_ended")
    assert answer.json()["hold_status"] == "RELEASED"
    assert await figures(api) == ("100.00", "0.00")


async def test_no_more_is_captured_than_is_held(api: httpx.AsyncClient, accounts: None) -> None:
    hold_id = (await hold(api, credit_account_id="B")).json()["hold_id"]
    await act(api, hold_id, "capture", amount="50")
    problem = (await act(api, hold_id, "capture", amount="10.01")).json()
    assert (problem["code"], problem["requested"], problem["available"]) == (
        "hold_exceeded",
        "10.01",
        "10.00",
    )
    assert await available(api, "B") == "50.00"


async def test_time_is_up_by_the_clock_of_postgres(
    api: httpx.AsyncClient, accounts: None, worker: WorkerServices
) -> None:
    hold_id = (await hold(api, expires_in_s=1, credit_account_id="B")).json()["hold_id"]
    assert await worker.expiry.step() == 0

    async def is_due() -> bool:
        answer = await act(api, hold_id, "capture", amount="0.01")
        return answer.status_code == 422 and answer.json()["code"] == "hold_ended"

    await eventually(is_due)
    refused = (await act(api, hold_id, "capture", amount="0.01")).json()
    assert (refused["hold_status"], refused["detail"][:22]) == ("HELD", "The hold's time is up;")
    captured = (await api.get(f"{HOLDS}/{hold_id}")).json()["captured"]
    assert await worker.expiry.step() == 1
    body = (await api.get(f"{HOLDS}/{hold_id}")).json()
    assert (body["status"], body["captured"], body["remaining"]) == ("EXPIRED", captured, "0.00")
    assert (await figures(api))[1] == "0.00"
    assert await worker.expiry.step() == 0


async def test_a_repeated_request_gets_the_same_bytes_and_moves_once(
    api: httpx.AsyncClient, accounts: None
) -> None:
    placed = [await hold(api, "p", credit_account_id="B", expires_in_s=9) for _ in range(3)]
    hold_id = placed[0].json()["hold_id"]
    parts = [await act(api, hold_id, "capture", "c", amount="10.0") for _ in range(3)]
    finals = [await act(api, hold_id, "capture", "f") for _ in range(3)]
    late = [
        await hold(api, "p", credit_account_id="B", expires_in_s=9),
        await act(api, hold_id, "capture", "c", amount="10"),
    ]
    for answers in ([*placed, late[0]], [*parts, late[1]], finals):
        assert len({answer.content for answer in answers}) == 1, [each.text for each in answers]
        replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
        assert replayed == [None] + ["true"] * (len(answers) - 1)
    assert parts[0].json()["version"] == 2
    assert finals[0].json()["version"] == 3
    assert await figures(api) == ("40.00", "0.00")


async def test_a_key_names_one_act(api: httpx.AsyncClient, accounts: None) -> None:
    hold_id = (await hold(api, "p")).json()["hold_id"]
    await act(api, hold_id, "capture", "c", amount="1")
    others = [
        await hold(api, "p", amount="61"),
        await hold(api, "c"),
        await act(api, hold_id, "capture", "c", amount="2"),
        await act(api, hold_id, "release", "c"),
        await act(api, hold_id, "release", "p"),
        await api.post(
            "/api/v1/transfers",
            json={"debit_account_id": "A", "credit_account_id": "B", "amount": "1"},
            headers={"idempotency-key": "p"},
        ),
        await api.post(
            "/api/v1/transaction",
            json={"account_id": "A", "amount": "60.00", "type": "debit"},
            headers={"idempotency-key": "p"},
        ),
    ]
    assert [answer.json()["code"] for answer in others] == ["idempotency_key_reused"] * 7
    assert await figures(api) == ("40.00", "59.00")


@pytest.mark.parametrize(
    ("fields", "status", "code", "pointer"),
    [
        ({"amount": "100.01"}, 422, "insufficient_available", "/account_id"),
        ({"account_id": "X"}, 404, "account_not_found", "/account_id"),
        ({"credit_account_id": "X"}, 404, "account_not_found", "/credit_account_id"),
        ({"credit_account_id": "A"}, 400, "same_account", "/credit_account_id"),
        ({"credit_account_id": "JPY"}, 422, "currency_mismatch", "/credit_account_id"),
        ({"account_id": "holding:USD"}, 422, "account_reserved", "/account_id"),
        ({"amount": "1.001"}, 400, "amount_too_precise", "/amount"),
        ({"expires_in_s": 0}, 400, "invalid_value", "/expires_in_s"),
        ({"expires_in_s": 10**9}, 400, "invalid_value", "/expires_in_s"),
        ({"id": "11111111-1111-8111-8111-111111111111"}, 400, "invalid_value", "/id"),
    ],
)
async def test_what_is_refused_says_why_and_changes_nothing(
    api: httpx.AsyncClient,
    accounts: None,
    fields: dict[str, Any],
    status: int,
    code: str,
    pointer: str,
) -> None:
    await opened(api, "JPY", opening_balance="0", currency="JPY")
    answer = await hold(api, **fields)
    assert told(answer) == (status, code, pointer)
    assert (answer.json()["success"], answer.json()["status"]) == (False, "REJECTED")
    assert await figures(api) == ("100.00", "0.00")


async def test_a_list_of_nobody_s_holds_names_what_is_missing(api: httpx.AsyncClient) -> None:
    assert told(await api.get(HOLDS)) == (400, "invalid_parameter", "/account_id")


async def test_what_is_not_there_is_not_found(api: httpx.AsyncClient, accounts: None) -> None:
    for answer in (
        await api.get(f"{HOLDS}/{uuid4()}"),
        await act(api, str(uuid4()), "capture"),
        await act(api, str(uuid4()), "release"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "hold_not_found")
    answer = await api.get(f"{HOLDS}/x")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


async def test_a_client_may_choose_the_id(api: httpx.AsyncClient, accounts: None) -> None:
    chosen = str(uuid4())
    first, again = [await hold(api, id=chosen) for _ in range(2)]
    assert first.json()["hold_id"] == chosen
    assert again.content == first.content
    assert (await act(api, chosen, "release")).json()["status"] == "RELEASED"


async def test_whoever_reads_an_entry_of_a_hold_learns_which(
    api: httpx.AsyncClient,
) -> None:
    """Amounts tell the entries apart. Transfers share their batches, so that the account which is
    paid or gets something back stands there before the one where it was held.
    """
    for account_id in "ABC":
        await opened(api, account_id, opening_balance="100000")
    numbers = range(1, 13)

    async def transferred(debit: str, credit: str) -> None:
        body = {"debit_account_id": debit, "credit_account_id": credit, "amount": "5000"}
        assert (await api.post("/api/v1/transfers", json=body)).status_code == 201

    async def placed(number: int) -> str:
        answer = await hold(api, amount=str(1000 + number), credit_account_id="B")
        return str(answer.json()["hold_id"])

    async def ended(number: int, hold_id: str) -> None:
        paid = {"amount": str(2 * number), "final": True} if number % 3 else {}
        answer = await act(api, hold_id, "capture" if paid else "release", str(uuid4()), **paid)
        assert answer.status_code == 200, answer.text

    ids = await asyncio.gather(*(placed(number) for number in numbers))
    await asyncio.gather(
        *(
            work
            for number, hold_id in zip(numbers, ids, strict=True)
            for work in (
                transferred("B", "C"),
                transferred("A", "C"),
                ended(number, hold_id),
            )
        )
    )
    wanted: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    for number, hold_id in zip(numbers, ids, strict=True):
        wanted["A"][f"debit {1000 + number}.00"] = hold_id
        wanted["A"][f"credit {1000 - number if number % 3 else 1000 + number}.00"] = hold_id
        if number % 3:
            wanted["B"][f"credit {2 * number}.00"] = hold_id
    for account_id, own in wanted.items():
        count = len(own) + len(numbers) + 1  # the transfers, and the opening
        for where, named in (await holds_named(api, account_id, count)).items():
            assert len(named) == count, where
            assert {what: hold_id for what, hold_id in named if hold_id} == own, where


async def test_what_is_captured_for_nobody_names_its_hold(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api)).json()["hold_id"]
    assert (await act(api, hold_id, "capture", amount="7")).status_code == 200
    found = await api.get("/api/v1/transactions", params={"account_id": "holding:USD"})
    for entry in found.json()["transactions"]:
        assert entry["hold_id"] == hold_id
    assert [entry["amount"] for entry in found.json()["transactions"]] == ["7.00", "60.00"]


async def holds_named(
    api: httpx.AsyncClient, account_id: str, count: int
) -> dict[str, list[tuple[str, str | None]]]:
    """What an account's entries are and the holds that they name, by each way of reading them."""
    path = f"/api/v1/accounts/{account_id}/statement"

    async def statement() -> list[dict[str, Any]]:
        return list((await api.get(path)).json()["rows"])

    async def is_complete() -> bool:
        return len(await statement()) == count

    await eventually(is_complete)
    table = (await api.get(path, headers={"accept": "text/csv"})).text
    pending = (await api.get(f"/api/v1/pending/{account_id}")).json()["items"]
    found = (await api.get("/api/v1/transactions", params={"account_id": account_id})).json()
    told = [
        event["data"]
        for event in await all_events(api, account_id=account_id)
        if event["type"] == "transaction.accepted"
    ]
    alone = [
        (await api.get(f"/api/v1/transactions/{each['transaction_id']}")).json() for each in told
    ]
    transfers = [await transfer_of(api, each) for each in told]
    readings = {
        "statement": await statement(),
        "csv": list(csv.DictReader(io.StringIO(table))),
        "pending": pending,
        "found": found["transactions"],
        "events": told,
        "alone": alone,
        "transfers": transfers,
    }
    return {
        where: [(f"{each['type']} {each['amount']}", each.get("hold_id") or None) for each in rows]
        for where, rows in readings.items()
    }


async def transfer_of(api: httpx.AsyncClient, entry: dict[str, Any]) -> dict[str, Any]:
    """What the transfer that an entry is half of says; the opening is half of none."""
    if entry["transfer_id"] is None:
        return {"type": entry["type"], "amount": entry["amount"]}
    shown: dict[str, Any] = (await api.get(f"/api/v1/transfers/{entry['transfer_id']}")).json()
    return {**shown, "type": entry["type"]}


async def test_an_account_s_holds_are_listed(api: httpx.AsyncClient, accounts: None) -> None:
    ids = [(await hold(api, amount=str(number))).json()["hold_id"] for number in range(1, 6)]
    await act(api, ids[1], "release")
    page = (await api.get(HOLDS, params={"account_id": "A", "limit": 3})).json()
    assert [each["hold_id"] for each in page["holds"]] == ids[:3]
    rest = await api.get(HOLDS, params={"account_id": "A", "cursor": page["next_cursor"]})
    assert [each["hold_id"] for each in rest.json()["holds"]] == ids[3:]
    assert rest.json()["next_cursor"] is None
    held = (await api.get(HOLDS, params={"account_id": "A", "status": "HELD"})).json()
    assert [each["hold_id"] for each in held["holds"]] == [ids[0], *ids[2:]]
    found, cursor = [], None
    while not found or cursor:
        asked = {"account_id": "A", "status": "HELD", "limit": 2}
        page = (await api.get(HOLDS, params=asked | ({"cursor": cursor} if cursor else {}))).json()
        found += [each["hold_id"] for each in page["holds"]]
        cursor = page["next_cursor"]
    assert found == [ids[0], *ids[2:]]
    for status, count in (("RELEASED", 1), ("CAPTURED", 0), ("EXPIRED", 0)):
        page = (await api.get(HOLDS, params={"account_id": "A", "status": status})).json()
        assert len(page["holds"]) == count


async def test_an_act_waits_for_no_reads(settings: Settings, database: Any) -> None:
    few = msgspec.structs.replace(settings.postgres, read_connections=1)
    async with serving(msgspec.structs.replace(settings, postgres=few)) as api:
        await opened(api)
        hold_id = (await hold(api)).json()["hold_id"]
        async with database.transaction():
            await database.execute("LOCK TABLE journal_detachments IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(api.get("/api/v1/accounts/A/statement"))

            async def is_waiting() -> bool:
                asked = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
                return bool(await database.fetchval(asked))

            await eventually(is_waiting)
            captured = await act(api, hold_id, "capture", "k", amount="10")
            assert (captured.status_code, captured.json()["captured"]) == (200, "10.00")
            assert not reading.done()
        assert (await reading).status_code == 200


async def test_an_account_with_a_hold_is_not_closed(api: httpx.AsyncClient, accounts: None) -> None:
    hold_id = (await hold(api, amount="100")).json()["hold_id"]
    closing = await api.patch("/api/v1/accounts/A", json={"closed": True})
    assert (closing.status_code, closing.json()["code"]) == (422, "account_not_empty")
    await act(api, hold_id, "capture")
    closing = await api.patch("/api/v1/accounts/A", json={"closed": True})
    assert closing.status_code == 200


async def test_the_holding_account_is_nobody_s(api: httpx.AsyncClient, accounts: None) -> None:
    await hold(api)
    for answer in (
        await api.post("/api/v1/accounts", json={"account_id": "holding:EUR", "currency": "EUR"}),
        await api.post(
            "/api/v1/transaction",
            json={"account_id": "holding:USD", "amount": "1", "type": "debit"},
        ),
        await api.post(
            "/api/v1/transfers",
            json={"debit_account_id": "holding:USD", "credit_account_id": "A", "amount": "1"},
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "account_reserved")
    listed = (await api.get("/api/v1/accounts")).json()["accounts"]
    assert [each["account_id"] for each in listed] == ["A", "B"]


async def test_of_acts_at_once_as_many_win_as_there_is_money_for(
    api: httpx.AsyncClient, accounts: None
) -> None:
    hold_id = (await hold(api, credit_account_id="B")).json()["hold_id"]
    acts = [act(api, hold_id, "capture", f"k{number}", amount="10") for number in range(12)]
    answers = await asyncio.gather(*acts)
    codes = sorted(answer.json().get("code", "won") for answer in answers)
    assert codes == ["hold_ended"] * 6 + ["won"] * 6
    assert await available(api, "B") == "60.00"
