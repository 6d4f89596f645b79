"""A real browser on the real service. Without a browser these tests are skipped, and said to be."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

SCREENSHOTS = Path(__file__).resolve().parents[2] / "reports" / "screenshots"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium: the one that is installed, or else the one that Playwright brought."""
    async with async_playwright() as playwright:
        found = next(filter(None, map(shutil.which, _NAMES)), None)
        found = found or playwright.chromium.executable_path
        if not Path(found).exists():  # noqa: ASYNC240  once, at the start
            pytest.skip("there is no Chromium here: install the system's package `chromium`")
        browser = await playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> Page:
    """An empty page, as wide as a laptop's."""
    return await browser.new_page(viewport={"width": 1280, "height": 900})


@contextmanager
def nothing_to_complain_about(page: Page) -> Iterator[None]:
    """Fail when a page writes an error or a warning to the console, as a violated policy does."""
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"{request.url} {request.failure}"))
    yield
    told = [each for each in said if "/api/v1/live" not in each]
    assert told == []


async def is_live(page: Page, timeout_s: float = 20.0) -> None:
    """Wait until a page shows figures of now."""
    await page.wait_for_selector('#link[data-state="live"]', timeout=timeout_s * 1_000)


async def screenshot(page: Page, name: str) -> None:
    """Keep how a page looks, for people."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


async def post(
    api: httpx.AsyncClient, kind: str, amount: str, account_id: str, **more: object
) -> None:
    """Have a transaction accepted."""
    body = {"account_id": account_id, "amount": amount, "type": kind, **more}
    answer = await api.post("/api/v1/transaction", json=body)
    assert answer.status_code == 201, answer.text


async def open_account(api: httpx.AsyncClient, account_id: str, opening: str = "0") -> None:
    """Open an account."""
    body = {"account_id": account_id, "opening_balance": opening}
    assert (await api.post("/api/v1/accounts", json=body)).status_code == 201
