"""Sends events to one webhook: signed, bounded, tried again, and given up after the last try."""

import asyncio
import time
from concurrent.futures import Executor
from http import HTTPStatus
from typing import NamedTuple

import httpx
import tenacity

from app import limits
from app.events.errors import WebhookUrlRefused
from app.events.model import Delivery, DeliveryStatus, TellableEvent, Webhook
from app.events.signing import read_secret, signed_headers
from app.events.targets import Target, check_url, find_target
from app.settings import Events

_AGENT = "sub-balance-webhooks"


class WebhookGone(Exception):
    """The receiver says that it wants nothing any more."""


class _NotTaken(Exception):
    """One try failed; `http_status` is what was answered, if anything was."""

    def __init__(self, detail: str, http_status: int | None = None) -> None:
        super().__init__(detail)
        self.http_status = http_status


class _Rules(NamedTuple):
    tries: int
    wait_s: float
    timeout_s: float
    may_be_private: bool


class Sender:
    """One webhook's way out, with connections of its own."""

    def __init__(
        self,
        webhook: Webhook,
        settings: Events,
        threads: Executor | None = None,
    ) -> None:
        """Connects on first use; hosts are looked up in `threads`."""
        self._url = check_url(webhook.url)
        self._secret = read_secret(webhook.secret)
        self._rules = _Rules(
            settings.webhook_tries,
            settings.webhook_wait_ms / 1_000,
            settings.webhook_timeout_ms / 1_000,
            settings.webhooks_private,
        )
        self._threads = threads
        self._looking = asyncio.Lock()
        self._target: Target | None = None
        self._found_at = 0.0
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(self._rules.timeout_s),
            follow_redirects=False,
            # No proxy of the environment: what is behind one cannot be looked at.
            trust_env=False,
            limits=httpx.Limits(max_connections=limits.WEBHOOK_LANES),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def deliver(self, event: TellableEvent) -> Delivery:
        """Send an event until it is taken or given up; raises `WebhookGone`."""
        tries, status, detail, last = 0, DeliveryStatus.DEAD, None, None
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(_NotTaken),
                wait=tenacity.wait_exponential(
                    multiplier=self._rules.wait_s, max=limits.WEBHOOK_WAIT_MAX_S
                )
                + tenacity.wait_random(0, self._rules.wait_s),
                stop=tenacity.stop_after_attempt(self._rules.tries),
                reraise=True,
            ):
                with attempt:
                    tries += 1
                    last = await self._send(event)
            status = DeliveryStatus.DELIVERED
        except _NotTaken as exc:
            detail, last = str(exc)[: limits.WEBHOOK_DETAIL_LENGTH_MAX], exc.http_status
        return Delivery(
            status=status,
            event_id=event.event_id,
            event_type=event.type.value,
            account_id=event.account_id,
            sequence=event.sequence,
            tries=tries,
            http_status=last,
            detail=detail,
        )

    async def _send(self, event: TellableEvent) -> int:
        """Send once; returns the status of a receiver who took it."""
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                status = await self._post(event)
        except WebhookUrlRefused as exc:
            raise _NotTaken(exc.detail) from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as exc:
            raise _NotTaken(f"{type(exc).__name__} {exc}".strip()) from exc
        if status == HTTPStatus.GONE:
            raise WebhookGone("it answered 410 Gone")
        if not HTTPStatus(HTTPStatus.OK) <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise _NotTaken(f"it answered {status}", status)
        return status

    async def _post(self, event: TellableEvent) -> int:
        target = await self._find()
        headers = {
            "host": target.host_header,
            "content-type": "application/json",
            "user-agent": _AGENT,
            **signed_headers(self._secret, event.event_id, int(time.time()), event.body),
        }
        request = self._client.build_request(
            "POST",
            target.url,
            content=event.body,
            headers=headers,
            extensions={"sni_hostname": target.server_name},
        )
        response = await self._client.send(request, stream=True)
        try:
            # Nobody wants to know what it says; it is read so that the connection lives.
            size = 0
            async for part in response.aiter_raw():
                size += len(part)
                if size > limits.WEBHOOK_ANSWER_BYTES_MAX:
                    break
            return response.status_code
        finally:
            await response.aclose()
            self._client.cookies.clear()

    async def _find(self) -> Target:
        """Look the host up, unless that was done a moment ago."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._target is None or now - self._found_at > limits.WEBHOOK_ADDRESS_S:
                self._target = None
                self._target = await find_target(
                    self._url, may_be_private=self._rules.may_be_private, threads=self._threads
                )
                self._found_at = now
            return self._target
