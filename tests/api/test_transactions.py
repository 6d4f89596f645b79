"""`POST /api/v1/transaction` and the reads that follow it, over both ways into the service."""

import asyncio
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.bootstrap import WorkerServices
from tests.conftest import eventually

PATH = "/api/v1/transaction"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def opened(api: httpx.AsyncClient, account_id: str = "A", **fields: Any) -> None:
    body = {"account_id": account_id, "opening_balance": "100.00", **fields}
    answer = await api.post("/api/v1/accounts", json=body)
    assert answer.status_code == 201, answer.text


async def sent(api: httpx.AsyncClient, key: str | None = None, **fields: Any) -> httpx.Response:
    body = {"account_id": "A", "amount": "1.00", "type": "debit", **fields}
    return await api.post(PATH, json=body, headers={"idempotency-key": key} if key else {})


def told(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """The status of an answer, and the code and the pointer of its problem."""
    problem = answer.json()
    return answer.status_code, problem.get("code"), problem.get("pointer")


async def available(api: httpx.AsyncClient, account_id: str = "A") -> str:
    answer = await api.get(f"/api/v1/balance/{account_id}")
    text: str = answer.json()["available_balance"]
    return text


async def test_an_accepted_transaction_is_told_in_full(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    metadata = {"b": "2", "a": "1"}
    answer = await sent(api_both, amount="2.5", reference="rent", metadata=metadata)
    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert "idempotency-replayed" not in answer.headers
    assert INSTANT.fullmatch(body.pop("timestamp"))
    assert UUID(body.pop("transaction_id")).version == 8
    assert body == {
        "success": True,
        "message": "Transaksi berhasil diproses",
        "account_id": "A",
        "amount": "2.50",
        "type": "debit",
        "currency": "USD",
        "status": "PENDING",
        "mode": "redis",
        "reference": "rent",
        "metadata": metadata,
    }
    assert await available(api_both) == "97.50"


async def test_a_repeated_request_gets_the_same_bytes_and_moves_once(
    api_both: httpx.AsyncClient, worker: WorkerServices
) -> None:
    await opened(api_both)
    fields = {"reference": "rent", "metadata": {"zz": "1", "a": "2", "m\u00e9": "\u2603"}}
    first = await sent(api_both, "k", **fields)
    again = await sent(api_both, "k", **fields)
    await worker.settler.settle()
    settled = await sent(api_both, '"k"', **fields, amount="1")
    assert [first.status_code, again.status_code, settled.status_code] == [201, 201, 201]
    assert first.content == again.content == settled.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert settled.headers["idempotency-replayed"] == "true"
    assert await available(api_both) == "99.00"


async def test_a_client_may_choose_the_id(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    chosen = str(uuid4())
    first = await sent(api_both, id=chosen)
    again = await sent(api_both, id=chosen.upper())
    assert first.json()["transaction_id"] == chosen
    assert first.content == again.content
    assert (await api_both.get(f"/api/v1/transactions/{chosen}")).json()["amount"] == "1.00"
    assert await available(api_both) == "99.00"


async def test_a_key_used_for_something_else_is_refused(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    first = (await sent(api_both, "k")).json()
    for fields in (
        {"amount": "2.00"},
        {"type": "credit"},
        {"reference": "other"},
        {"metadata": {"k": "v"}},
    ):
        answer = await sent(api_both, "k", **fields)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "idempotency_key_reused")
        assert problem["transaction_id"] == first["transaction_id"]
        assert (problem["success"], problem["status"]) == (False, "REJECTED")
    assert await available(api_both) == "99.00"


async def test_a_key_and_an_id_of_two_requests_conflict(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    chosen = str(uuid4())
    await sent(api_both, "k")
    await sent(api_both, id=chosen)
    answer = await sent(api_both, "k", id=chosen)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_identity_conflict")
    assert await available(api_both) == "98.00"


async def test_insufficient_funds_tell_what_there_is(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    answer = await sent(api_both, "k", amount="100.01")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "insufficient_available")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["available"], problem["requested"]) == ("100.00", "100.01")
    assert (problem["success"], problem["status"]) == (False, "REJECTED")
    assert (problem["http_status"], problem["retryable"]) == (422, False)
    assert (problem["account_id"], problem["amount"], problem["type"]) == ("A", "100.01", "debit")
    assert await available(api_both) == "100.00"


async def test_a_refusal_is_not_remembered(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    assert (await sent(api_both, "k", amount="150.00")).status_code == 422
    assert (await sent(api_both, type="credit", amount="50.00")).status_code == 201
    accepted = await sent(api_both, "k", amount="150.00")
    assert accepted.status_code == 201
    assert "idempotency-replayed" not in accepted.headers
    replayed = await sent(api_both, "k", amount="150.00")
    assert replayed.content == accepted.content


async def test_a_credit_limit_can_be_used_and_not_passed(api_both: httpx.AsyncClient) -> None:
    await opened(api_both, credit_limit="50.00")
    assert (await sent(api_both, amount="150.00")).status_code == 201
    assert (await sent(api_both, amount="0.01")).json()["available"] == "0.00"
    balance = (await api_both.get("/api/v1/balance/A")).json()
    assert (balance["available_balance"], balance["credit_limit"]) == ("0.00", "50.00")


async def test_both_ways_answer_alike(api_both: httpx.AsyncClient) -> None:
    """The router also answers the path with a slash at its end, which the direct way does not."""
    await opened(api_both)
    body = {"account_id": "A", "amount": "1", "type": "debit"}
    bad = {"account_id": "A", "amount": "-1", "type": "debit"}
    for sending, key in ((body, "k"), (bad, "bad"), (body, '"unfinished')):
        headers = {"idempotency-key": key, "x-request-id": "same"}
        direct = await api_both.post(PATH, json=sending, headers=headers)
        again = await api_both.post(PATH, json=sending, headers=headers)
        routed = await api_both.post(f"{PATH}/", json=sending, headers=headers)
        assert routed.status_code == direct.status_code
        assert routed.content == direct.content
        assert dict(routed.headers) == dict(again.headers)


async def test_repeated_headers_mean_the_same_on_both_ways(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    body = b'{"account_id":"A","amount":"1","type":"debit"}'
    headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "first"),
        ("idempotency-key", "second"),
    ]
    direct = await api_both.post(PATH, content=body, headers=headers)
    routed = await api_both.post(f"{PATH}/", content=body, headers=headers)
    assert routed.status_code == direct.status_code
    assert routed.json().get("transaction_id") == direct.json().get("transaction_id")


async def test_a_request_id_is_kept_or_given(api_both: httpx.AsyncClient) -> None:
    for path in (PATH, "/health/live", "/nowhere"):
        kept = await api_both.post(path, headers={"x-request-id": "trace-1"})
        given = [(await api_both.post(path)).headers["x-request-id"] for _ in range(2)]
        refused = await api_both.post(path, headers={"x-request-id": "a b"})
        assert kept.headers["x-request-id"] == "trace-1"
        assert given[0] != given[1]
        assert refused.headers["x-request-id"] != "a b"


async def test_a_content_type_with_charset_is_taken(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    for content_type in (
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'Application/JSON; charset="utf-8"',
    ):
        answer = await api_both.post(
            PATH,
            content=b'{"account_id":"A","amount":1,"type":"credit"}',
            headers={"content-type": content_type},
        )
        assert answer.status_code == 201, content_type


async def test_a_body_in_pieces_is_taken(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)

    async def pieces() -> Any:
        for piece in (b'{"account_id":"A",', b'"amount":"1.00",', b'"type":"debit"}'):
            yield piece
            await asyncio.sleep(0.02)

    headers = {"content-type": "application/json"}
    answer = await api_both.post(PATH, content=pieces(), headers=headers)
    assert answer.status_code == 201


async def test_a_client_that_leaves_takes_nothing_back(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    host, port = api_both.base_url.host, api_both.base_url.port
    body = b'{"account_id":"A","amount":"1.00","type":"debit"}'
    _, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /api/v1/transaction HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"idempotency-key: gone\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    )
    await writer.drain()
    writer.close()

    async def is_found() -> bool:
        answer = await api_both.get("/api/v1/transactions?idempotency_key=gone")
        return answer.status_code == 200

    await eventually(is_found)
    assert await available(api_both) == "99.00"


async def test_a_client_that_leaves_in_its_body_moves_nothing(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    host, port = api_both.base_url.host, api_both.base_url.port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /api/v1/transaction HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b'content-length: 500\r\n\r\n{"account_id":"A","amount":"1.00","type":"debit"}'
    )
    await writer.drain()
    writer.close()
    assert (await sent(api_both)).status_code == 201
    assert await available(api_both) == "99.00"


async def test_pipelined_requests_are_each_decided(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    host, port = api_both.base_url.host, api_both.base_url.port
    body = b'{"account_id":"A","amount":"1.00","type":"debit"}'
    request = (
        b"POST /api/v1/transaction HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request * 5)
    received = b""
    while received.count(b"HTTP/1.1 201") < 5:
        received += await asyncio.wait_for(reader.read(65_536), 10)
    writer.close()
    assert await available(api_both) == "95.00"


async def test_one_key_50_times_at_once_is_one_movement(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    answers = await asyncio.gather(*(sent(api_both, "k") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert await available(api_both) == "99.00"


async def test_half_of_the_clients_get_the_money_there_is(api_both: httpx.AsyncClient) -> None:
    await opened(api_both)
    answers = await asyncio.gather(*(sent(api_both) for _ in range(200)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(422)) == (100, 100)
    assert await available(api_both) == "0.00"


async def test_a_body_that_does_not_come_is_not_waited_for_forever(
    api_both: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.limits.BODY_READ_S", 0.2)
    url = api_both.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        b"POST /api/v1/transaction HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 50\r\n\r\n{"
    )
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert answer.startswith(b"HTTP/1.1 408")
    writer.close()
