"""Rates and TLS on the real service, on both ways in."""

import ssl
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trustme

from app.api.fast_lane import FastLane
from app.main import main, server_config
from app.settings import Settings
from tests.api.test_api_keys import DEBIT, PATH, bearer, guarded, make_key
from tests.conftest import listening, port_of, serving


def changed(settings: Settings, *, lane: bool, **rules: Any) -> Settings:
    http = msgspec.structs.replace(settings.http, direct_route=lane)
    security = msgspec.structs.replace(settings.security, **rules)
    return msgspec.structs.replace(settings, http=http, security=security)


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "router"])
async def test_past_the_rate_it_is_429_and_nothing_moves(settings: Settings, lane: bool) -> None:
    limited = changed(settings, lane=lane, rate_requests=5, rate_window_s=60)
    async with serving(settings) as free, serving(limited) as api:
        account = {"account_id": "A", "opening_balance": "10.00"}
        assert (await free.post("/api/v1/accounts", json=account)).status_code == 201
        answers = [await api.post(PATH, json=DEBIT) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [201] * 5 + [429] * 3
        for answer, left in zip(answers, (4, 3, 2, 1, 0, 0, 0, 0), strict=True):
            assert answer.headers["ratelimit-policy"] == '"default";q=5;w=60'
            assert answer.headers["ratelimit"].startswith(f'"default";r={left};t=')
        told = answers[-1].json()
        assert (told["code"], told["status"], told["retryable"]) == ("rate_limited", 429, True)
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 12
        assert len(answers[-1].headers.get_list("retry-after")) == 1
        assert (await api.get("/nowhere")).status_code == 429
        assert (await api.get("/health/ready")).status_code == 200
        balance = (await free.get("/api/v1/balance/A")).json()
        assert balance["available_balance"] == "5.00"
        assert "ratelimit" not in (await free.get("/api/v1/balance/A")).headers


async def test_each_key_has_a_bucket_of_its_own(settings: Settings) -> None:
    one, other = make_key(settings, "read"), make_key(settings, "read")
    async with serving(guarded(settings, rate_requests=2, rate_window_s=60)) as api:
        for token, wanted in ((one, [200, 200, 429]), (other, [200, 200, 429]), ("", [401])):
            headers = bearer(token) if token else {}
            answers = [await api.get("/metrics", headers=headers) for _ in wanted]
            assert [answer.status_code for answer in answers] == wanted


class Certified:
    """A certificate for this machine and who vouches for it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.certificate, self.key = folder / "service.pem", folder / "service.key"
        issued.private_key_pem.write_to_path(str(self.key))
        for part in issued.cert_chain_pems:
            part.write_to_path(str(self.certificate), append=True)
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "router"])
async def test_with_a_certificate_it_is_https_and_nothing_else(
    settings: Settings, tmp_path: Path, lane: bool
) -> None:
    certified = Certified(tmp_path)
    paths = {"tls_certificate": str(certified.certificate), "tls_key": str(certified.key)}
    config = server_config(changed(settings, lane=lane, **paths))
    async with listening(config) as server:
        address = f"127.0.0.1:{port_of(server)}"
        async with httpx.AsyncClient(
            base_url=f"https://{address}", verify=certified.trust
        ) as client:
            account = {"account_id": "A", "opening_balance": "10.00"}
            assert (await client.post("/api/v1/accounts", json=account)).status_code == 201
            for _ in range(3):
                assert (await client.post(PATH, json=DEBIT)).status_code == 201
            stream = (await client.get("/health")).extensions["network_stream"]
            assert stream.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
        if lane:
            shared: Any = getattr(config.http, "__self__", None)
            assert isinstance(shared, FastLane)
            assert shared.taken_count == 3
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://{address}/health/live")
            with pytest.raises(httpx.ConnectError):  # nobody vouches for it here
                await client.get(f"https://{address}/health/live")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(cadata=_pem_of(certified))
        old.set_ciphers("AES256-SHA:AES128-SHA:@SECLEVEL=0")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with httpx.AsyncClient(verify=old) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://{address}/health/live")


def _pem_of(certified: Certified) -> str:
    return certified.certificate.read_text()


def test_a_certificate_that_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.pem").write_text("not a certificate")
    for path in (tmp_path / "none.pem", tmp_path / "bad.pem"):
        monkeypatch.setenv("SUBBALANCE_TLS_CERTIFICATE", str(path))
        monkeypatch.setenv("SUBBALANCE_TLS_KEY", str(path))
        monkeypatch.setenv("SUBBALANCE_LOG_FOLDER", str(tmp_path))
        assert main() == 2
        told = capsys.readouterr().err
        assert told.startswith("error: TLS certificate or key: ")
        assert "Traceback" not in told


async def test_past_the_connections_it_may_have_it_says_so(settings: Settings) -> None:
    for lane in (True, False):
        async with listening(
            server_config(changed(settings, lane=lane, connections_max=3))
        ) as server:
            url = f"http://127.0.0.1:{port_of(server)}/health/live"
            clients = [httpx.AsyncClient() for _ in range(4)]
            answers = [await client.get(url) for client in clients]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 503]
            assert answers[-1].json()["code"] == "too_many_connections"
            assert answers[-1].headers["connection"] == "close"
            for client in clients:
                await client.aclose()
