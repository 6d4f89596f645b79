"""No secret is in what the processes log or print, however badly their day goes."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import httpx

from app.settings import Settings
from tests.api.test_api_keys import DEBIT, PATH, bearer, make_key
from tests.conftest import eventually

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "hush-4711-hush"


def with_password(url: str) -> str:
    """The same URL with a password in it, which these servers do not look at."""
    parts = urlsplit(url)
    user = parts.username or "postgres"
    address = f"{user}:{quote(PASSWORD)}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=address))


async def test_no_key_and_no_password_is_logged(settings: Settings, tmp_path: Path) -> None:
    token, gone = make_key(settings, "write"), make_key(settings, "admin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "LOG_LEVEL": "debug",
        "DATABASE_URL": with_password(settings.postgres.url),
        "REDIS_URL": settings.redis.url,
        "SUBBALANCE_REQUIRE_API_KEY": "true",
        "SUBBALANCE_RATE_LIMIT": "1000",
        "SUBBALANCE_LOG_FOLDER": str(tmp_path / "logs"),
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        service = subprocess.Popen(  # noqa: ASYNC220  it is started once, nothing waits
            [sys.executable, "-m", "app.main"], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as api:
            await eventually(lambda: is_up(api), 30)
            secrets = [token, gone]
            for secret in secrets:
                for headers in (bearer(secret), {"x-api-key": secret}, bearer(secret + "0")):
                    for path in (PATH, "/nowhere", "/api/v1/accounts"):
                        await api.post(path, json=DEBIT, headers=headers)
                        await api.post(path, content=secret, headers=headers)
            connection = await asyncpg.connect(settings.postgres.url)
            await connection.execute("ALTER TABLE accounts RENAME TO hidden_accounts")
            broken = await api.get("/api/v1/balance/A", headers=bearer(token))
            assert broken.status_code == 500
            await connection.execute("ALTER TABLE hidden_accounts RENAME TO accounts")
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            await connection.close()
            await api.get("/api/v1/balance/A", headers=bearer(token))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nX-API-Key: " + token.encode() + b"\x00\r\n\r\n")
            await reader.read()
            writer.close()
    finally:
        service.terminate()
        service.wait(20)
    for text in (log.read_text(), (tmp_path / "logs/app.log").read_text()):
        assert "Traceback" in text, "nothing failed, so nothing was shown"
        for secret in (PASSWORD, token[16:], gone[16:]):
            assert secret not in text


async def is_up(api: httpx.AsyncClient) -> bool:
    try:
        return (await api.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


def test_a_database_that_is_not_there_is_told_without_its_password() -> None:
    for url in (
        f"postgresql://me:{PASSWORD}@127.0.0.1:1/none",
        f"postgresql://me:{PASSWORD}@127.0.0.1:port/none",
        f"mysql://me:{PASSWORD}@127.0.0.1:1/none",
    ):
        for module in (["app.operate", "status"], ["app.bootstrap"]):
            done = subprocess.run(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode != 0
            assert PASSWORD not in done.stdout + done.stderr


def test_settings_show_no_password() -> None:
    from app.settings import load_settings

    settings = load_settings(
        {
            "DATABASE_URL": f"postgresql://me:{PASSWORD}@h/d",
            "REDIS_URL": f"redis://:{PASSWORD}@h:1",
            "SUBBALANCE_DIRECT_DATABASE_URL": f"postgresql://me:{PASSWORD}@h/d",
        }
    )
    assert PASSWORD not in repr(settings) + str(settings)
    assert PASSWORD in settings.postgres.url
