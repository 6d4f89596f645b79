"""Schemathesis asks the real service what its API document allows and forbids: no 500, and no
answer that the document does not describe. What it asks is the same each time, and bounded.

Left out: bulk requests in formats that it cannot write, and the methods that OPTIONS lists, where
the framework knows of one handler of a path only.
"""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from app.main import server_config
from app.settings import Settings
from tests.api.test_api_keys import guarded, make_key
from tests.conftest import listening, port_of

EXAMPLES = "10"
TIMEOUT_S = 100
CHECKS = ",".join(
    (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "missing_required_header",
        "ignored_auth",
    )
)


async def schemathesis(port: int, *more: str, folder: Path) -> tuple[int, str]:
    """Run it against a service; returns its exit code and what it says."""
    program = Path(sys.executable).with_name("schemathesis")
    url = f"http://127.0.0.1:{port}/schema/openapi.json"
    process = await asyncio.create_subprocess_exec(
        str(program),
        "run",
        url,
        "--phases=fuzzing",
        f"--checks={CHECKS}",
        f"--max-examples={EXAMPLES}",
        "--generation-deterministic",
        "--continue-on-failure",
        "--no-shrink",
        "--suppress-health-check=all",
        "--warnings=off",
        "--request-timeout=30",
        *more,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, said.decode()


async def test_the_document_and_the_service_agree(settings: Settings, tmp_path: Path) -> None:
    async with listening(server_config(settings)) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as api:
            for name in ("A", "B"):
                account = {"account_id": name, "opening_balance": "1000.00"}
                assert (await api.post("/api/v1/accounts", json=account)).status_code == 201
            left_out = ("--exclude-path=/api/v1/transactions", "--exclude-path=/schema")
            code, said = await schemathesis(port_of(server), *left_out, folder=tmp_path)
            assert code == 0, said[-20_000:]
            verified = (await api.get("/api/v1/verify")).json()
            assert verified["status"] == "verified", verified


@pytest.mark.parametrize("scope", ["admin"])
async def test_they_agree_where_keys_are_required(
    settings: Settings, tmp_path: Path, scope: str
) -> None:
    token = make_key(settings, scope)
    async with listening(server_config(guarded(settings))) as server:
        code, said = await schemathesis(
            port_of(server),
            "--header",
            f"Authorization: Bearer {token}",
            "--include-path=/api/v1/transaction",
            "--include-path=/api/v1/accounts",
            "--include-path=/health/live",
            folder=tmp_path,
        )
        assert code == 0, said[-20_000:]
