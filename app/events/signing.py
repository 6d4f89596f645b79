"""Signatures of webhooks after the Standard Webhooks specification, with a secret per webhook."""

import base64
import binascii
import hashlib
import hmac
import secrets

from app import errors, limits

_PREFIX = "whsec_"


def new_secret() -> str:
    """Make a secret."""
    made = secrets.token_bytes(limits.WEBHOOK_SECRET_BYTES_MIN + 8)
    return _PREFIX + base64.b64encode(made).decode()


def read_secret(text: str) -> bytes:
    """Read a secret as it is signed with; raises `InvalidValue`."""
    lowest, highest = limits.WEBHOOK_SECRET_BYTES_MIN, limits.WEBHOOK_SECRET_BYTES_MAX
    try:
        if not text.startswith(_PREFIX) or len(text) > 2 * highest:
            raise ValueError
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        if not lowest <= len(secret) <= highest:
            raise ValueError
    except (ValueError, binascii.Error) as exc:
        sentence = f"A secret is whsec_ and base64 of {lowest} to {highest} bytes."
        raise errors.InvalidValue(sentence, pointer="/secret") from exc
    return secret


def signed_headers(secret: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Name, time and sign a message; `timestamp` in seconds since 1970."""
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    signature = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
