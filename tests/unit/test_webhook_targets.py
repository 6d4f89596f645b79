"""Where webhooks may be: tables of URLs and addresses, and a name that changes its mind."""

import socket
from typing import Any
from uuid import uuid4

import pytest

from app import limits
from app.events.errors import WebhookUrlRefused
from app.events.model import (
    BEGINNING,
    DeliveryStatus,
    EventType,
    Position,
    TellableEvent,
    Webhook,
    WebhookStatus,
)
from app.events.sender import Sender
from app.events.signing import new_secret, read_secret, signed_headers
from app.events.targets import check_url, find_target, is_for_everybody
from app.settings import Events
from tests.receiver import is_signed, receiving


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "/path",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://example.com/#part",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:x/",
        "https://example.com/a b",
        "https://example.com\\@127.0.0.1/",
        "https://ex\u00e4mple.com/",
        "https://example.com/\r\nHost: other",
        "https://[::1/",
        "https://example.com/" + "x" * limits.WEBHOOK_URL_LENGTH_MAX,
    ],
)
def test_a_url_that_nothing_is_sent_to(url: str) -> None:
    with pytest.raises(WebhookUrlRefused):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com/hook?a=b&c=%20",
        "https://example.com:8443/",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1::1]:8443/",
    ],
)
def test_a_url_that_may_be_sent_to(url: str) -> None:
    assert str(check_url(url)) == url


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("8.8.8.8", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fd12:3456::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:8.8.8.8", True),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_an_address_is_for_everybody_or_not(address: str, expected: bool) -> None:
    assert is_for_everybody(address) is expected


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.1",
        "0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "10.1.2.3",
    ],
)
async def test_however_it_is_written_an_inner_address_is_refused(host: str) -> None:
    with pytest.raises(WebhookUrlRefused):
        await find_target(check_url(f"http://{host}/"), may_be_private=False)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let names have these addresses, one answer after the other; the last one stays."""
    left = list(answers)

    def getaddrinfo(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_the_very_address_that_was_looked_at_is_used(monkeypatch: Any) -> None:
    resolving(monkeypatch, ["93.184.216.34"])
    target = await find_target(check_url("https://example.com:8443/a?b"), may_be_private=False)
    assert str(target.url) == "https://93.184.216.34:8443/a?b"
    assert (target.host_header, target.server_name) == ("example.com:8443", "example.com")


async def test_one_inner_address_among_others_is_enough_to_refuse(monkeypatch: Any) -> None:
    resolving(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(WebhookUrlRefused, match="not on the public internet"):
        await find_target(check_url("https://example.com/"), may_be_private=False)


EVENT = TellableEvent(
    "1-0-accepted", EventType.TRANSACTION_ACCEPTED, "A", BEGINNING, BEGINNING.text, b'{"a":1}'
)


def webhook_at(url: str) -> Webhook:
    at = BEGINNING.at
    return Webhook(
        webhook_id=uuid4(),
        url=url,
        secret=new_secret(),
        types=None,
        account_id=None,
        status=WebhookStatus.ENABLED,
        reason=None,
        version=1,
        position=Position(at),
        created_at=at,
        updated_at=at,
    )


async def test_a_name_that_moves_inside_is_refused_when_it_is_sent_to(monkeypatch: Any) -> None:
    async with receiving() as receiver:
        url = receiver.url().replace("127.0.0.1", "example.com")
        resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
        await find_target(check_url(url), may_be_private=False)
        sender = Sender(webhook_at(url), Events(webhook_tries=2, webhook_wait_ms=10))
        delivery = await sender.deliver(EVENT)
        await sender.close()
    assert (delivery.status, delivery.tries) == (DeliveryStatus.DEAD, 2)
    assert delivery.detail == "The host example.com is not on the public internet."
    assert receiver.messages == []


async def test_a_name_is_kept_for_the_receiver_to_know_itself_by(monkeypatch: Any) -> None:
    async with receiving() as receiver:
        resolving(monkeypatch, ["127.0.0.1"])
        webhook = webhook_at(receiver.url().replace("127.0.0.1", "example.com"))
        sender = Sender(webhook, Events(webhooks_private=True))
        delivery = await sender.deliver(EVENT)
        await sender.close()
    (message,) = receiver.taken
    assert delivery.status is DeliveryStatus.DELIVERED
    assert message.headers["host"] == f"example.com:{receiver.port}"
    assert is_signed(message, webhook.secret)


async def test_an_answer_without_end_does_not_hold_anybody_up() -> None:
    async with receiving() as receiver:
        receiver.extra = "x: y\r\ncontent-length: 99999999\r\n"
        sender = Sender(
            webhook_at(receiver.url()),
            Events(webhooks_private=True, webhook_timeout_ms=100, webhook_tries=1),
        )
        delivery = await sender.deliver(EVENT)
        await sender.close()
    assert delivery.status is DeliveryStatus.DEAD


def test_the_signature_is_the_one_of_the_specification() -> None:
    """The example of the Standard Webhooks specification's reference libraries."""
    headers = signed_headers(
        read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
