"""Who may do what with which key, how often, and what a guard costs in memory; no server."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app import errors, limits
from app.security.guard import Guard, needed_scope
from app.security.key_ring import KeyRing
from app.security.model import ApiKey, NewKey, Scope, draw_key, read_token
from app.security.rate import RateLimit, caller_at

NOW = datetime.now(UTC)


def kept(key: NewKey, scope: Scope = Scope.ADMIN, expires_at: datetime | None = None) -> ApiKey:
    return ApiKey(
        key_id=key.key_id,
        name="test",
        scope=scope,
        secret_sha256=key.secret_sha256,
        created_at=NOW,
        expires_at=expires_at,
    )


def ring_of(*keys: ApiKey) -> KeyRing:
    ring = KeyRing()
    ring.replace(keys, time.monotonic())
    return ring


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/health/live", None),
        ("GET", "/health/ready", None),
        ("GET", "/schema", None),
        ("GET", "/schema/openapi.json", None),
        ("GET", "/schema-assets/swagger-ui.css", None),
        ("GET", "/health", Scope.READ),
        ("GET", "/health/detailed", Scope.READ),
        ("GET", "/health/live/", Scope.READ),
        ("GET", "/metrics", Scope.READ),
        ("GET", "/nowhere", Scope.READ),
        ("GET", "/", None),
        ("HEAD", "/", None),
        ("POST", "/", Scope.WRITE),
        ("GET", "/web/style.css", None),
        ("GET", "/web", Scope.READ),
        ("GET", "/web/a/b", Scope.READ),
        ("GET", "/accounts/A", None),
        ("GET", "/accounts", Scope.READ),
        ("GET", "/accounts/A/statement", Scope.READ),
        ("PATCH", "/accounts/A", Scope.WRITE),
        ("GET", "/api/v1/live", Scope.READ),
        ("GET", "/api/v1/accounts/A", Scope.READ),
        ("POST", "/api/v1/transaction", Scope.WRITE),
        ("PATCH", "/api/v1/accounts/A", Scope.WRITE),
        ("XYZ", "/api/v1/balance/A", Scope.WRITE),
        ("POST", "/test/accounts", Scope.ADMIN),
        ("DELETE", "//test///cleanup/", Scope.ADMIN),
        ("GET", "/api/v1//verify/", Scope.ADMIN),
        ("POST", "/tests", Scope.WRITE),
    ],
)
def test_a_scope_follows_from_method_and_path(method: str, path: str, needed: Scope | None) -> None:
    assert needed_scope(method, path) == needed


def test_a_scope_includes_those_below_it() -> None:
    for has, needed, may in [
        (Scope.READ, Scope.READ, True),
        (Scope.READ, Scope.WRITE, False),
        (Scope.WRITE, Scope.READ, True),
        (Scope.WRITE, Scope.ADMIN, False),
        (Scope.ADMIN, Scope.WRITE, True),
    ]:
        assert has.includes(needed) is may, (has, needed)


def test_a_key_is_read_from_either_header_and_its_own_goes_first() -> None:
    one, other = draw_key(), draw_key()
    guard = Guard(ring_of(kept(one)))
    sent, wrong = one.token.encode(), other.token.encode()
    for headers in (
        {b"authorization": b"Bearer " + sent},
        {b"authorization": b"bearer   " + sent},
        {b"x-api-key": sent},
        {b"x-api-key": sent, b"authorization": b"Basic YTpi"},
    ):
        assert guard.admit("GET", "/health", headers, None).key_id == one.key_id
    with pytest.raises(errors.ApiKeyInvalid):
        guard.admit("GET", "/health", {b"x-api-key": wrong, b"authorization": sent}, None)
    with pytest.raises(errors.ApiKeyMissing):
        guard.admit("GET", "/health", {}, None)


def test_a_key_that_worked_is_asked_about_again() -> None:
    key = draw_key()
    ring, sent = ring_of(kept(key)), {b"x-api-key": key.token.encode()}
    asked = ("GET", "/api/v1/live", sent)
    guard = Guard(ring, RateLimit(1, 60))
    assert guard.admit(*asked, None).key_id == key.key_id
    assert guard.still_admits(*asked), "asking again takes nothing from its rate"
    ring.replace([], time.monotonic())
    assert not guard.still_admits(*asked)
    ring.replace([kept(key)], time.monotonic() - limits.KEYS_STALE_S - 1)
    assert not guard.still_admits(*asked), "a ring that is too old knows of no key"


def wrong_tokens(key: NewKey) -> Iterator[bytes]:
    token = key.token.encode()
    yield from (b"", b"sb_", token[:-1], token + b"0", token.upper(), b" " + token)
    yield token[:-1] + (b"0" if token[-1:] != b"0" else b"1")
    yield token.replace(b"sb_", b"sk_")
    yield key.key_id.encode()
    yield f"sb_{key.key_id}_{key.secret_sha256.hex()}".encode()
    yield token.replace(key.key_id.encode(), b"0" * 12)


def test_nothing_but_the_whole_key_is_taken() -> None:
    key = draw_key()
    ring = ring_of(kept(key))
    assert ring.find(key.token.encode()).key_id == key.key_id
    for token in wrong_tokens(key):
        with pytest.raises(errors.ApiKeyInvalid):
            ring.find(token)


def test_an_expired_key_is_no_key_even_where_nobody_read_again() -> None:
    key = draw_key()
    past, future = NOW - timedelta(seconds=1), NOW + timedelta(hours=1)
    with pytest.raises(errors.ApiKeyInvalid):
        ring_of(kept(key, expires_at=past)).find(key.token.encode())
    assert ring_of(kept(key, expires_at=future)).find(key.token.encode())


def test_a_ring_that_is_too_old_admits_nobody_but_to_health_and_metrics() -> None:
    key, ring = draw_key(), KeyRing()
    sent = {b"x-api-key": key.token.encode()}
    guard = Guard(ring)
    with pytest.raises(errors.KeysUnavailable):
        guard.admit("GET", "/api/v1/accounts", sent, None)
    ring.replace([kept(key)], time.monotonic() - limits.KEYS_STALE_S - 1)
    with pytest.raises(errors.KeysUnavailable):
        guard.admit("POST", "/api/v1/transaction", sent, None)
    assert guard.admit("GET", "/metrics", sent, None).key_id == key.key_id
    with pytest.raises(errors.ApiKeyMissing):
        guard.admit("GET", "/metrics", {}, None)
    assert guard.admit("GET", "/health/ready", {}, None).key_id is None


def test_a_drawn_key_has_256_random_bits_and_its_form_is_read_back() -> None:
    keys = [draw_key() for _ in range(100)]
    assert len({key.token for key in keys}) == len({key.key_id for key in keys}) == 100
    key_id, secret = read_token(keys[0].token.encode()) or ("", b"")
    assert (key_id, len(bytes.fromhex(secret.decode()))) == (keys[0].key_id, 32)
    assert keys[0].token not in repr(kept(keys[0])) + str(kept(keys[0]))
    assert keys[0].secret_sha256.hex() not in repr(kept(keys[0]))


class Clock:
    """A clock that goes when it is told to."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("requests", "seconds"), [(1, 1), (3, 1), (10, 1), (100, 60), (7, 60)])
