"""What people see in a browser is what the service says."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from playwright.async_api import Browser, Page, expect

from app.bootstrap import WorkerServices
from app.main import Server, server_config
from app.settings import Settings
from tests.api.test_api_keys import bearer, guarded, make_key
from tests.browser.conftest import (
    is_live,
    nothing_to_complain_about,
    open_account,
    post,
    screenshot,
)
from tests.conftest import eventually, port_of, serving
from tests.integration.test_controls import operate

HOSTILE = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=alert(1)>\"'`&amp;",
    "\u202eRTL \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "x" * 140,
)
IN_TIME_MS = 15_000
FLOWING_PER_S, FLOWING_MS = 3_000, 60_000
FLOWS = "least => Number(document.getElementById('tps').textContent.replace(/,/g, '')) >= least"
FLOWS_ON = (
    "count => [...document.querySelectorAll('#seconds .bar')]"
    ".filter(bar => bar.height.baseVal.value > 20).length >= count"
)
PHONE = {"width": 375, "height": 812}
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


def grouped(amount: str) -> str:
    whole, _, part = amount.partition(".")
    return f"{int(whole):,}.{part}"


async def figure(page: Page, name: str) -> str:
    return (await page.locator(f"#{name}").text_content() or "").strip()


async def test_the_overview_shows_what_the_api_answers(
    api: httpx.AsyncClient, page: Page, worker: WorkerServices
) -> None:
    await open_account(api, "SHOWN", "1000000")
    await post(api, "debit", "1234.50", "SHOWN", reference="rent")
    refused = {"account_id": "SHOWN", "amount": "9000000", "type": "debit"}
    assert (await api.post("/api/v1/transaction", json=refused)).status_code == 422
    with nothing_to_complain_about(page):
        await page.goto(f"{api.base_url}/")
        await is_live(page)
        health = (await api.get("/health/detailed")).json()
        await expect(page.locator("#mode")).to_have_attribute("data-mode", health["mode"])
        await expect(page.locator("#epoch")).to_have_text(str(health["epoch"]))
        first = page.locator("#recent tr").first
        await expect(first).to_contain_text("\u22121,234.50 USD")
        await expect(first).to_contain_text("rent")
        await expect(first).to_contain_text("SHOWN")
        await expect(page.locator("#refused")).to_contain_text("insufficient_available")
        await expect(page.locator("#parts tr")).to_have_count(len(health["components"]))
        await expect(page.locator("#epochs tr").first).to_contain_text(health["mode"])
        now = (await api.get("/api/v1/metrics/realtime")).json()
        await expect(page.locator("#pending")).to_have_text(str(now["pending_count"]))
        assert now["pending_count"] == 2
        assert now["success_rate"] == 0.5
        await expect(page.locator("#success")).to_have_text("50 %")
        assert await figure(page, "verified") == "\u2013"
        await worker.settler.settle()
        await worker.consistency.step()
        await expect(page.locator("#pending")).to_have_text("0")
        await expect(page.locator("#settled")).to_have_text("2")
        await expect(page.locator("#verified")).to_have_text("verified")
        await expect(page.locator("#status")).to_have_text("healthy")
        await expect(page.locator("#notice")).to_be_hidden()
        await screenshot(page, "overview-at-rest")
        await page.emulate_media(color_scheme="dark")
        await screenshot(page, "overview-at-rest-dark")


async def test_an_account_page_shows_what_the_api_answers(
    api: httpx.AsyncClient, page: Page, worker: WorkerServices
) -> None:
    await open_account(api, "SHOWN", "1000")
    await worker.settler.settle()
    await post(api, "credit", "2500.25", "SHOWN", reference="salary", metadata={"from": "work"})
    await post(api, "debit", "40", "SHOWN")
    hold = {"account_id": "SHOWN", "amount": "60", "expires_in_s": 3600}
    assert (await api.post("/api/v1/holds", json=hold)).status_code == 201
    with nothing_to_complain_about(page):
        await page.goto(f"{api.base_url}/accounts/SHOWN")
        await is_live(page)
        balance = (await api.get("/api/v1/balance/SHOWN")).json()
        for name, field in (
            ("available", "available_balance"),
            ("settled", "settled_balance"),
            ("credit", "pending_credit"),
            ("debit", "pending_debit"),
            ("held", "held"),
        ):
            await expect(page.locator(f"#{name}")).to_have_text(grouped(balance[field]))
        assert balance["available_balance"] == "3400.25"
        await expect(page.locator("#pending tr")).to_have_count(3)
        await expect(page.locator("#holds tr")).to_have_count(1)
        await expect(page.locator("#latest")).to_contain_text("salary")
        await expect(page.locator("#statement tr").last).to_contain_text("3,400.25")
        await post(api, "credit", "1", "SHOWN")
        await expect(page.locator("#available")).to_have_text("3,401.25", timeout=IN_TIME_MS)
        await screenshot(page, "account-at-rest")


async def test_an_account_that_is_not_there_is_said_not_to_be(
    api: httpx.AsyncClient, page: Page
) -> None:
    await page.goto(f"{api.base_url}/accounts/NOBODY")
    await expect(page.locator("#notice")).to_contain_text("account", ignore_case=True)
    assert await figure(page, "available") == "\u2013"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_everything_without_scrolling_sideways(
    api: httpx.AsyncClient, browser: Browser, scheme: Any
) -> None:
    await open_account(api, "A_LONG_NAME_OF_FIFTY_CHARACTERS_0123456789_ABCDEFG", "9999999999.99")
    account = "A_LONG_NAME_OF_FIFTY_CHARACTERS_0123456789_ABCDEFG"
    for text in HOSTILE:
        await post(api, "credit", "1", account, reference=text, metadata={"k" * 40: "v" * 256})
    hold = {"account_id": account, "amount": "60", "expires_in_s": 36000}
    assert (await api.post("/api/v1/holds", json=hold)).status_code == 201
    page = await browser.new_page(viewport=PHONE, color_scheme=scheme)  # type: ignore[arg-type]
    for name, path in (("overview", "/"), ("account", f"/accounts/{account}")):
        await page.goto(f"{api.base_url}{path}")
        await is_live(page)
        await expect(page.locator("#recent tr, #latest tr").first).to_be_visible()
        scrolled, seen = await page.evaluate(WIDTHS)
        assert scrolled <= seen
        await screenshot(page, f"{name}-phone-{scheme}")


async def test_what_users_wrote_is_shown_as_text(api: httpx.AsyncClient, page: Page) -> None:
    await open_account(api, "SHOWN", "1000")
    for text in HOSTILE:
        await post(api, "credit", "1", "SHOWN", reference=text, metadata={text[:40]: text})
    for path, table in (("/", "recent"), ("/accounts/SHOWN", "latest")):
        with nothing_to_complain_about(page):
            await page.goto(f"{api.base_url}{path}")
            await is_live(page)
            for text in HOSTILE:
                shown = page.locator(f"#{table}").get_by_text(text, exact=True)
                await expect(shown.first).to_be_visible()
            assert "Sub-Balance" in await page.title()
            assert await page.locator(f"#{table} :is(script, img)").count() == 0


async def test_a_page_finds_the_service_again_after_a_restart(
    settings: Settings, page: Page
) -> None:
    async with serving(settings) as api:
        await open_account(api, "SHOWN", "5")
        port = api.base_url.port
        assert port is not None
        await page.goto(f"{api.base_url}/")
        await is_live(page)
    await expect(page.locator("#link")).to_have_attribute("data-state", "lost", timeout=IN_TIME_MS)
    await expect(page.locator("#notice")).to_be_visible()
    http = msgspec.structs.replace(settings.http, port=port)
    async with serving(msgspec.structs.replace(settings, http=http)) as api:
        await is_live(page)
        await expect(page.locator("#notice")).not_to_contain_text("does not answer")
        await post(api, "credit", "77", "SHOWN")
        await expect(page.locator("#recent tr").first).to_contain_text("+77.00", timeout=IN_TIME_MS)


async def test_a_redis_failure_is_seen_within_seconds(
    api: httpx.AsyncClient, page: Page, redis_client: Any
) -> None:
    await open_account(api, "SHOWN", "1000")
    await page.goto(f"{api.base_url}/")
    await is_live(page)
    await expect(page.locator("#mode")).to_have_attribute("data-mode", "redis")
    redis_client.config_set("requirepass", "changed")
    redis_client.client_kill_filter(_type="normal", skipme=True)
    try:
        await expect(page.locator("#parts tr").first).to_contain_text("unwell", timeout=5_000)
        await post(api, "debit", "1", "SHOWN")
        mode = page.locator("#mode")
        await expect(mode).to_have_attribute("data-mode", "postgres", timeout=5_000)
        await expect(page.locator("#notice")).to_contain_text("PostgreSQL")
        await expect(page.locator("#epochs tr").first).to_contain_text("postgres")
        await expect(page.locator("#recent tr").first).to_contain_text("postgres")
        await screenshot(page, "overview-redis-failure")
        await page.emulate_media(color_scheme="dark")
        await screenshot(page, "overview-redis-failure-dark")
    finally:
        redis_client.config_set("requirepass", "")


async def test_pages_ask_for_a_key_where_one_is_needed_and_keep_it_in_their_tab(
    settings: Settings, page: Page, browser: Browser
) -> None:
    token, writer = make_key(settings, "read"), make_key(settings, "write")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    said = page.locator("#key-said")
    async with serving(guarded(settings)) as api:
        api.headers.update(bearer(writer))
        await open_account(api, "SHOWN", "12.34")
        await page.goto(f"{api.base_url}/")
        await expect(said).to_contain_text("asks for an API key")
        assert await figure(page, "tps") == "\u2013"
        for wrong, told in (("two words", "no API key"), (writer[:-1], "does not work")):
            await enter_key(page, wrong)
            await expect(said).to_contain_text(told)
            await expect(said).to_be_visible()
        await screenshot(page, "overview-asks-for-key")
        await enter_key(page, token)
        await is_live(page)
        await expect(page.locator("#recent tr").first).to_contain_text("+12.34 USD")
        await expect(said).to_be_hidden()
        await page.goto(f"{api.base_url}/accounts/SHOWN")
        await is_live(page)
        await expect(page.locator("#available")).to_have_text("12.34")
        await expect(page.locator("#statement tr")).to_have_count(1)
        async with page.expect_download() as saving:
            await page.locator("#csv").click()
        saved = await saving.value
        assert "12.34" in (await saved.path()).read_text()
        kept = "[JSON.stringify(localStorage), document.cookie, JSON.stringify(sessionStorage)]"
        shared, cookies, own = await page.evaluate(kept)
        assert (shared, cookies) == ("{}", "")
        assert token in own
        elsewhere = await browser.new_page()
        await elsewhere.goto(f"{api.base_url}/accounts/SHOWN")
        await expect(elsewhere.locator("#key-said")).to_contain_text("asks for an API key")
        await page.goto(f"{api.base_url}/")
        await is_live(page)
        revoked = await asyncio.to_thread(operate, settings, "key", "revoke", token)
        assert revoked.returncode == 0
        await expect(said).to_contain_text("was revoked", timeout=IN_TIME_MS)
        await enter_key(page, writer)
        await is_live(page)
        await page.locator("#forget").click()
        await expect(said).to_contain_text("asks for an API key")
        assert await figure(page, "tps") == "\u2013"
    assert asked
    assert not [address for address in asked if token in address or writer[:-1] in address]


async def enter_key(page: Page, key: str) -> None:
    await page.locator("#key").fill(key)
    await page.locator("#key-form button").click()


async def test_it_keeps_up_while_thousands_of_transactions_flow(
    api: httpx.AsyncClient, page: Page
) -> None:
    names = [f"BUSY{number}" for number in range(5)]
    for name in names:
        await open_account(api, name)
    ended = asyncio.Event()

    async def flow() -> int:
        """Post thousands, most of them to one account."""
        count = 0
        while not ended.is_set():
            items = [
                {
                    "account_id": names[number % 8 if number % 8 < 5 else 0],
                    "amount": "1",
                    "type": "credit",
                }
                for number in range(1_000)
            ]
            answer = await api.post("/api/v1/transactions", json={"transactions": items})
            assert answer.status_code == 201, answer.text
            count += len(items)
        return count

    flowing = asyncio.create_task(flow())
    try:
        with nothing_to_complain_about(page):
            await page.goto(f"{api.base_url}/")
            await is_live(page)
            await page.wait_for_function(FLOWS, arg=FLOWING_PER_S, timeout=FLOWING_MS)
            await page.wait_for_function(FLOWS_ON, arg=8, timeout=FLOWING_MS)
            await expect(page.locator("#hot tr").first).to_contain_text("BUSY0", timeout=IN_TIME_MS)
            await expect(page.locator("#recent tr").first).to_contain_text("BUSY")
            await screenshot(page, "overview-under-load")
    finally:
        ended.set()
        assert await flowing >= 1_000


async def test_a_service_that_stops_does_not_wait_for_those_who_listen(
    settings: Settings, page: Page
) -> None:
    server = Server(server_config(settings))
    running = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    await page.goto(f"http://127.0.0.1:{port_of(server)}/")
    await is_live(page)
    server.should_exit = True
    await asyncio.wait_for(running, timeout=6)
