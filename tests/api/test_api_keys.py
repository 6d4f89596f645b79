"""API keys on the real service, on both ways in: made by the operator's command, required, revoked,
written down, and never logged.
"""

import asyncio
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from app import limits
from app.api.routers import all_routers
from app.main import server_config
from app.security.guard import needed_scope
from app.security.model import Scope
from app.settings import Settings
from tests.conftest import eventually, listening, port_of, serving
from tests.integration.test_controls import operate

PATH = "/api/v1/transaction"
DEBIT = {"account_id": "A", "amount": "1.00", "type": "debit"}


def guarded(settings: Settings, *, lane: bool = True, **rules: Any) -> Settings:
    """The same service with keys required."""
    http = msgspec.structs.replace(settings.http, direct_route=lane)
    security = msgspec.structs.replace(settings.security, require_api_key=True, **rules)
    return msgspec.structs.replace(settings, http=http, security=security)


def make_key(settings: Settings, scope: str, *more: str) -> str:
    """Make a key with the operator's command; returns what it shows once."""
    made = operate(settings, "key", "create", "--name", f"a {scope}", "--scope", scope, *more)
    assert made.returncode == 0, made.stderr
    return made.stdout.splitlines()[-1]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "router"])
async def test_each_scope_may_what_it_says_on_both_ways(settings: Settings, lane: bool) -> None:
    keys = {scope: make_key(settings, scope) for scope in ("read", "write", "admin")}
    account = {"account_id": "A", "opening_balance": "10.00"}
    asked: list[tuple[str, str, dict[str, Any], dict[str, int]]] = [
        ("POST", "/api/v1/accounts", {"json": account}, {"read": 403, "write": 201, "": 401}),
        ("POST", PATH, {"json": DEBIT}, {"read": 403, "write": 201, "admin": 201, "": 401}),
        ("POST", "/api/v1/transfers", {"json": {}}, {"read": 403, "write": 400, "": 401}),
        ("POST", "/api/v1/holds", {"json": {}}, {"read": 403, "write": 400, "": 401}),
        ("GET", "/api/v1/balance/A", {}, {"read": 200, "write": 200, "admin": 200, "": 401}),
        ("GET", "/metrics", {}, {"read": 200, "": 401}),
        ("GET", "/health/detailed", {}, {"read": 200, "": 401}),
        ("GET", "/api/v1/verify", {}, {"read": 403, "write": 403, "admin": 200, "": 401}),
        ("DELETE", "/test/cleanup", {}, {"write": 403, "admin": 200, "": 401}),
        ("DELETE", "/%74est//cleanup", {}, {"write": 403, "": 401}),
        ("GET", "/nowhere", {}, {"read": 404, "": 401}),
        ("GET", "/health/live", {}, {"": 200, "read": 200}),
        ("GET", "/health/ready", {}, {"": 200}),
        ("GET", "/schema/openapi.json", {}, {"": 200}),
        ("GET", "/", {}, {"": 200}),
        ("GET", "/accounts/A", {}, {"": 200}),
        ("GET", "/web/shared.js", {}, {"": 200}),
        ("GET", "/api/v1/live", {}, {"": 401}),
        ("GET", "/api/v1/metrics/realtime", {}, {"": 401, "read": 200}),
    ]
    async with serving(guarded(settings, lane=lane)) as api:
        for method, path, arguments, wanted in asked:
            for scope, status in wanted.items():
                headers = bearer(keys[scope]) if scope else {}
                answer = await api.request(method, path, headers=headers, **arguments)
                assert answer.status_code == status, (method, path, scope, answer.text)
                if status in (401, 403):
                    told = answer.json()
                    word = "api_key_missing" if status == 401 else "scope_insufficient"
                    assert (told["code"], told["status"]) == (word, status)
                    assert told["request_id"] == answer.headers["x-request-id"]
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.headers["www-authenticate"].startswith("Bearer realm=")
        balance = await api.get("/api/v1/balance/A", headers={"x-api-key": keys["read"]})
        # Two debits, and what the cleanup took: nothing that was refused moved anything.
        assert balance.json()["available_balance"] == "8.00"


