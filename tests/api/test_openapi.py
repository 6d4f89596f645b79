"""The API document is true: it resolves, it names what is answered, and its page works offline."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx

from app import limits

Document = dict[str, Any]
STATEMENT = "/api/v1/accounts/{account_id}/statement"
PAST, FUTURE = "2001-01-01T00:00:00Z", "9999-01-01T00:00:00Z"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolved(document: Document, node: Document) -> Document:
    while "$ref" in node:
        target: Any = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def documented(document: Document, path: str, method: str, status: int) -> Document:
    responses = document["paths"][path][method]["responses"]
    assert str(status) in responses, f"{method} {path} answers {status}, which is not documented"
    response: Document = responses[str(status)]
    return response


async def read_document(api: httpx.AsyncClient) -> Document:
    answer = await api.get("/schema/openapi.json")
    assert answer.status_code == 200
    document: Document = answer.json()
    return document


async def test_every_reference_resolves(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    for reference in set(references(document)):
        assert resolved(document, {"$ref": reference})


async def test_every_route_is_described(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    found = {
        (method, path)
        for path, operations in document["paths"].items()
        for method in operations
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert found >= {
        ("post", "/api/v1/transaction"),
        ("get", "/api/v1/balance/{account_id}"),
        ("get", "/api/v1/pending/{account_id}"),
        ("get", "/api/v1/transactions/{transaction_id}"),
        ("get", "/api/v1/transactions"),
        ("get", STATEMENT),
        ("post", "/api/v1/accounts"),
        ("get", "/api/v1/accounts"),
        ("get", "/api/v1/accounts/{account_id}"),
        ("patch", "/api/v1/accounts/{account_id}"),
        ("get", "/api/v1/events"),
        ("post", "/api/v1/webhooks"),
        ("get", "/api/v1/webhooks"),
        ("get", "/api/v1/webhooks/{webhook_id}"),
        ("patch", "/api/v1/webhooks/{webhook_id}"),
        ("delete", "/api/v1/webhooks/{webhook_id}"),
        ("get", "/api/v1/webhooks/{webhook_id}/deliveries"),
        ("post", "/api/v1/webhooks/{webhook_id}/replay"),
        ("get", "/api/v1/health"),
        ("get", "/health"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/health/detailed"),
        ("post", "/test/accounts"),
        ("delete", "/test/cleanup"),
    }
    for method, path in found:
        assert document["paths"][path][method].get("description"), (method, path)


async def test_request_bodies_are_described(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    for path, required in (
        ("/api/v1/transaction", {"account_id", "amount", "type"}),
        ("/api/v1/accounts", {"account_id"}),
        ("/test/accounts", {"accounts"}),
    ):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert set(resolved(document, content["schema"])["required"]) == required


async def test_the_idempotency_key_is_an_optional_header(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    operation = document["paths"]["/api/v1/transaction"]["post"]
    (header,) = [one for one in operation["parameters"] if one["name"] == "Idempotency-Key"]
    assert (header["in"], header.get("required", False)) == ("header", False)


async def test_a_change_of_an_account_is_described(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    patch = document["paths"]["/api/v1/accounts/{account_id}"]["patch"]
    schema = resolved(document, patch["requestBody"]["content"]["application/json"]["schema"])
    assert set(schema["properties"]) == {"credit_limit", "frozen", "metadata", "closed"}
    assert not schema.get("required")
    (header,) = [one for one in patch["parameters"] if one["name"] == "If-Match"]
    assert (header["in"], header.get("required", False)) == ("header", False)
    assert "412" in patch["responses"]
    listed = document["paths"]["/api/v1/accounts"]["get"]["parameters"]
    assert {one["name"] for one in listed} == {
        "currency",
        "frozen",
        "closed",
        "metadata.<key>",
        "cursor",
        "limit",
    }


async def test_what_is_answered_is_documented_with_its_members(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    account = {"account_id": "A", "opening_balance": "1.00"}
    good = {"account_id": "A", "amount": "1", "type": "debit"}
    large = {**good, "reference": "x" * limits.BODY_BYTES_MAX}
    plain = {"content-type": "text/plain"}
    key, patched = {"idempotency-key": "k"}, "/api/v1/accounts/{account_id}"
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("post", "/api/v1/accounts", "", {"json": account}),
        ("post", "/api/v1/accounts", "", {"json": {**account, "opening_balance": "2"}}),
        ("post", "/api/v1/accounts", "", {"json": {}}),
        ("post", "/api/v1/transaction", "", {"json": good, "headers": key}),
        ("post", "/api/v1/transaction", "", {"json": {**good, "amount": "2"}, "headers": key}),
        ("post", "/api/v1/transaction", "", {"json": good}),
        ("post", "/api/v1/transaction", "", {"json": {}}),
        ("post", "/api/v1/transaction", "", {"json": {**good, "account_id": "NOBODY"}}),
        ("post", "/api/v1/transaction", "", {"json": large}),
        ("post", "/api/v1/transaction", "", {"content": b"{}", "headers": plain}),
        ("get", "/api/v1/balance/{account_id}", "A", {}),
        ("get", "/api/v1/balance/{account_id}", "NOBODY", {}),
        ("get", "/api/v1/balance/{account_id}", "A%20B", {}),
        ("get", "/api/v1/pending/{account_id}", "A", {}),
        ("get", "/api/v1/pending/{account_id}", "external:USD", {}),
        ("get", "/api/v1/accounts/{account_id}", "A", {}),
        ("get", "/api/v1/accounts", "", {}),
        ("get", "/api/v1/accounts", "", {"params": {"limit": "0"}}),
        ("patch", patched, "A", {"json": {"frozen": "credit"}}),
        ("patch", patched, "A", {"json": {"closed": True}}),
        ("patch", patched, "A", {"json": {"frozen": "all"}, "headers": {"if-match": '"9"'}}),
        ("patch", patched, "NOBODY", {"json": {"frozen": "all"}}),
        ("patch", patched, "A", {"json": {}}),
        ("get", "/api/v1/transactions/{transaction_id}", "7", {}),
        ("get", "/api/v1/transactions", "", {"params": {"idempotency_key": "k"}}),
        ("get", "/api/v1/transactions", "", {"params": {"idempotency_key": "none"}}),
        ("get", "/api/v1/transactions", "", {"params": {"account_id": "A"}}),
        ("get", "/api/v1/transactions", "", {"params": {"account_id": "external:USD"}}),
        ("get", "/api/v1/transactions", "", {}),
        ("get", "/api/v1/balance/{account_id}", "A", {"params": {"at": PAST}}),
        ("get", "/api/v1/balance/{account_id}", "A", {"params": {"at": FUTURE}}),
        ("get", "/api/v1/balance/{account_id}", "A", {"params": {"at": "then"}}),
        ("get", STATEMENT, "A", {}),
        ("get", STATEMENT, "A", {"params": {"format": "csv"}}),
        ("get", STATEMENT, "A", {"params": {"from": FUTURE}}),
        ("get", STATEMENT, "NOBODY", {}),
        ("get", STATEMENT, "A", {"params": {"from": "then"}}),
        ("get", "/api/v1/events", "", {}),
        ("get", "/api/v1/events", "", {"params": {"cursor": "x"}}),
        ("get", "/api/v1/webhooks", "", {}),
        ("post", "/api/v1/webhooks", "", {"json": {"url": "http://8.8.8.8/"}}),
        ("post", "/api/v1/webhooks", "", {"json": {"url": "http://127.0.0.1/"}}),
        ("post", "/api/v1/webhooks", "", {"json": {}}),
        ("get", "/api/v1/webhooks/{webhook_id}", "x", {}),
        ("delete", "/api/v1/webhooks/{webhook_id}", str(UUID(int=1)), {}),
        ("patch", "/api/v1/webhooks/{webhook_id}", "x", {"json": {"enabled": True}}),
        ("get", "/api/v1/webhooks/{webhook_id}/deliveries", str(UUID(int=1)), {}),
        ("post", "/api/v1/webhooks/{webhook_id}/replay", "x", {"json": {"from": "y"}}),
        ("get", "/health", "", {}),
        ("get", "/api/v1/health", "", {}),
        ("get", "/health/live", "", {}),
        ("get", "/health/ready", "", {}),
        ("get", "/health/detailed", "", {}),
        ("post", "/test/accounts", "", {"json": {"accounts": [{"account_id": "T"}]}}),
        ("post", "/test/accounts", "", {"json": {}}),
        ("delete", "/test/cleanup", "", {}),
    ]
    for method, path, value, arguments in asked:
        answer = await api.request(method.upper(), re.sub(r"{\w+}", value, path), **arguments)
        response = documented(document, path, method, answer.status_code)
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in response["content"], (method, path, answer.status_code)
        schema = resolved(document, response["content"][media_type]["schema"])
        if media_type.startswith("text/"):
            assert schema["type"] == "string"
            continue
        choices = [resolved(document, each) for each in schema.get("oneOf", [schema])]
        told = answer.json().keys()
        fitting = [
            choice
            for choice in choices
            if set(choice.get("required", ())) <= told <= choice["properties"].keys()
        ]
        assert len(fitting) == 1, (method, path, answer.status_code, told, choices)


async def test_the_page_needs_nothing_from_elsewhere(api: httpx.AsyncClient) -> None:
    page = await api.get("/schema", follow_redirects=True)
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    head = page.text.partition("</head>")[0]
    assets = re.findall(r"(?:src|href)=[\"']([^\"']+)", head)
    assert len([asset for asset in assets if asset.endswith((".js", ".css"))]) >= 3
    for asset in assets:
        assert asset.startswith("/"), f"{asset} is somewhere else"
        assert (await api.get(asset)).status_code == 200, asset


async def test_the_page_can_show_this_version_of_the_document(api: httpx.AsyncClient) -> None:
    document = await read_document(api)
    head = (await api.get("/schema", follow_redirects=True)).text.partition("</head>")[0]
    (script,) = re.findall(r"src=[\"']([^\"']+swagger-ui-bundle\.js)", head)
    assert document["openapi"].startswith("3.1")
    assert "oas31" in (await api.get(script)).text


async def test_reading_history_is_described_with_its_parameters(api: httpx.AsyncClient) -> None:
    paths = (await read_document(api))["paths"]

    def names(path: str) -> set[str]:
        return {one["name"] for one in paths[path]["get"]["parameters"] if one["in"] == "query"}

    assert names("/api/v1/balance/{account_id}") == {"at", "by"}
    assert names(STATEMENT) == {"from", "to", "cursor", "limit", "format"}
    filters = {"account_id", "reference", "status", "type", "from", "to", "amount_min"}
    more = {"amount_max", "metadata.<key>", "cursor", "limit", "idempotency_key"}
    assert names("/api/v1/transactions") == filters | more
    for path in ("/api/v1/balance/{account_id}", STATEMENT, "/api/v1/transactions"):
        answers = paths[path]["get"]["responses"]
        assert "history_detached" in answers["410"]["description"]
        assert "instant_in_future" in answers["422"]["description"]
