"""`GET /api/v1/transactions` by filters: what is found, in which order, how far a page looks."""

import itertools
from typing import Any

import httpx
import pytest

from app import limits
from app.bootstrap import WorkerServices
from tests.api.test_transactions import opened, sent, told

PATH = "/api/v1/transactions"


async def found(api: httpx.AsyncClient, **asked: Any) -> list[str]:
    """The amounts of what is found in all pages, with a sign for debits."""
    amounts, pages = [], 0
    asked = {name.replace("metadata_", "metadata."): value for name, value in asked.items()}
    while pages < 100:
        answer = await api.get(PATH, params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["transactions"]) <= int(asked.get("limit", limits.PAGE_ITEMS_DEFAULT))
        amounts += [
            ("-" if each["type"] == "debit" else "") + each["amount"]
            for each in page["transactions"]
        ]
        if page["next_cursor"] is None:
            return amounts
        asked["cursor"], pages = page["next_cursor"], pages + 1
    raise AssertionError("there is no end")


@pytest.fixture
async def booked(api: httpx.AsyncClient, worker: WorkerServices) -> list[str]:
    """Seven transactions on two accounts, the first four settled; returns when they were booked."""
    await opened(api)
    instants = []
    for number, fields in enumerate(
        [
            {"amount": "1", "reference": "rent", "metadata": {"run": "x", "kind": "a"}},
            {"amount": "2", "type": "credit", "reference": "rent"},
            {"amount": "3", "metadata": {"run": "x"}},
            {"amount": "4", "reference": "Rent"},
            {"amount": "5", "type": "credit", "reference": "rent", "metadata": {"run": "y"}},
        ]
    ):
        instants.append((await sent(api, **fields)).json()["timestamp"])
        if number == 3:
            await worker.settler.settle()
    await opened(api, "J", currency="JPY", opening_balance="0")
    for amount in ("5", "7"):
        answer = await sent(api, account_id="J", type="credit", amount=amount, reference="rent")
        instants.append(answer.json()["timestamp"])
    return instants


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"account_id": "A"}, "5.00 -4.00 -3.00 2.00 -1.00 100.00"),
        ({"account_id": "A", "type": "credit"}, "5.00 2.00 100.00"),
        ({"account_id": "A", "type": "debit"}, "-4.00 -3.00 -1.00"),
        ({"account_id": "A", "status": "PENDING"}, "5.00"),
        ({"account_id": "A", "status": "SETTLED"}, "-4.00 -3.00 2.00 -1.00 100.00"),
        ({"account_id": "A", "reference": "rent"}, "5.00 2.00 -1.00"),
        ({"reference": "rent"}, "7 5 5.00 2.00 -1.00"),
        ({"reference": "Rent"}, "-4.00"),
        ({"reference": "nothing"}, ""),
        ({"account_id": "A", "amount_min": "3"}, "5.00 -4.00 -3.00 100.00"),
        ({"account_id": "A", "amount_max": "3.00"}, "-3.00 2.00 -1.00"),
        ({"account_id": "A", "amount_min": "2.001", "amount_max": "4"}, "-4.00 -3.00"),
        ({"reference": "rent", "amount_min": "5", "amount_max": "5.5"}, "5 5.00"),
        ({"account_id": "A", "metadata_run": "x"}, "-3.00 -1.00"),
        ({"account_id": "A", "metadata_run": "x", "metadata_kind": "a"}, "-1.00"),
        ({"account_id": "J", "reference": "rent", "amount_min": "6"}, "7"),
        ({"account_id": "A", "type": "credit", "status": "SETTLED", "amount_max": "9"}, "2.00"),
    ],
)
async def test_what_is_wanted_is_found_newest_first(
    api: httpx.AsyncClient,
    booked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    expected: str,
) -> None:
    for looked_at, limit in itertools.product((1, 3, 10_000), (1, 2, 100)):
        monkeypatch.setattr(limits, "SEARCH_LOOKED_AT_MAX", looked_at)
        assert await found(api, limit=limit, **asked) == expected.split(), (looked_at, limit)


async def test_a_period_begins_with_its_first_instant_and_ends_before_its_last(
    api: httpx.AsyncClient, booked: list[str]
) -> None:
    period = {"from": booked[1], "to": booked[3]}
    assert await found(api, account_id="A", **period) == ["-3.00", "2.00"]
    assert await found(api, reference="rent", **period) == ["2.00"]
    assert await found(api, account_id="A", limit=1, **period) == ["-3.00", "2.00"]
    assert await found(api, account_id="A", to=booked[0]) == ["100.00"]
    assert await found(api, reference="rent", **{"from": booked[6]}) == ["7"]