async def test_a_revoked_key_works_nowhere_any_more(settings: Settings, database: Any) -> None:
    token = make_key(settings, "write", "--by", "ada", "--reason", "for a test")
    kept = make_key(settings, "read")
    async with (
        serving(guarded(settings)) as one,
        serving(guarded(settings, lane=False)) as other,
    ):
        for api in (one, other):
            assert (await api.get("/metrics", headers=bearer(token))).status_code == 200
        revoked = operate(settings, "key", "revoke", token, "--by", "bob")
        assert (revoked.returncode, token in revoked.stdout) == (0, False)

        async def is_refused() -> bool:
            answers = [
                await api.post(PATH, json=DEBIT, headers=bearer(token)) for api in (one, other)
            ]
            return [answer.status_code for answer in answers] == [401, 401]

        await eventually(is_refused, timeout_s=limits.KEYS_STALE_S)
        assert (await one.get("/metrics", headers=bearer(kept))).status_code == 200
    key_id = token[3:15]
    again = operate(settings, "key", "revoke", key_id)
    assert (again.returncode, key_id in again.stderr) == (1, True)
    acts = await database.fetch("SELECT * FROM operator_actions ORDER BY action_no")
    told = [
        (act["action"], act["actor"], act["reason"]) for act in acts if key_id in act["subject"]
    ]
    assert told == [("create_api_key", "ada", "for a test"), ("revoke_api_key", "bob", "")]
    listed = operate(settings, "key", "list").stdout
    assert f"{key_id}  write" in listed
    assert "revoked " in listed
    assert token not in listed


async def test_without_notifications_a_revocation_is_known_within_the_bound(
    settings: Settings, database: Any
) -> None:
    token = make_key(settings, "read")
    await database.execute("DROP TRIGGER announce ON api_keys")
    async with serving(guarded(settings)) as api:
        assert (await api.get("/metrics", headers=bearer(token))).status_code == 200
        assert operate(settings, "key", "revoke", token).returncode == 0

        async def is_refused() -> bool:
            return (await api.get("/metrics", headers=bearer(token))).status_code == 401

        await eventually(is_refused, timeout_s=limits.KEYS_STALE_S)


async def test_a_live_feed_ends_when_its_key_is_revoked(settings: Settings) -> None:
    token = make_key(settings, "read")
    async with (
        serving(guarded(settings)) as api,
        api.stream("GET", "/api/v1/live", headers=bearer(token)) as feed,
    ):
        assert feed.status_code == 200
        told = feed.aiter_bytes()
        assert await anext(told)
        revoked = await asyncio.to_thread(operate, settings, "key", "revoke", token)
        assert revoked.returncode == 0
        async with asyncio.timeout(limits.KEYS_STALE_S):
            # It ends by itself: a feed that goes on would have this wait too long.
            assert [body async for body in told]
        answer = await api.get("/api/v1/live", headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (401, "api_key_invalid")


async def test_a_key_can_only_be_revoked_and_once(settings: Settings, database: Any) -> None:
    key_id = make_key(settings, "read")[3:15]
    for change in (
        "UPDATE api_keys SET scope = 'admin'",
        "UPDATE api_keys SET expires_at = now() + interval '1 day'",
        "DELETE FROM api_keys",
        "TRUNCATE api_keys",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.execute(change)
    assert operate(settings, "key", "revoke", key_id).returncode == 0
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.execute("UPDATE api_keys SET revoked_at = NULL")


async def test_only_the_hash_is_kept(settings: Settings, database: Any) -> None:
    token = make_key(settings, "read")
    rows = await database.fetch("SELECT * FROM api_keys")
    assert len(rows) == 1
    text = " ".join(str(value) for row in rows for value in row.values())
    assert token[16:] not in text
    assert bytes.fromhex(token[16:]).hex() not in rows[0]["secret_sha256"].hex()


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--name", "", "--scope", "read"),
        ("create", "--name", "a\nb", "--scope", "read"),
        ("create", "--name", "x" * 101, "--scope", "read"),
        ("create", "--name", "x", "--scope", "read", "--expires-in", "soon"),
        ("create", "--name", "x", "--scope", "read", "--expires-in", "9999d"),
        ("create", "--name", "x", "--scope", "root"),
        ("create", "--scope", "read"),
        ("revoke", "not-an-id"),
        ("forget",),
    ],
)
async def test_a_command_that_makes_no_sense_makes_no_key(
    settings: Settings, database: Any, arguments: tuple[str, ...]
) -> None:
    done = operate(settings, "key", *arguments)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert await database.fetchval("SELECT count(*) FROM api_keys") == 0
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 0


