"""Conditional and backdated transactions over HTTP."""

from typing import Any

import httpx
import pytest

from tests.api.test_transactions import available, opened, sent, told

BACK = "2026-01-02T03:04:05.000006Z"


async def version(api: httpx.AsyncClient, account_id: str = "A") -> int:
    number: int = (await api.get(f"/api/v1/balance/{account_id}")).json()["version"]
    return number


async def test_a_version_that_was_read_is_good_for_one_transaction(
    api_both: httpx.AsyncClient,
) -> None:
    await opened(api_both)
    read = await version(api_both)
    first = await sent(api_both, expect={"version": read})
    second = await sent(api_both, expect={"version": read})
    assert (first.status_code, second.status_code) == (201, 409)
    problem = second.json()
    assert (problem["code"], problem["pointer"]) == ("version_mismatch", "/expect/version")
    assert problem["expected_version"] == read
    assert problem["retryable"] is False
    assert await version(api_both) == read + 1
    assert await available(api_both) == "99.00"


async def test_what_is_available_may_be_required_of_debits_and_credits(
    api_both: httpx.AsyncClient,
) -> None:
    await opened(api_both)
    for least, kind, status in (
        ("100.00", "debit", 201),
        ("99.01", "credit", 409),
        ("99", "credit", 201),
        (101, "debit", 409),
        ("-5.00", "debit", 201),
        ("0", "debit", 201),
    ):
        answer = await sent(api_both, type=kind, expect={"available_at_least": least})
        assert answer.status_code == status, (least, answer.text)
    refused = await sent(api_both, expect={"available_at_least": "98.01"})
    problem = refused.json()
    assert problem["code"] == "available_below_expected"
    assert problem["pointer"] == "/expect/available_at_least"
    assert (problem["available"], problem["requested"]) == ("98.00", "1.00")


async def test_a_retry_is_answered_though_its_condition_holds_no_more(
    api_both: httpx.AsyncClient,
) -> None:
    await opened(api_both)
    asked = {"expect": {"version": await version(api_both), "available_at_least": "100"}}
    first = await sent(api_both, key="k", **asked)
    again = await sent(api_both, key="k", **asked)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"expect": {}}, "invalid_value", "/expect"),
        ({"expect": {"version": -1}}, "invalid_value", "/expect/version"),
        ({"expect": {"version": 2**53}}, "invalid_value", "/expect/version"),
        ({"expect": {"version": "1"}}, "wrong_type", "/expect/version"),
        ({"expect": {"later": 1}}, "unknown_field", "/expect/later"),
        ({"expect": 1}, "wrong_type", "/expect"),
        (
            {"expect": {"available_at_least": "x"}},
            "amount_not_a_number",
            "/expect/available_at_least",
        ),
        (
            {"expect": {"available_at_least": "1.001"}},
            "amount_too_precise",
            "/expect/available_at_least",
        ),
        (
            {"expect": {"available_at_least": "9" * 20}},
            "amount_too_large",
            "/expect/available_at_least",
        ),
        ({"effective_at": "2026-01-02T03:04:05"}, "invalid_value", "/effective_at"),
        ({"effective_at": "yesterday"}, "invalid_value", "/effective_at"),
        ({"effective_at": "2999-01-01T00:00:00Z"}, "invalid_value", "/effective_at"),
        ({"effective_at": "1969-12-31T23:59:59Z"}, "invalid_value", "/effective_at"),
        ({"effective_at": 5}, "wrong_type", "/effective_at"),
    ],
)
async def test_a_condition_that_is_none_is_refused_and_moves_nothing(
    api_both: httpx.AsyncClient, fields: dict[str, Any], code: str, pointer: str
) -> None:
    await opened(api_both)
    answer = await sent(api_both, **fields)
    assert told(answer) == (400, code, pointer)
    assert await available(api_both) == "100.00"


async def test_each_of_many_has_conditions_of_its_own(api: httpx.AsyncClient) -> None:
    await opened(api)
    read = await version(api)
    items = [
        {"account_id": "A", "amount": "1", "type": "debit", "expect": {"version": read + number}}
        for number in (0, 1, 1, 2)
    ]
    answer = await api.post("/api/v1/transactions", json={"transactions": items})
    assert [each["success"] for each in answer.json()["results"]] == [True, True, False, True]
    problem = answer.json()["results"][2]["problem"]
    assert problem["pointer"] == "/transactions/2/expect/version"
    assert problem["expected_version"] == read + 1


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_atomic_request_stands_and_falls_with_its_conditions(
    api: httpx.AsyncClient, key: str | None
) -> None:
    await opened(api)
    headers = {"idempotency-key": key} if key else {}

    async def post(least: str) -> httpx.Response:
        items = [
            {"account_id": "A", "amount": "1", "type": "debit"},
            {
                "account_id": "A",
                "amount": "1",
                "type": "debit",
                "expect": {"available_at_least": least},
            },
        ]
        body = {"transactions": items, "atomic": True}
        return await api.post("/api/v1/transactions", json=body, headers=headers)

    refused = await post("99.01")
    assert refused.status_code == 422
    assert "available_below_expected" in refused.text
    assert await available(api) == "100.00"
    assert (await post("99.00")).status_code == 201
    assert await available(api) == "98.00"


