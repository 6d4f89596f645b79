"""Which URLs events are sent to: none that would let an outsider reach what only we can reach.

A host is looked up when its webhook is made and again before messages go out, and they go to the
very address that was looked at.
"""

import asyncio
import ipaddress
import socket
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import httpx

from app import limits
from app.events.errors import WebhookUrlRefused

_PORTS = {"http": 80, "https": 443}
_PORT_MAX = 65_535
# Addresses in which another one is written that a gateway may forward to.
_TRANSLATED = tuple(
    ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")
)


class Target(NamedTuple):
    """Where a message goes: the URL with the address in it, and who is meant."""

    url: httpx.URL
    host_header: str
    server_name: str


def check_url(text: str) -> httpx.URL:
    """Read a URL; raises `WebhookUrlRefused` for one nothing is ever sent to."""
    pointer = "/url"
    if len(text) > limits.WEBHOOK_URL_LENGTH_MAX:
        sentence = f"A URL has at most {limits.WEBHOOK_URL_LENGTH_MAX} characters."
        raise WebhookUrlRefused(sentence, pointer=pointer)
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise WebhookUrlRefused("A URL is visible ASCII characters.", pointer=pointer)
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as exc:
        raise WebhookUrlRefused(f"This is no URL: {exc}", pointer=pointer) from exc
    if url.scheme not in _PORTS or not url.host:
        raise WebhookUrlRefused("It must be an http or https URL.", pointer=pointer)
    if url.userinfo or url.fragment:
        sentence = "A URL may have neither credentials nor a fragment."
        raise WebhookUrlRefused(sentence, pointer=pointer)
    if url.port is not None and not 0 < url.port <= _PORT_MAX:
        raise WebhookUrlRefused(f"A port is from 1 to {_PORT_MAX}.", pointer=pointer)
    return url


async def find_target(
    url: httpx.URL, *, may_be_private: bool, threads: Executor | None = None
) -> Target:
    """Look a URL's host up; raises `WebhookUrlRefused` when it is unknown or not for outsiders.

    One address that is not for everybody is enough to refuse all.
    """
    port = url.port or _PORTS[url.scheme]
    try:
        async with asyncio.timeout(limits.WEBHOOK_RESOLVE_S):
            found = await asyncio.get_running_loop().run_in_executor(
                threads, partial(socket.getaddrinfo, url.host, port, type=socket.SOCK_STREAM)
            )
    except (OSError, UnicodeError) as exc:
        sentence = f"The host {url.host} cannot be found."
        raise WebhookUrlRefused(sentence, pointer="/url") from exc
    addresses = [str(address[4][0]).partition("%")[0] for address in found]
    if not may_be_private and not all(is_for_everybody(address) for address in addresses):
        sentence = f"The host {url.host} is not on the public internet."
        raise WebhookUrlRefused(sentence, pointer="/url")
    return Target(url.copy_with(host=addresses[0]), url.netloc.decode("ascii"), url.host)


def is_for_everybody(address: str) -> bool:
    """Tell whether an address belongs to the public internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_for_everybody(str(ip.ipv4_mapped))
        is_other = ip.sixtofour is not None or ip.teredo is not None
        if is_other or any(ip in network for network in _TRANSLATED):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