async def test_every_route_but_the_public_ones_needs_a_key(settings: Settings) -> None:
    public = set()
    for router in all_routers(settings):
        for route in router.routes:
            for method in route.methods:
                if needed_scope(method, route.path) is None:
                    public.add(route.path)
                elif route.path.startswith("/test"):
                    assert needed_scope(method, route.path) is Scope.ADMIN
    assert {path for path in public if not path.startswith("/schema-assets")} == {
        "/health/live",
        "/health/ready",
        *("/", "/accounts/{account_id:str}", "/web/{name:str}"),
    }


async def test_the_document_says_how_a_key_is_sent_where_one_is_needed(settings: Settings) -> None:
    async with serving(guarded(settings)) as api, serving(settings) as open_api:
        document = (await api.get("/schema/openapi.json")).json()
        schemes = document["components"]["securitySchemes"]
        assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
        assert document["security"]
        operations = [
            (path, operation)
            for path, methods in document["paths"].items()
            for operation in methods.values()
        ]
        for path, operation in operations:
            if path in {"/health/live", "/health/ready"}:
                assert operation["security"] == [{}], path
            else:
                assert {"401", "403", "429"} <= operation["responses"].keys(), path
        assert not (await open_api.get("/schema/openapi.json")).json().get("security")


async def test_a_key_is_not_asked_for_by_default(settings: Settings) -> None:
    async with serving(settings) as api:
        answer = await api.get("/api/v1/accounts", headers=bearer("sb_nonsense"))
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers


async def test_a_trailer_is_no_header(settings: Settings) -> None:
    """A header after the body could name a key when the guard has looked already."""
    token = make_key(settings, "write")
    async with listening(server_config(guarded(settings))) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(
            b"POST /api/v1/transaction HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-API-Key: " + token.encode()
        )
        writer.write(b"\r\n\r\n")
        assert b" 401 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_page_of_another_origin_may_call_only_where_it_is_named(
    settings: Settings,
) -> None:
    origin, foreign = "https://a.example", "https://b.example"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    async with serving(guarded(settings, cors_origins=(origin,))) as api:
        preflight = await api.options(PATH, headers={"origin": origin, **asked})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]
        refused = await api.post(PATH, json=DEBIT, headers={"origin": origin})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origin
        assert refused.headers["vary"] == "Origin"
        other = await api.options(PATH, headers={"origin": foreign, **asked})
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-methods" not in other.headers
    async with serving(settings) as api:
        answer = await api.get("/health", headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_answers_say_how_they_may_be_used(api_both: httpx.AsyncClient) -> None:
    account = {"account_id": "A", "opening_balance": "5.00"}
    answers = [
        await api_both.post("/api/v1/accounts", json=account),
        await api_both.post(PATH, json=DEBIT),
        await api_both.post(PATH, json={}),
        await api_both.get("/api/v1/balance/A"),
        await api_both.get("/nowhere"),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 400, 200, 404]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    page = await api_both.get("/schema", follow_redirects=True)
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    scripts = policy.split("script-src")[1].split(";")[0]
    assert "'sha256-" in scripts
    assert "unsafe" not in scripts
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