def test_a_bucket_gives_what_it_holds_and_fills_evenly(requests: int, seconds: int) -> None:
    clock = Clock()
    rate = RateLimit(requests, seconds, clock)
    left = [rate.take("a") for _ in range(requests)]
    assert [quota.remaining for quota in left] == list(range(requests))[::-1]
    assert all(quota.allowed for quota in left)
    refused = rate.take("a")
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert rate.take("b").allowed
    clock.now_s += seconds / requests * 1.001
    assert rate.take("a").allowed
    assert not rate.take("a").allowed
    clock.now_s += refused.retry_after_s
    assert rate.take("a").allowed
    clock.now_s += seconds * 10
    assert rate.take("a").remaining == requests - 1


def test_buckets_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RATE_CALLERS_MAX", 10)
    rate = RateLimit(1, 1, Clock())
    for number in range(1_000):
        rate.take(f"caller {number}")
    assert len(rate._full_at_s) == 10
    assert not rate.take("caller 999").allowed
    assert rate.take("caller 0").allowed


def test_who_has_an_address_of_ipv6_has_its_network() -> None:
    assert caller_at("2001:db8::1") == caller_at("2001:db8::ffff:1")
    assert caller_at("2001:db8::1") != caller_at("2001:db8:0:1::1")
    assert caller_at("10.0.0.1") != caller_at("10.0.0.2")
    assert caller_at("::ffff:10.0.0.1") == caller_at("10.0.0.1")


def test_guessing_keys_is_as_slow_as_asking_without_one() -> None:
    key = draw_key()
    guard = Guard(ring_of(kept(key)), RateLimit(2, 60, Clock()))
    for _ in range(2):
        with pytest.raises(errors.ApiKeyInvalid):
            guard.admit("GET", "/metrics", {b"x-api-key": b"guess"}, "10.0.0.1")
    with pytest.raises(errors.RateLimited) as refused:
        guard.admit("GET", "/metrics", {b"x-api-key": b"guess"}, "10.0.0.1")
    assert refused.value.headers["Retry-After"] == "30"
    good = guard.admit("GET", "/metrics", {b"x-api-key": key.token.encode()}, "10.0.0.1")
    assert good.headers["RateLimit"] == '"default";r=1;t=30'
    assert good.headers["RateLimit-Policy"] == '"default";q=2;w=60'
