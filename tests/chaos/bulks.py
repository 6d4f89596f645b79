"""Several transactions by one request: under keys of their own, or one that names them all."""

import asyncio
import random
from typing import Any

import msgspec

from tests.chaos.asking import Clock, judge, lost, not_sent, outcome_of
from tests.chaos.bodies import body_of
from tests.chaos.client import Answer, HttpClient, Lost, NotSent
from tests.chaos.history import Bulk, History, Operation, Outcome, Sending, fields_of

BULK_PATH = "/api/v1/transactions"
ITEMS_MAX = 6
RETRIES_MAX = 4
RETRY_PAUSE_S = (0.05, 0.4)
_DONE = (200, 201)


async def pursue(
    urls: dict[str, str],
    history: History,
    bulk: Bulk,
    rng: random.Random,
    patience_s: float,
    clock: Clock,
) -> None:
    """Send a request until what became of all its transactions is known, or patience ends; it may
    come twice at once.
    """
    history.bulks.append(bulk)
    history.operations += bulk.operations
    for number in range(RETRIES_MAX):
        times = 2 if number == 0 and bulk.is_named and rng.random() < 0.2 else 1
        apis = [rng.choice(list(urls)) for _ in range(times)]
        await asyncio.gather(*(_send(urls, history, bulk, api, patience_s, clock) for api in apis))
        known = (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.BROKEN)
        if not bulk.is_named or all(
            operation.sendings[-1].outcome in known for operation in bulk.operations
        ):
            return
        await asyncio.sleep(rng.uniform(*RETRY_PAUSE_S))


async def _send(
    urls: dict[str, str],
    history: History,
    bulk: Bulk,
    api: str,
    patience_s: float,
    clock: Clock,
) -> None:
    """Send it once; every transaction gets what it was told."""
    client, started_s = HttpClient(urls[api]), clock.now_s
    headers = {} if bulk.key is None else {"Idempotency-Key": bulk.key}
    try:
        body = {
            "atomic": bulk.is_atomic,
            "transactions": [_item(history, operation) for operation in bulk.operations],
        }
        answer = await client.request("POST", BULK_PATH, patience_s, body, headers)
        told = _told(answer, api, started_s, clock.now_s, len(bulk.operations))
    except NotSent as exc:
        told = [not_sent(exc, api, started_s, clock.now_s) for _ in bulk.operations]
    except Lost as exc:
        told = [lost(exc, api, started_s, clock.now_s) for _ in bulk.operations]
    finally:
        client.close()
    for operation, sending in zip(bulk.operations, told, strict=True):
        operation.sendings.append(sending)


def _item(history: History, operation: Operation) -> dict[str, Any]:
    body = body_of(operation, history.accounts[operation.account_id], is_other_body=False)
    return body if operation.key is None else {**body, "idempotency_key": operation.key}


def _told(answer: Answer, api: str, started_s: float, ended_s: float, count: int) -> list[Sending]:
    results = fields_of(answer.body).get("results", [])
    if answer.status not in _DONE or len(results) != count:
        return [judge(answer, api, started_s, ended_s) for _ in range(count)]
    return [_result(result, api, started_s, ended_s) for result in results]


def _result(result: dict[str, Any], api: str, started_s: float, ended_s: float) -> Sending:
    if result["success"]:
        said = msgspec.json.encode(result["transaction"])
        sending = Sending(api, started_s, ended_s, Outcome.ACCEPTED, _DONE[0], answer=said)
        sending.replayed, sending.of_bulk = result["replayed"], True
        return sending
    status, code = result["problem"]["http_status"], result["problem"]["code"]
    outcome = outcome_of(status, code)
    return Sending(api, started_s, ended_s, outcome, status, code)
