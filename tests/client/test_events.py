"""Events and webhooks by both clients and by the command, against the real service."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from subbalance import NotFound, OutcomeUnknown, Rejected
from subbalance.answers import Event, Hold, Transaction
from tests.client.calling import Ledger
from tests.client.flaky import CUT, DONE_AND_CUT, PASS, flaky
from tests.client.service import Service
from tests.client.test_command import Shell
from tests.conftest import eventually

Connect = Callable[..., Ledger]
ROOT = Path(__file__).resolve().parents[2]
# Webhooks here are of accounts without events, so that nothing is sent to it.
URL = "https://8.8.8.8/"


@pytest.fixture
async def accounts(ledger: Ledger, a: str, b: str) -> None:
    await ledger.open_account(a, opening_balance="100")
    await ledger.open_account(b)


@pytest.fixture
async def quiet(ledger: Ledger, a: str) -> str:
    """An account on which nothing happens."""
    await ledger.open_account(a)
    return a


async def all_events(ledger: Ledger, account_id: str, count: int, **asked: Any) -> list[Event]:
    """What happened on an account, as soon as so many acceptances are told."""

    async def told() -> list[Event]:
        events: list[Event] = await ledger.list_events(account_id=account_id, **asked)
        accepted = [each for each in events if each.type == "transaction.accepted"]
        return events if len(accepted) >= count else []

    events: list[Event] = await eventually(told)
    return events


async def test_events_are_gone_through_from_a_cursor_on(
    ledger: Ledger, accounts: None, a: str
) -> None:
    for number in range(1, 6):
        await ledger.debit(a, number)
    wanted = ["transaction.accepted"] * 6
    events = await all_events(ledger, a, 6, page_items=2)
    accepted = [each for each in events if each.type == "transaction.accepted"]
    assert [each.type for each in accepted] == wanted
    subjects = [each.subject for each in accepted]
    assert all(isinstance(each, Transaction) for each in subjects)
    assert [each.amount for each in subjects] == [Decimal(100), 1, 2, 3, 4, 5]
    assert [each.sequence for each in events] == sorted(each.sequence for each in events)
    later = await all_events(ledger, a, 3, cursor=accepted[2].sequence)
    assert [each.id for each in later if each.type == "transaction.accepted"] == [
        each.id for each in accepted[3:]
    ]
    page = await ledger.get_events(cursor=accepted[2].sequence, account_id=a, page_items=1)
    assert len(page.events) <= 1
    assert page.next_cursor > accepted[2].sequence


async def test_a_hold_is_the_subject_of_its_events(ledger: Ledger, accounts: None, a: str) -> None:
    placed = await ledger.place_hold(a, 10)
    await ledger.release_hold(placed.hold_id)

    async def released() -> Event | None:
        events = await ledger.list_events(account_id=a)
        return next((each for each in events if each.type == "hold.released"), None)

    subject = (await eventually(released)).subject
    assert isinstance(subject, Hold)
    assert (subject.hold_id, subject.status) == (placed.hold_id, "RELEASED")


async def test_a_cursor_that_is_none_is_refused(ledger: Ledger) -> None:
    with pytest.raises(Rejected, match="invalid_cursor"):
        await ledger.list_events(cursor="nonsense")


async def test_a_webhook_is_made_read_changed_told_again_and_removed(
    ledger: Ledger, quiet: str
) -> None:
    made = await ledger.create_webhook(URL, types=["hold.placed"], account_id=quiet)
    assert made.secret.startswith("whsec_")
    try:
        assert (made.url, made.types, made.account_id, made.status) == (
            URL,
            ["hold.placed"],
            quiet,
            "enabled",
        )
        read = await ledger.get_webhook(made.webhook_id)
        listed = [each.webhook_id for each in await ledger.list_webhooks()]
        assert read.webhook_id in listed
        disabled = await ledger.change_webhook(made.webhook_id, enabled=False)
        assert disabled.status == "disabled"
        since = datetime.now(UTC) - timedelta(days=1)
        replayed = await ledger.replay_webhook(made.webhook_id, since)
        assert (replayed.status, replayed.cursor < made.cursor) == ("enabled", True)
        with pytest.raises(Rejected, match="invalid_cursor"):
            await ledger.replay_webhook(made.webhook_id, "nonsense")
    finally:
        removed = await ledger.delete_webhook(made.webhook_id)
    assert removed.webhook_id == made.webhook_id
    with pytest.raises(NotFound):
        await ledger.get_webhook(made.webhook_id)
    with pytest.raises(NotFound):
        await ledger.delete_webhook(uuid4())


async def test_deliveries_and_dead_letters_are_listed_over_all_pages(
    ledger: Ledger, quiet: str, service: Service
) -> None:
    made = await ledger.create_webhook(URL, account_id=quiet)
    try:
        connection = await asyncpg.connect(service.database_url)
        await connection.execute(
            "INSERT INTO webhook_deliveries (webhook_no, status, event_id, event_type, account_id,"
            " sequence, tries, ended_at)"
            " SELECT webhook_no, CASE WHEN n % 2 = 0 THEN 'dead' ELSE 'delivered' END, n::text,"
            " 'hold.placed', $2, '', 1, now()"
            " FROM webhooks, generate_series(1, 5) AS n WHERE webhook_id = $1",
            made.webhook_id,
            quiet,
        )
        await connection.close()
        told = await ledger.list_deliveries(made.webhook_id, page_items=2)
        assert [each.event_id for each in told] == ["5", "4", "3", "2", "1"]
        dead = await ledger.list_dead_letters(made.webhook_id, page_items=1)
        assert [(each.event_id, each.status) for each in dead] == [("4", "dead"), ("2", "dead")]
    finally:
        await ledger.delete_webhook(made.webhook_id)


async def test_a_webhook_is_not_made_twice_when_the_answer_is_lost(
    connect: Connect, ledger: Ledger, url: str, quiet: str
) -> None:
    with flaky(url, DONE_AND_CUT, PASS) as server:
        with pytest.raises(OutcomeUnknown) as unknown:
            await connect(server.url).create_webhook(URL, account_id=quiet)
        assert (unknown.value.attempts, len(server.seen)) == (1, 1)
    made = [each for each in await ledger.list_webhooks() if each.account_id == quiet]
    assert len(made) == 1
    with flaky(url, CUT, PASS) as server:
        changed = await connect(server.url).change_webhook(made[0].webhook_id, enabled=False)
        assert (changed.status, len(server.seen)) == ("disabled", 2)
    await ledger.delete_webhook(made[0].webhook_id)


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


@pytest.fixture
def moved(shell: Shell, a: str) -> str:
    """An account on which two things happened."""
    shell.run("accounts", "open", a, "--opening-balance", "100")
    shell.run("post", a, "debit", "1")
    return a


async def test_the_command_tells_events(shell: Shell, moved: str) -> None:
    words = ("--json", "events", "--account", moved)

    def told() -> list[dict[str, Any]]:
        lines = shell.run(*words).stdout.splitlines()
        found = [json.loads(line) for line in lines]
        return found if len(found) > 1 else []

    events = await eventually(told)
    after = shell.run("events", "--account", moved, "--cursor", events[0]["sequence"])
    assert after.stdout.splitlines()[1].split("\t")[0] == events[1]["sequence"]
    assert "invalid_cursor" in shell.run("events", "--cursor", "x", code=1).stderr


def test_the_command_follows_what_happens(shell: Shell, moved: str, url: str) -> None:
    words = ["--url", url, "--json", "events", "--account", moved, "--follow"]
    following = subprocess.Popen(
        [sys.executable, "-m", "subbalance", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    try:
        done = shell.read("post", moved, "debit", "2")
        for line in following.stdout:
            event = msgspec.json.decode(line, type=Event)
            subject = event.subject
            assert isinstance(subject, Transaction)
            if str(subject.transaction_id) == done["transaction_id"]:
                break
    finally:
        following.terminate()
        following.wait()
