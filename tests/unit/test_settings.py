"""The environment as rows: what is understood, and what stops the service with a sentence."""

from typing import Any

import pytest

from app import limits
from app.errors import InvalidSettings
from app.settings import Settings, load_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_blank_values_are_as_good_as_none() -> None:
    assert load_settings({"PORT": "", "REDIS_URL": "  "}) == Settings()


def test_foreign_variables_are_ignored() -> None:
    assert load_settings({"PATH": "/bin", "HOME": "/", "REDIS_HOST": "x"}) == Settings()


@pytest.mark.parametrize(
    ("name", "raw", "section", "field", "value"),
    [
        ("PORT", "8083", "http", "port", 8083),
        ("HOST", "0.0.0.0", "http", "host", "0.0.0.0"),
        ("ENABLE_TEST_MODE", "true", "http", "enable_test_mode", True),
        ("ENABLE_TEST_MODE", "0", "http", "enable_test_mode", False),
        ("SUBBALANCE_DIRECT_ROUTE", "no", "http", "direct_route", False),
        ("REDIS_URL", "localhost:6379", "redis", "url", "redis://localhost:6379"),
        ("REDIS_URL", "rediss://r:1/2", "redis", "url", "rediss://r:1/2"),
        ("DATABASE_URL", "postgresql://h/d", "postgres", "url", "postgresql://h/d"),
        ("SETTLEMENT_INTERVAL", "5", "ledger", "settlement_interval_ms", 5_000),
        ("SETTLEMENT_INTERVAL", "5s", "ledger", "settlement_interval_ms", 5_000),
        ("SETTLEMENT_INTERVAL", "500ms", "ledger", "settlement_interval_ms", 500),
        ("SETTLEMENT_INTERVAL", "0.5s", "ledger", "settlement_interval_ms", 500),
        ("SETTLEMENT_INTERVAL", "1m", "ledger", "settlement_interval_ms", 60_000),
        ("SUBBALANCE_BATCH_ITEMS", "1", "ledger", "batch_items", 1),
        ("SUBBALANCE_REQUIRE_API_KEY", "true", "security", "require_api_key", True),
        ("SUBBALANCE_RATE_LIMIT", "100/m", "security", "rate_window_s", 60),
        ("SUBBALANCE_RATE_LIMIT", "100/m", "security", "rate_requests", 100),
        ("SUBBALANCE_RATE_LIMIT", "50", "security", "rate_window_s", 1),
        ("SUBBALANCE_CORS_ORIGINS", "https://a, *", "security", "cors_origins", ("https://a", "*")),
        ("DEFAULT_CURRENCY", "IDR", "ledger", "default_currency", "IDR"),
        ("SUBBALANCE_EVENTS_REDIS_URL", "r:1", "events", "redis_url", "redis://r:1"),
        ("SUBBALANCE_EVENTS_STREAM_ITEMS", "0", "events", "stream_items", 0),
        ("NATS_URL", "nats://n:4222", "events", "nats_url", "nats://n:4222"),
        ("NATS_TOPIC_PREFIX", "a.b", "events", "nats_prefix", "a.b"),
        ("SUBBALANCE_WEBHOOK_WAIT", "2s", "events", "webhook_wait_ms", 2_000),
        ("SUBBALANCE_WEBHOOKS_PRIVATE", "true", "events", "webhooks_private", True),
    ],
)
def test_a_variable_sets_its_field(
    name: str, raw: str, section: str, field: str, value: Any
) -> None:
    assert getattr(getattr(load_settings({name: raw}), section), field) == value


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "\u0668\u0660"),
        ("ENABLE_TEST_MODE", "maybe"),
        ("SUBBALANCE_RATE_LIMIT", "100/h"),
        ("SUBBALANCE_RATE_LIMIT", "-1"),
        ("SUBBALANCE_RATE_LIMIT", "9999999"),
        ("SUBBALANCE_CONNECTIONS_MAX", "0"),
        ("SUBBALANCE_CORS_ORIGINS", "a.example"),
        ("SUBBALANCE_CORS_ORIGINS", "https://a/path"),
        ("SUBBALANCE_TLS_CERTIFICATE", "/alone.pem"),
        ("SUBBALANCE_TLS_KEY", "/alone.key"),
        ("SETTLEMENT_INTERVAL", "0"),
        ("SETTLEMENT_INTERVAL", "-5s"),
        ("SETTLEMENT_INTERVAL", "5 hours"),
        ("SETTLEMENT_INTERVAL", "2h"),
        ("SETTLEMENT_INTERVAL", "61m"),
        ("LOG_LEVEL", "loud"),
        ("DEFAULT_CURRENCY", "XAU"),
        ("SUBBALANCE_SLOTS", str(limits.SLOT_COUNT_MAX + 1)),
        ("SUBBALANCE_BATCH_ITEMS", str(limits.BATCH_ITEMS_MAX + 1)),
        ("SUBBALANCE_QUEUE_ITEMS", "0"),
        ("NATS_TOPIC_PREFIX", "a..b"),
        ("NATS_TOPIC_PREFIX", "a.>"),
        ("SUBBALANCE_WEBHOOK_TRIES", "0"),
        ("SUBBALANCE_EVENTS_STREAM_ITEMS", "-1"),
        ("SUBBALANCE_EVENTS_REDIS_URL", "redis+sentinel://nowhere"),
        ("SUBBALANCE_BATCHITEMS", "5"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, raw: str) -> None:
    with pytest.raises(InvalidSettings, match=name):
        load_settings({name: raw})
