"""Bad input as rows: each way to be wrong has its own code and pointer, and moves nothing."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest

from app import limits

PATH = "/api/v1/transaction"
GOOD: dict[str, Any] = {"account_id": "A", "amount": "1.00", "type": "debit"}
JSON = {"content-type": "application/json"}
UUID_8 = "01980000-0000-8000-8000-000000000001"


class Row(NamedTuple):
    """A body, and the answer it must get."""

    name: str
    body: bytes
    status: int
    code: str
    pointer: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})


def changed(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def without(field: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name != field}).encode()


def with_amount(literal: str) -> bytes:
    return b'{"account_id":"A","type":"debit","amount":%s}' % literal.encode()


def with_key(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def of_type(content_type: str) -> dict[str, str]:
    return {"content-type": content_type}


LATIN = "application/json; charset=latin-1"
LONG = "x" * (limits.REFERENCE_LENGTH_MAX + 1)
ENTRIES = {str(number): "" for number in range(limits.METADATA_ENTRIES_MAX + 1)}
ROWS = [
    Row("nothing", b"", 400, "malformed_json"),
    Row("text", b"account_id=A", 400, "malformed_json"),
    Row("cut off", changed()[:-2], 400, "malformed_json"),
    Row("two documents", changed() + b"{}", 400, "malformed_json"),
    Row("not UTF-8", changed().replace(b'"A"', b'"\xff"'), 400, "malformed_json"),
    Row("a byte order mark", b"\xef\xbb\xbf" + changed(), 400, "malformed_json"),
    Row("a lone surrogate", changed(reference="\ud800"), 400, "malformed_json"),
    Row("NaN as a number", with_amount("NaN"), 400, "malformed_json"),
    Row("Infinity as a number", with_amount("-Infinity"), 400, "malformed_json"),
    Row("a leading zero", with_amount("01"), 400, "malformed_json"),
    Row("an array", b"[]", 400, "wrong_type", ""),
    Row("null", b"null", 400, "wrong_type", ""),
    Row("deep nesting", b"[" * 20_000, 400, "wrong_type", ""),
    Row("unknown field", changed(amout="1"), 400, "unknown_field", "/amout"),
    Row("escaped pointer", changed(**{"a/b~c": 1}), 400, "unknown_field", "/a~1b~0c"),
    Row("account as number", changed(account_id=5), 400, "wrong_type", "/account_id"),
    Row("account as null", changed(account_id=None), 400, "wrong_type", "/account_id"),
    Row("amount as object", changed(amount={}), 400, "wrong_type", "/amount"),
    Row("amount as boolean", changed(amount=True), 400, "wrong_type", "/amount"),
    Row("amount as null", changed(amount=None), 400, "wrong_type", "/amount"),
    Row("type as number", changed(type=1), 400, "wrong_type", "/type"),
    Row("metadata as list", changed(metadata=[]), 400, "wrong_type", "/metadata"),
    Row("metadata of numbers", changed(metadata={"k": 1}), 400, "wrong_type", "/metadata"),
    Row("no account", without("account_id"), 400, "missing_field", "/account_id"),
    Row("no amount", without("amount"), 400, "missing_field", "/amount"),
    Row("no type", without("type"), 400, "missing_field", "/type"),
    Row("another type", changed(type="DEBIT"), 400, "invalid_value", "/type"),
    Row("id is no UUID", changed(id="1"), 400, "invalid_value", "/id"),
    Row("id of version 8", changed(id=UUID_8), 400, "invalid_value", "/id"),
    Row("long reference", changed(reference=LONG), 400, "invalid_value", "/reference"),
    Row("NUL in reference", changed(reference="a\x00"), 400, "invalid_value", "/reference"),
    Row("newline in reference", changed(reference="a\n"), 400, "invalid_value", "/reference"),
    Row("many entries", changed(metadata=ENTRIES), 400, "invalid_value", "/metadata"),
    Row("empty account", changed(account_id=""), 400, "account_id_empty", "/account_id"),
    Row("long account", changed(account_id="A" * 51), 400, "account_id_too_long", "/account_id"),
    Row("blank in account", changed(account_id="A B"), 400, "account_id_malformed", "/account_id"),
    Row("accent", changed(account_id="\u00c5"), 400, "account_id_malformed", "/account_id"),
    Row("NUL in account", changed(account_id="A\x00"), 400, "account_id_malformed", "/account_id"),
    Row("newline at end", changed(account_id="A\n"), 400, "account_id_malformed", "/account_id"),
    Row("external", changed(account_id="external:USD"), 422, "account_reserved", "/account_id"),
    Row("unknown account", changed(account_id="NOBODY"), 404, "account_not_found", "/account_id"),
    Row("zero", changed(amount="0"), 400, "amount_zero", "/amount"),
    Row("zero with decimals", changed(amount="0.00"), 400, "amount_zero", "/amount"),
    Row("zero integer", changed(amount=0), 400, "amount_zero", "/amount"),
    Row("negative", changed(amount="-1"), 400, "amount_negative", "/amount"),
    Row("negative integer", changed(amount=-1), 400, "amount_negative", "/amount"),
    Row("NaN", changed(amount="NaN"), 400, "amount_not_a_number", "/amount"),
    Row("Infinity", changed(amount="Infinity"), 400, "amount_not_a_number", "/amount"),
    Row("empty amount", changed(amount=""), 400, "amount_not_a_number", "/amount"),
    Row("Arabic digits", changed(amount="\u0661"), 400, "amount_not_a_number", "/amount"),
    Row("exponent", changed(amount="1e2"), 400, "amount_exponent", "/amount"),
    Row("float", with_amount("1.5"), 400, "amount_float", "/amount"),
    Row("whole float", with_amount("1.0"), 400, "amount_float", "/amount"),
    Row("float with exponent", with_amount("1e2"), 400, "amount_float", "/amount"),
    Row("float past range", with_amount("1e999"), 400, "amount_float", "/amount"),
    Row("too many decimals", changed(amount="1.001"), 400, "amount_too_precise", "/amount"),
    Row("too large", changed(amount="10000000000000000"), 400, "amount_too_large", "/amount"),
    Row("far too large", with_amount("9" * 5_000), 400, "amount_too_large", "/amount"),
    Row("empty key", changed(), 400, "invalid_idempotency_key", headers=with_key("")),
    Row("long key", changed(), 400, "invalid_idempotency_key", headers=with_key("k" * 256)),
    Row("blank in key", changed(), 400, "invalid_idempotency_key", headers=with_key("k k")),
    Row("empty quoted key", changed(), 400, "invalid_idempotency_key", headers=with_key('""')),
    Row("large body", changed(reference="x" * limits.BODY_BYTES_MAX), 413, "body_too_large"),
    Row("text", changed(), 415, "unsupported_media_type", headers=of_type("text/plain")),
    Row("form", changed(), 415, "unsupported_media_type", headers=of_type("multipart/form-data")),
    Row("Latin-1", changed(), 415, "unsupported_media_type", headers=of_type(LATIN)),
]


async def test_each_row_gets_its_own_answer_and_nothing_moves(api_both: httpx.AsyncClient) -> None:
    account = {"account_id": "A", "opening_balance": "100.00"}
    opened = await api_both.post("/api/v1/accounts", json=account)
    assert opened.status_code == 201, opened.text
    before = (await api_both.get("/api/v1/balance/A")).json()
    for row in ROWS:
        headers = {**JSON, **row.headers}
        answer = await api_both.post(PATH, content=row.body, headers=headers)
        problem = answer.json()
        got = (answer.status_code, problem["code"])
        assert got == (row.status, row.code), row.name
        assert answer.headers["content-type"] == "application/problem+json", row.name
        if row.pointer is not None:
            assert problem["pointer"] == row.pointer, row.name
        assert (problem["success"], problem["status"]) == (False, "REJECTED"), row.name
        assert problem["retryable"] is False, row.name
        assert problem["request_id"] == answer.headers["x-request-id"], row.name
        assert {"account_id", "amount", "type"} <= problem.keys(), row.name
    after = (await api_both.get("/api/v1/balance/A")).json()
    assert after == before
    assert (await api_both.get("/api/v1/pending/A")).json()["total_debit"] == "0.00"


async def test_a_refusal_shows_what_was_sent(api_both: httpx.AsyncClient) -> None:
    sent = {"account_id": "NOBODY", "amount": "1.50", "type": "credit"}
    problem = (await api_both.post(PATH, json=sent)).json()
    assert {name: problem[name] for name in sent} == sent
    unreadable = await api_both.post(PATH, content=b"{", headers=JSON)
    assert [unreadable.json()[name] for name in sent] == [None, None, "/problems/malformed_json"]
    nested = {"account_id": ["A"], "amount": {"value": 1}, "type": "debit"}
    problem = (await api_both.post(PATH, json=nested)).json()
    assert [problem[name] for name in sent] == [None, None, "debit"]
    assert problem["problem_type"] == "/problems/wrong_type"


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "missing_field", "/account_id"),
        ({"account_id": ""}, "account_id_empty", "/account_id"),
        ({"account_id": "external:USD"}, "account_reserved", "/account_id"),
        ({"account_id": "N", "currency": "XAU"}, "unknown_currency", "/currency"),
        ({"account_id": "N", "currency": "usd"}, "unknown_currency", "/currency"),
        ({"account_id": "N", "opening_balance": "-1"}, "amount_negative", "/opening_balance"),
        ({"account_id": "N", "opening_balance": "1.001"}, "amount_too_precise", "/opening_balance"),
        ({"account_id": "N", "opening_balance": 1.5}, "amount_float", "/opening_balance"),
        ({"account_id": "N", "credit_limit": "1e3"}, "amount_exponent", "/credit_limit"),
        ({"account_id": "N", "owner": "me"}, "unknown_field", "/owner"),
        ({"account_id": "N", "metadata": {"k": "\u0000"}}, "invalid_value", "/metadata"),
    ],
)
async def test_an_account_that_makes_no_sense_is_not_opened(
    api: httpx.AsyncClient, body: dict[str, Any], code: str, pointer: str
) -> None:
    answer = await api.post("/api/v1/accounts", json=body)
    problem = answer.json()
    assert problem["code"] == code
    assert problem["pointer"].startswith(pointer)
    assert problem["status"] == answer.status_code
    assert (await api.get("/api/v1/accounts/N")).status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nowhere", 404, "not_found"),
        ("/api/v1/balance", 404, "not_found"),
        ("/api/v1/balance/NOBODY", 404, "account_not_found"),
        ("/api/v1/balance/A%20B", 400, "account_id_malformed"),
        ("/api/v1/balance/A%00", 400, "account_id_malformed"),
        ("/api/v1/balance/%ff", 400, "account_id_malformed"),
        (f"/api/v1/balance/{'A' * 51}", 400, "account_id_too_long"),
        ("/api/v1/accounts/NOBODY", 404, "account_not_found"),
        ("/api/v1/pending/NOBODY", 404, "account_not_found"),
        ("/api/v1/pending/external:USD", 422, "account_reserved"),
        ("/api/v1/pending/A?limit=0", 400, "invalid_parameter"),
        ("/api/v1/pending/A?limit=1001", 400, "invalid_parameter"),
        ("/api/v1/pending/A?limit=many", 400, "invalid_parameter"),
        ("/api/v1/pending/A?cursor=nonsense", 400, "invalid_cursor"),
        ("/api/v1/transactions/7", 400, "invalid_parameter"),
        (f"/api/v1/transactions/{UUID_8}", 404, "transaction_not_found"),
        ("/api/v1/transactions/00000000-0000-4000-8000-000000000000", 404, "transaction_not_found"),
        ("/api/v1/transactions", 400, "invalid_parameter"),
        ("/api/v1/transactions?idempotency_key=", 400, "invalid_idempotency_key"),
        ("/api/v1/transactions?idempotency_key=a%20b", 400, "invalid_idempotency_key"),
        ("/api/v1/transactions?idempotency_key=never", 404, "transaction_not_found"),
    ],
)
async def test_a_read_of_nothing_says_so(
    api: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PATH, "POST"),
        ("DELETE", PATH, "POST"),
        ("PUT", "/api/v1/accounts", "POST"),
        ("POST", "/api/v1/balance/A", "GET"),
        ("PUT", "/api/v1/accounts/A", "PATCH"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    api_both: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await api_both.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["content-type"] == "application/problem+json"
    assert allowed in answer.headers["allow"].split(", ")
