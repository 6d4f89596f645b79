"""`python -m app.operate key ...`: makes, lists and revokes API keys."""

import argparse
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from app import errors, limits
from app.security.model import ApiKey, Scope, draw_key
from app.security.store import KeyStore

_LIFETIME = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_KEY_ID = re.compile(r"(?:sb_)?([0-9a-f]{12})(_[0-9a-f]{64})?", re.ASCII)


def add_key_acts(parser: argparse.ArgumentParser, noted: argparse.ArgumentParser) -> None:
    """Describe the acts and what each needs; `noted` has what is written down of all acts."""
    acts = parser.add_subparsers(dest="key_act", required=True)
    create = acts.add_parser("create", help="make a key and show it, once", parents=[noted])
    create.add_argument("--name", required=True, help="whose it is")
    create.add_argument("--scope", required=True, choices=[scope.value for scope in Scope])
    create.add_argument("--expires-in", default="", help="such as 12h or 90d; never if not given")
    acts.add_parser("list", help="every key, the newest first; never a secret", parents=[noted])
    revoke = acts.add_parser("revoke", help="end a key", parents=[noted])
    revoke.add_argument("key_id", help="its id, sb_ or not")


async def act_on_keys(store: KeyStore, arguments: argparse.Namespace) -> int:
    """Do one of the acts; 0 when it is done."""
    by, reason = arguments.by, arguments.reason
    if arguments.key_act == "create":
        key = draw_key()
        name, lifetime = _name(arguments.name), _lifetime(arguments.expires_in)
        scope = Scope(arguments.scope)
        await store.create(key, name, scope, lifetime, by, reason)
        print(f"key {key.key_id} for {name}, scope {scope}; this is shown once:")
        print(key.token)
    elif arguments.key_act == "revoke":
        key_id = _key_id(arguments.key_id)
        if not await store.revoke(key_id, by, reason):
            raise errors.ApiKeyInvalid(f"No key works under the id {key_id}.")
        print(f"revoked: {key_id}; every instance knows within {limits.KEYS_STALE_S:.0f} s")
    else:
        _show(await store.all_keys())
    return 0


def _show(keys: Sequence[ApiKey]) -> None:
    now = datetime.now(UTC)
    for key in keys:
        ends = "never ends"
        if key.revoked_at is not None:
            ends = f"revoked {key.revoked_at:%Y-%m-%d %H:%M:%SZ}"
        elif key.expires_at is not None:
            word = "expired" if key.expires_at <= now else "expires"
            ends = f"{word} {key.expires_at:%Y-%m-%d %H:%M:%SZ}"
        print(f"{key.key_id}  {key.scope:5}  made {key.created_at:%Y-%m-%d}  {ends}  {key.name}")
    print(f"{len(keys)} keys")


def _name(name: str) -> str:
    if not (0 < len(name) <= limits.API_KEY_NAME_LENGTH_MAX and name.isprintable()):
        raise errors.InvalidValue(
            f"A name is 1 to {limits.API_KEY_NAME_LENGTH_MAX} printable characters."
        )
    return name


def _lifetime(text: str) -> timedelta | None:
    if not text:
        return None
    match = _LIFETIME.fullmatch(text)
    lifetime = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if lifetime is None or lifetime.days > limits.API_KEY_LIFETIME_DAYS_MAX:
        raise errors.InvalidValue(
            f"--expires-in is such as 12h or 90d, at most {limits.API_KEY_LIFETIME_DAYS_MAX}d."
        )
    return lifetime


def _key_id(text: str) -> str:
    match = _KEY_ID.fullmatch(text)
    if match is None:
        raise errors.InvalidValue("The id of a key is 12 hexadecimal digits.")
    return match[1]
