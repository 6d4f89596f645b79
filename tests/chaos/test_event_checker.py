"""The checker of events finds each error that is planted, and nothing where nothing is wrong."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.event_checker import Told, WebhookTold, wrong_events
from tests.chaos.facts import EntryRow, Facts, HoldActRow, Ruling
from tests.chaos.history import History, Operation

Plant = Callable[[Told], Told]


def event(number: int, event_id: str, kind: str, account_id: str, **data: Any) -> dict[str, Any]:
    return {
        "id": event_id,
        "type": kind,
        "account_id": account_id,
        "sequence": f"{number:04}",
        "data": data,
    }


def entry(seq: int, account_id: str, status: str, reference: str) -> EntryRow:
    return EntryRow(seq, 0, account_id, 1, f"t{seq}", reference, status, None, 1, "redis")


def clean() -> tuple[History, Facts, Told]:
    """A credit of A that is settled, one of B that is taken back, and a hold of A that ended."""
    history = History()
    history.operations = [Operation("back", "B", "", 1, is_credit=False, reverses="t2")]
    facts = Facts(
        ruling=Ruling("redis", 1, "token"),
        accounts={},
        entries=[
            entry(1, "A", "SETTLED", "in"),
            entry(2, "B", "PENDING", "in too"),
            entry(3, "B", "PENDING", "back"),
            entry(4, "external:USD", "PENDING", "in"),
        ],
        batches=[],
        keys=[],
        lines=[],
        views={},
        found=[],
        hold_acts=(HoldActRow("h", 1, "place", 0, 0), HoldActRow("h", 2, "expire", 0, 1)),
    )
    feed = [
        event(1, "1-0-accepted", "transaction.accepted", "A"),
        event(2, "2-0-accepted", "transaction.accepted", "B"),
        event(3, "3-0-accepted", "transaction.accepted", "B"),
        event(4, "3-0-reversed", "transaction.reversed", "B"),
        event(5, "5-0-placed", "hold.placed", "A", hold_id="h", version=1),
        event(6, "1-0-settled", "transaction.settled", "A"),
        event(7, "6-0-expired", "hold.expired", "A", hold_id="h", version=2),
    ]
    ids = [each["id"] for each in feed]
    told = Told(
        feed,
        [
            WebhookTold("0004", ["5-0-placed", "1-0-settled", "6-0-expired"], "A"),
            WebhookTold("", ["5-0-placed", "6-0-expired"], None),
        ],
        [*ids[:3], *ids[1:]],
    )
    return history, facts, told


def feed(*numbers: int) -> Plant:
    """Pages show these events, counted from 0, in this order."""
    return lambda told: told._replace(feed=[told.feed[number] for number in numbers])


def webhooks(first: list[str], second: list[str]) -> Plant:
    """The webhooks got something else."""

    def plant(told: Told) -> Told:
        one, other = told.webhooks
        return told._replace(webhooks=[one._replace(ids=first), other._replace(ids=second)])

    return plant


def stream(*numbers: int, more: str = "") -> Plant:
    """The stream has these events, counted from 0, in this order."""
    return lambda told: told._replace(
        stream=[told.feed[number]["id"] for number in numbers] + [more] * bool(more)
    )


OF_A = ["5-0-placed", "1-0-settled", "6-0-expired"]
OF_HOLDS = ["5-0-placed", "6-0-expired"]
PLANTED: list[tuple[Plant, str]] = [
    (feed(0, 1, 2, 3, 4, 6), "event_not_told"),
    (feed(0, 1, 2, 4, 5, 6), "event_not_told"),
    (feed(0, 1, 2, 3, 5, 6), "event_not_told"),
    (feed(0, 1, 1, 2, 3, 4, 5, 6), "event_of_nothing"),
    (feed(1, 0, 2, 3, 4, 5, 6), "events_out_of_order"),
    (webhooks(OF_A[1:], OF_HOLDS), "webhook_not_told"),
    (webhooks(OF_A, OF_HOLDS[:1]), "webhook_not_told"),
    (webhooks([*OF_A, "2-0-accepted"], OF_HOLDS), "webhook_told_of_nothing"),
    (webhooks(["1-0-settled", "5-0-placed", "6-0-expired"], OF_HOLDS), "webhook_out_of_order"),
    (stream(0, 1, 3, 4, 5, 6), "stream_has_a_gap"),
    (stream(1, 2, 3, 4, 5, 6), "stream_has_a_gap"),
    (stream(0, 1, 2, 3, 4, 5), "stream_not_told"),
    (stream(0, 1, 2, 3, 4, 5, 6, more="7-0-accepted"), "stream_told_of_nothing"),
]


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    assert not list(wrong_events(*clean()))


@pytest.mark.parametrize(("plant", "kind"), PLANTED)
def test_a_planted_error_is_found(plant: Plant, kind: str) -> None:
    history, facts, told = clean()
    assert kind in {found for found, _, _ in wrong_events(history, facts, plant(told))}