async def test_a_page_looks_at_so_many_and_says_that_there_may_be_more(
    api: httpx.AsyncClient, booked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCH_LOOKED_AT_MAX", 2)
    asked = {"account_id": "A", "amount_min": "50"}
    empty = (await api.get(PATH, params=asked)).json()
    assert empty["transactions"] == []
    assert empty["next_cursor"] is not None
    assert await found(api, **asked) == ["100.00"]


async def test_items_of_one_batch_are_told_apart_by_their_numbers(api: httpx.AsyncClient) -> None:
    await opened(api)
    items = [{"account_id": "A", "amount": str(n), "type": "debit"} for n in range(1, 8)]
    await api.post(PATH, json={"transactions": items})
    expected = [*(f"-{n}.00" for n in range(7, 0, -1)), "100.00"]
    for limit in (1, 3, 7, 8, 9):
        assert await found(api, account_id="A", limit=limit) == expected


async def test_what_is_found_is_told_as_it_is_by_its_id(
    api: httpx.AsyncClient, booked: list[str]
) -> None:
    await opened(api, "B", opening_balance="0")
    body = {"debit_account_id": "A", "credit_account_id": "B", "amount": "10"}
    await api.post("/api/v1/transfers", json=body)
    for one in (await api.get(PATH, params={"account_id": "A"})).json()["transactions"]:
        alone = (await api.get(f"{PATH}/{one['transaction_id']}")).json()
        assert {name: value for name, value in one.items() if value is not None} == {
            name: value for name, value in alone.items() if value is not None
        }


async def test_the_look_up_by_key_is_as_it_was(api: httpx.AsyncClient) -> None:
    await opened(api)
    sent_id = (await sent(api, key="k")).json()["transaction_id"]
    answer = await api.get(PATH, params={"idempotency_key": "k"})
    assert answer.json()["transaction_id"] == sent_id
    assert "transactions" not in answer.json()


@pytest.mark.parametrize(
    ("query", "status", "code", "pointer"),
    [
        ("", 400, "invalid_parameter", "/account_id"),
        ("status=PENDING", 400, "invalid_parameter", "/account_id"),
        ("idempotency_key=k&account_id=A", 400, "invalid_parameter", "/idempotency_key"),
        ("idempotency_key=k&limit=1", 400, "invalid_parameter", "/idempotency_key"),
        ("idempotency_key=k&idempotency_key=k", 400, "invalid_parameter", "/idempotency_key"),
        ("account_id=NOBODY", 404, "account_not_found", "/account_id"),
        ("account_id=", 400, "account_id_empty", "/account_id"),
        ("account_id=external:USD", 422, "account_reserved", "/account_id"),
        ("account_id=A&account_id=B", 400, "invalid_parameter", "/account_id"),
        ("account_id=A&status=pending", 400, "invalid_parameter", "/status"),
        ("account_id=A&type=out", 400, "invalid_parameter", "/type"),
        ("account_id=A&from=then", 400, "invalid_parameter", "/from"),
        (
            "account_id=A&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            400,
            "invalid_parameter",
            "/to",
        ),
        ("account_id=A&amount_min=-1", 400, "amount_negative", "/amount_min"),
        ("account_id=A&amount_max=many", 400, "amount_not_a_number", "/amount_max"),
        ("account_id=A&amount_min=1e2", 400, "amount_exponent", "/amount_min"),
        ("account_id=A&amount_min=3&amount_max=2", 400, "invalid_parameter", "/amount_max"),
        ("account_id=A&limit=0", 400, "invalid_parameter", "/limit"),
        ("account_id=A&limit=1001", 400, "invalid_parameter", "/limit"),
        ("account_id=A&cursor=nonsense", 400, "invalid_cursor", "/cursor"),
        ("account_id=A&cursor=MS4xLjE&from=2026-01-01T00:00:00Z", 400, "invalid_cursor", "/cursor"),
        (f"reference={'x' * 141}", 400, "invalid_value", "/reference"),
        ("reference=%00", 400, "invalid_value", "/reference"),
        ("account_id=A&colour=red", 400, "invalid_parameter", "/colour"),
        ("account_id=A&metadata.=", 200, None, None),
        (f"account_id=A&metadata.{'k' * 41}=x", 400, "invalid_value", f"/metadata/{'k' * 40}"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    api: httpx.AsyncClient, query: str, status: int, code: str | None, pointer: str | None
) -> None:
    await opened(api)
    answer = await api.get(f"{PATH}?{query}")
    assert told(answer) == (status, code, pointer)