async def test_a_refusal_of_a_part_is_remembered_with_its_reason(api: httpx.AsyncClient) -> None:
    await opened(api)
    items = [
        {"account_id": "A", "amount": "1", "type": "debit"},
        {"account_id": "A", "amount": "1", "type": "debit", "expect": {"version": 0}},
    ]
    answers = [
        await api.post(
            "/api/v1/transactions",
            json={"transactions": items},
            headers={"idempotency-key": "k"},
        )
        for _ in range(2)
    ]
    for answer in answers:
        problem = answer.json()["results"][1]["problem"]
        assert (problem["code"], problem["expected_version"]) == ("version_mismatch", 0)
    assert await available(api) == "99.00"


async def test_an_effective_time_is_told_with_the_booking_time(
    api_both: httpx.AsyncClient,
) -> None:
    await opened(api_both)
    first = await sent(api_both, key="k", effective_at=BACK)
    again = await sent(api_both, key="k", effective_at=BACK)
    body = first.json()
    assert (body["effective_at"], again.content) == (BACK, first.content)
    assert body["timestamp"] > BACK
    found = await api_both.get(f"/api/v1/transactions/{body['transaction_id']}")
    assert found.json()["effective_at"] == BACK
    (item,) = (
        each
        for each in (await api_both.get("/api/v1/pending/A")).json()["items"]
        if each["transaction_id"] == body["transaction_id"]
    )
    assert item["effective_at"] == BACK
    for other in ("2026-01-02T03:04:05.000007Z", None):
        answer = await sent(api_both, key="k", **({"effective_at": other} if other else {}))
        assert answer.json()["code"] == "idempotency_key_reused"
    assert "effective_at" not in (await sent(api_both)).json()


@pytest.mark.parametrize("forced", ["redis", "postgres"])
async def test_a_repetition_beside_it_does_not_count_for_a_condition(
    api: httpx.AsyncClient, database: Any, forced: str
) -> None:
    """What moved money before is known before a condition of its account is decided."""
    await opened(api)
    if forced == "postgres":
        force = "SELECT control_ledger_v1(0::smallint, 'force_postgres', 'test', 'test')"
        await database.fetchval(force)
    before = {"account_id": "A", "amount": "10", "type": "debit", "idempotency_key": "a"}
    await api.post("/api/v1/transactions", json={"transactions": [before]})
    read = await version(api)
    for number, expect in enumerate(({"version": read}, {"available_at_least": "89.00"})):
        items = [
            before,
            {
                "account_id": "A",
                "amount": "1",
                "type": "debit",
                "idempotency_key": f"b{number}",
                "expect": expect,
            },
        ]
        answer = await api.post("/api/v1/transactions", json={"transactions": items})
        assert [each["success"] for each in answer.json()["results"]] == [True, True], answer.text
    assert await available(api) == "88.00"


async def test_a_condition_that_only_a_repetition_would_meet_is_refused(
    api: httpx.AsyncClient,
) -> None:
    await opened(api)
    before = {"account_id": "A", "amount": "10", "type": "debit", "idempotency_key": "a"}
    await api.post("/api/v1/transactions", json={"transactions": [before]})
    expect = {"version": await version(api) + 1}
    items = [before, {"account_id": "A", "amount": "1", "type": "debit", "expect": expect}]
    answer = await api.post("/api/v1/transactions", json={"transactions": items})
    assert [each["success"] for each in answer.json()["results"]] == [True, False]


async def test_what_is_expected_may_be_written_in_several_ways(api: httpx.AsyncClient) -> None:
    await opened(api)

    async def post(least: str, instant: str) -> httpx.Response:
        item = {"account_id": "A", "amount": "1", "type": "debit", "effective_at": instant}
        body = {"transactions": [{**item, "expect": {"available_at_least": least}}]}
        headers = {"idempotency-key": "k"}
        return await api.post("/api/v1/transactions", json=body, headers=headers)

    first = await post("50", "2026-01-02T03:04:05Z")
    assert (await post("50.00", "2026-01-02T05:04:05+02:00")).content.count(b'"replayed":true') == 1
    assert "idempotency_key_reused" in (await post("51", "2026-01-02T03:04:05Z")).text
    assert first.status_code == 201
