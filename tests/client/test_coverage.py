"""The client has an operation for whatever the service offers."""

import re
from typing import Any

import httpx
import pytest

from subbalance import (
    account_calls,
    event_calls,
    history_calls,
    hold_calls,
    money_calls,
    service_calls,
)
from subbalance.call import Call, Listing
from subbalance.client import AsyncClient, Client, Operations
from subbalance.operation import ListOperation, Operation

CALLS: dict[str, Call[Any] | Listing[Any]] = {
    "open_account": account_calls.open_account("NAME"),
    "get_account": account_calls.get_account("NAME"),
    "change_account": account_calls.change_account("NAME", credit_limit=1),
    "freeze_account": account_calls.freeze_account("NAME"),
    "close_account": account_calls.close_account("NAME"),
    "foresee_open_account": account_calls.foresee_open_account("NAME"),
    "foresee_change_account": account_calls.foresee_change_account("NAME", credit_limit=1),
    "list_accounts": account_calls.list_accounts(),
    "get_balance": account_calls.get_balance("NAME"),
    "get_pending": account_calls.get_pending("NAME"),
    "list_pending": account_calls.list_pending("NAME"),
    "get_balance_at": history_calls.get_balance_at("NAME", "2026-11-21T07:29:45Z"),
    "get_statement": history_calls.get_statement("NAME"),
    "list_statement": history_calls.list_statement("NAME"),
    "search_transactions": history_calls.search_transactions(account_id="NAME"),
    "post": money_calls.post("NAME", "debit", 1),
    "debit": money_calls.debit("NAME", 1),
    "credit": money_calls.credit("NAME", 1),
    "post_bulk": money_calls.post_bulk([money_calls.NewTransaction("NAME", "debit", 1)]),
    "reverse_transaction": money_calls.reverse_transaction("NAME"),
    "foresee_post": money_calls.foresee_post("NAME", "debit", 1),
    "foresee_bulk": money_calls.foresee_bulk([money_calls.NewTransaction("NAME", "debit", 1)]),
    "foresee_transfer": money_calls.foresee_transfer("NAME", "other", 1),
    "foresee_group": money_calls.foresee_group([money_calls.NewTransfer("NAME", "other", 1)]),
    "foresee_reversal": money_calls.foresee_reversal("NAME"),
    "get_transaction": money_calls.get_transaction("NAME"),
    "find_transaction": money_calls.find_transaction("key"),
    "transfer": money_calls.transfer("NAME", "other", 1),
    "get_transfer": money_calls.get_transfer("NAME"),
    "post_group": money_calls.post_group([money_calls.NewTransfer("NAME", "other", 1)]),
    "get_group": money_calls.get_group("NAME"),
    "find_group": money_calls.find_group("key"),
    "place_hold": hold_calls.place_hold("NAME", 1),
    "capture_hold": hold_calls.capture_hold("NAME"),
    "release_hold": hold_calls.release_hold("NAME"),
    "foresee_place_hold": hold_calls.foresee_place_hold("NAME", 1),
    "foresee_capture_hold": hold_calls.foresee_capture_hold("NAME"),
    "foresee_release_hold": hold_calls.foresee_release_hold("NAME"),
    "get_hold": hold_calls.get_hold("NAME"),
    "list_holds": hold_calls.list_holds("NAME"),
    "get_events": event_calls.get_events(),
    "list_events": event_calls.list_events(),
    "create_webhook": event_calls.create_webhook("https://example.com/"),
    "list_webhooks": event_calls.list_webhooks(),
    "get_webhook": event_calls.get_webhook("NAME"),
    "change_webhook": event_calls.change_webhook("NAME", enabled=True),
    "delete_webhook": event_calls.delete_webhook("NAME"),
    "replay_webhook": event_calls.replay_webhook("NAME", "2026-11-21T07:29:45Z"),
    "list_deliveries": event_calls.list_deliveries("NAME"),
    "list_dead_letters": event_calls.list_dead_letters("NAME"),
    "health": service_calls.health(),
    "health_details": service_calls.health_details(),
    "verify": service_calls.verify(),
}
# For tests, orchestrators, scrapers and pages; and the second name of what is offered by its first.
_NOT_OFFERED = re.compile(r"/test/|/metrics|/health/(live|ready)|/api/v1/(health|live|metrics)")
_WITHOUT_KEY = ("/api/v1/accounts", "/api/v1/webhooks")


def test_every_operation_is_in_the_table() -> None:
    names = {
        name
        for name, value in vars(Operations).items()
        if isinstance(value, Operation | ListOperation)
    }
    assert names == CALLS.keys()


def test_whatever_the_service_offers_can_be_called(url: str) -> None:
    paths = httpx.get(f"{url}/schema/openapi.json").json()["paths"]
    offered = {
        (method.upper(), re.sub(r"\{\w+\}", "NAME", path))
        for path, methods in paths.items()
        for method in methods
        if not _NOT_OFFERED.match(path)
    }
    called = set()
    for call in CALLS.values():
        sent = call.page(None) if isinstance(call, Listing) else call
        called.add((sent.method, sent.path))
    assert offered - called == set()
    assert ("PATCH", "/api/v1/accounts/NAME") in offered


def test_every_write_of_money_has_a_key_of_its_own() -> None:
    keys = [
        call.key
        for call in CALLS.values()
        if isinstance(call, Call) and call.is_write and not call.path.startswith(_WITHOUT_KEY)
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys) == 10


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["", "ledger:8082", "ftp://ledger"])
def test_a_url_that_is_none_is_refused_at_once(
    kind: type[Client] | type[AsyncClient], url: str
) -> None:
    with pytest.raises(ValueError, match="begins with http"):
        kind(url)
