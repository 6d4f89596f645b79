"""The two clients: the same operations, sent by one and awaited by the other."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx

from subbalance import (
    account_calls,
    event_calls,
    history_calls,
    hold_calls,
    limits,
    money_calls,
    service_calls,
)
from subbalance.attempts import Attempts, Done, Policy
from subbalance.call import Answer, Call
from subbalance.operation import AsyncSender, ListOperation, Operation, Sender

T = TypeVar("T")


class Operations:
    """Everything the service can be asked; each is documented at the function it is made of."""

    open_account = Operation(account_calls.open_account)
    get_account = Operation(account_calls.get_account)
    change_account = Operation(account_calls.change_account)
    freeze_account = Operation(account_calls.freeze_account)
    close_account = Operation(account_calls.close_account)
    foresee_open_account = Operation(account_calls.foresee_open_account)
    foresee_change_account = Operation(account_calls.foresee_change_account)
    list_accounts = ListOperation(account_calls.list_accounts)
    get_balance = Operation(account_calls.get_balance)
    get_pending = Operation(account_calls.get_pending)
    list_pending = ListOperation(account_calls.list_pending)
    get_balance_at = Operation(history_calls.get_balance_at)
    get_statement = Operation(history_calls.get_statement)
    list_statement = ListOperation(history_calls.list_statement)
    search_transactions = ListOperation(history_calls.search_transactions)
    post = Operation(money_calls.post)
    debit = Operation(money_calls.debit)
    credit = Operation(money_calls.credit)
    post_bulk = Operation(money_calls.post_bulk)
    reverse_transaction = Operation(money_calls.reverse_transaction)
    foresee_post = Operation(money_calls.foresee_post)
    foresee_bulk = Operation(money_calls.foresee_bulk)
    foresee_transfer = Operation(money_calls.foresee_transfer)
    foresee_group = Operation(money_calls.foresee_group)
    foresee_reversal = Operation(money_calls.foresee_reversal)
    get_transaction = Operation(money_calls.get_transaction)
    find_transaction = Operation(money_calls.find_transaction)
    transfer = Operation(money_calls.transfer)
    get_transfer = Operation(money_calls.get_transfer)
    post_group = Operation(money_calls.post_group)
    get_group = Operation(money_calls.get_group)
    find_group = Operation(money_calls.find_group)
    place_hold = Operation(hold_calls.place_hold)
    capture_hold = Operation(hold_calls.capture_hold)
    release_hold = Operation(hold_calls.release_hold)
    foresee_place_hold = Operation(hold_calls.foresee_place_hold)
    foresee_capture_hold = Operation(hold_calls.foresee_capture_hold)
    foresee_release_hold = Operation(hold_calls.foresee_release_hold)
    get_hold = Operation(hold_calls.get_hold)
    list_holds = ListOperation(hold_calls.list_holds)
    get_events = Operation(event_calls.get_events)
    list_events = ListOperation(event_calls.list_events)
    create_webhook = Operation(event_calls.create_webhook)
    list_webhooks = ListOperation(event_calls.list_webhooks)
    get_webhook = Operation(event_calls.get_webhook)
    change_webhook = Operation(event_calls.change_webhook)
    delete_webhook = Operation(event_calls.delete_webhook)
    replay_webhook = Operation(event_calls.replay_webhook)
    list_deliveries = ListOperation(event_calls.list_deliveries)
    list_dead_letters = ListOperation(event_calls.list_dead_letters)
    health = Operation(service_calls.health)
    health_details = Operation(service_calls.health_details)
    verify = Operation(service_calls.verify)


class Client(Operations, Sender):
    """A client for threads; it may be shared by them. Close it, or use it as a context."""

    def __init__(
        self,
        url: str,
        *,
        policy: Policy | None = None,
        headers: Mapping[str, str] | None = None,
        connections: int = limits.CONNECTIONS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect at the first call; `headers` go with every request. Raises `ValueError` for a
        URL that does not begin with http:// or https://.
        """
        self._policy = policy or Policy()
        self._http = httpx.Client(
            base_url=_checked_url(url),
            headers=dict(headers or {}),
            limits=_connection_limits(connections),
            transport=transport,
        )

    def send(self, call: Call[T]) -> T:
        """Send a call until it is decided or its bounds are reached."""
        attempts = Attempts(call, self._policy)
        while True:
            next_step = attempts.judge(self._attempt(call, attempts.begin()))
            if isinstance(next_step, Done):
                return next_step.value
            time.sleep(next_step.seconds)

    def _attempt(self, call: Call[T], timeout_s: float) -> Answer | httpx.HTTPError:
        ends_at = time.monotonic() + timeout_s
        request = _request(self._http, call, timeout_s)
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():
                    _add(body, part, time.monotonic() < ends_at)
            finally:
                response.close()
        except httpx.HTTPError as error:
            return error
        return Answer(response.status_code, response.headers, bytes(body))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(Operations, AsyncSender):
    """A client for one event loop. Close it, or use it as a context."""

    def __init__(
        self,
        url: str,
        *,
        policy: Policy | None = None,
        headers: Mapping[str, str] | None = None,
        connections: int = limits.CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connect at the first call; `headers` go with every request. Raises `ValueError` for a
        URL that does not begin with http:// or https://.
        """
        self._policy = policy or Policy()
        self._http = httpx.AsyncClient(
            base_url=_checked_url(url),
            headers=dict(headers or {}),
            limits=_connection_limits(connections),
            transport=transport,
        )

    async def send(self, call: Call[T]) -> T:
        """Send a call until it is decided or its bounds are reached."""
        attempts = Attempts(call, self._policy)
        while True:
            next_step = attempts.judge(await self._attempt(call, attempts.begin()))
            if isinstance(next_step, Done):
                return next_step.value
            await asyncio.sleep(next_step.seconds)

    async def _attempt(self, call: Call[T], timeout_s: float) -> Answer | httpx.HTTPError:
        request = _request(self._http, call, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.send(request, stream=True)
                try:
                    body = bytearray()
                    async for part in response.aiter_bytes():
                        _add(body, part, is_in_time=True)
                finally:
                    await response.aclose()
        except httpx.HTTPError as error:
            return error
        except TimeoutError:
            return httpx.ReadTimeout(f"no whole answer within {timeout_s:.3g} s")
        return Answer(response.status_code, response.headers, bytes(body))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _checked_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"a service's URL begins with http:// or https://, not {url!r}")
    return url


def _connection_limits(connections: int) -> httpx.Limits:
    return httpx.Limits(
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=limits.CONNECTION_IDLE_S,
    )


def _request(
    http: httpx.Client | httpx.AsyncClient, call: Call[T], timeout_s: float
) -> httpx.Request:
    """Build an attempt's request; no single wait in it is longer than the attempt may take."""
    return http.build_request(
        call.method,
        call.path,
        params=call.query,
        headers=call.headers,
        content=call.content,
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, limits.CONNECT_S)),
    )


def _add(body: bytearray, part: bytes, is_in_time: bool) -> None:
    """Take a part of an answer, bounded in size and time."""
    if not is_in_time:
        raise httpx.ReadTimeout("the answer came too slowly")
    if len(body) + len(part) > limits.ANSWER_BYTES_MAX:
        raise httpx.ReadError(f"the answer is larger than {limits.ANSWER_BYTES_MAX} bytes")
    body += part
