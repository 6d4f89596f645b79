"""Everything that happened was told: once by pages, at least once and in order by the others."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.chaos.facts import Facts
from tests.chaos.history import History

_INTERNAL = ("external:", "holding:")
_ACTS = {
    "place": "hold.placed",
    "capture": "hold.captured",
    "release": "hold.released",
    "expire": "hold.expired",
}
HOLD_TYPES = frozenset(_ACTS.values())


class WebhookTold(NamedTuple):
    """The ids that a webhook got, in order; it is for one account, or for all that holds do."""

    since: str
    ids: list[str]
    account_id: str | None

    def wants(self, event: dict[str, Any]) -> bool:
        """Tell whether it is to be told of an event."""
        if event["sequence"] <= self.since:
            return False
        return event["account_id"] == self.account_id or (
            self.account_id is None and event["type"] in HOLD_TYPES
        )


class Told(NamedTuple):
    """The events of the pages, and what webhooks and the stream got, in order."""

    feed: list[dict[str, Any]]
    webhooks: list[WebhookTold]
    stream: list[str]


def wrong_events(history: History, facts: Facts, told: Told) -> Iterator[tuple[str, str, Any]]:
    """Each kind of thing that must not be, its subject and the numbers."""
    yield from _wrong_feed(history, facts, told.feed)
    for webhook in told.webhooks:
        yield from _wrong_webhook(webhook, told.feed)
    yield from _wrong_stream(told)


def _wrong_feed(
    history: History, facts: Facts, feed: list[dict[str, Any]]
) -> Iterator[tuple[str, str, Any]]:
    """Pages tell of each row and each act exactly once, by their sequence."""
    rows: Counter[str] = Counter()
    for entry in facts.entries:
        if not entry.account_id.startswith(_INTERNAL):
            place = f"{entry.batch_seq}-{entry.item_no}"
            rows[f"{place}-accepted"] += 1
            rows[f"{place}-settled"] += entry.status == "SETTLED"
    taking_back = {each.reference for each in history.operations if each.reverses is not None}
    for entry in facts.entries:
        if entry.reference in taking_back:
            rows[f"{entry.batch_seq}-{entry.item_no}-reversed"] += 1
    of_rows = [each["id"] for each in feed if each["type"].startswith("transaction.")]
    yield from _differing("transaction", rows, of_rows)
    acts = Counter(f"{act.hold_id} {act.version} {_ACTS[act.kind]}" for act in facts.hold_acts)
    of_acts = [
        f"{each['data']['hold_id']} {each['data']['version']} {each['type']}"
        for each in feed
        if each["type"] in HOLD_TYPES
    ]
    yield from _differing("hold", acts, of_acts)
    sequences = [each["sequence"] for each in feed]
    if sequences != sorted(set(sequences)):
        yield "events_out_of_order", "pages", None


def _differing(
    name: str, expected: Counter[str], found: Iterable[str]
) -> Iterator[tuple[str, str, Any]]:
    told = Counter(found)
    if expected - told:
        yield "event_not_told", name, sorted(expected - told)[:10]
    if told - expected:
        yield "event_of_nothing", name, sorted(told - expected)[:10]


def _wrong_webhook(told: WebhookTold, feed: list[dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """A webhook was told of all it wants and of nothing else, each account's in order."""
    name = told.account_id or "holds"
    wanted = {event["id"]: event["account_id"] for event in feed if told.wants(event)}
    if missing := wanted.keys() - set(told.ids):
        yield "webhook_not_told", name, sorted(missing)[:10]
    if strangers := set(told.ids) - wanted.keys():
        yield "webhook_told_of_nothing", name, sorted(strangers)[:10]
    expected, found = _by_account(wanted, wanted), _by_account(told.ids, wanted)
    for account_id, ids in expected.items():
        if found[account_id] != ids:
            detail = {"expected": ids[:10], "found": found[account_id][:10]}
            yield "webhook_out_of_order", f"{name} {account_id}", detail


def _by_account(ids: Iterable[str], accounts: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for event_id in ids:
        if event_id in accounts:
            found[accounts[event_id]].append(event_id)
    return found


def _wrong_stream(told: Told) -> Iterator[tuple[str, str, Any]]:
    """The stream goes back where it was lost, never forward over anything, and to the end."""
    places = {event["id"]: place for place, event in enumerate(told.feed)}
    before = -1
    for number, event_id in enumerate(told.stream):
        place = places.get(event_id)
        if place is None:
            yield "stream_told_of_nothing", event_id, number
            return
        if place > before + 1:
            yield "stream_has_a_gap", event_id, {"entry": number, "from": before, "to": place}
        before = place
    if before != len(told.feed) - 1:
        yield "stream_not_told", f"{len(told.feed) - 1 - before} events", None
