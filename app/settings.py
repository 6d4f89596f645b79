"""The environment, read once into frozen settings; nothing else reads it.

The names the product is known by stand as they are (`PORT`, `REDIS_URL`, ...); every other name
begins with `SUBBALANCE_`, and an unknown one of those is refused.
"""

import re
from collections.abc import Mapping

import msgspec

from app import limits
from app.environment import Reader
from app.errors import InvalidSettings

_SENTINEL_URL = re.compile(
    r"redis\+sentinel://(?::[^@/]*@)?[^:/@,]+:[0-9]+(?:,[^:/@,]+:[0-9]+)*/[^/]+(?:/[0-9]+)?"
)
_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,40}(\.[A-Za-z0-9_-]{1,40}){0,3}", re.ASCII)
_PASSWORD = re.compile(r"(://[^:/@']*:)[^@']*@")


class Http(msgspec.Struct, frozen=True, kw_only=True):
    """How the API is reached."""

    host: str = "127.0.0.1"  # HOST
    port: int = 8082  # PORT
    direct_route: bool = True  # SUBBALANCE_DIRECT_ROUTE: the fast lane for hot writes
    require_idempotency_key: bool = False  # SUBBALANCE_REQUIRE_IDEMPOTENCY_KEY
    listen_fd: int = 0  # SUBBALANCE_LISTEN_FD: a listening socket that was inherited
    notify_socket: str = ""  # NOTIFY_SOCKET: who is told that requests are served, as by systemd
    enable_test_mode: bool = False  # ENABLE_TEST_MODE: offer the /test routes


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call, how often, and over what."""

    require_api_key: bool = False  # SUBBALANCE_REQUIRE_API_KEY
    rate_requests: int = 0  # SUBBALANCE_RATE_LIMIT: of one caller in `rate_window_s`, 0 is no limit
    rate_window_s: int = 1  # the unit of the same: "100" and "100/s" a second, "100/m" a minute
    connections_max: int = 10_000  # SUBBALANCE_CONNECTIONS_MAX: clients' connections at once
    cors_origins: tuple[str, ...] = ()  # SUBBALANCE_CORS_ORIGINS: "https://a.example, ..." or "*"
    tls_certificate: str = ""  # SUBBALANCE_TLS_CERTIFICATE: a PEM file, chain included
    tls_key: str = ""  # SUBBALANCE_TLS_KEY: its private key


class Redis(msgspec.Struct, frozen=True, kw_only=True):
    """The decision cache."""

    url: str = "redis://localhost:6379"  # REDIS_URL, a bare host:port is accepted
    timeout_ms: int = 1_000  # SUBBALANCE_REDIS_TIMEOUT_MS: one command, connecting included

    def __repr__(self) -> str:
        return _without_passwords(self)


class Postgres(msgspec.Struct, frozen=True, kw_only=True):
    """The system of record."""

    url: str = "postgresql://localhost:5432/subbalance"  # DATABASE_URL
    timeout_ms: int = 5_000  # SUBBALANCE_POSTGRES_TIMEOUT_MS: one statement
    read_connections: int = 6  # SUBBALANCE_READ_CONNECTIONS: for reads, beside four for each slot
    transaction_pooler: bool = False  # SUBBALANCE_TRANSACTION_POOLER: behind PgBouncer
    direct_url: str = ""  # SUBBALANCE_DIRECT_DATABASE_URL: past the pooler, for LISTEN and leaders

    def __repr__(self) -> str:
        return _without_passwords(self)


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are gathered, decided and settled."""

    slots: int = 3  # SUBBALANCE_SLOTS: batches in flight at once
    batch_items: int = limits.BATCH_ITEMS_MAX  # SUBBALANCE_BATCH_ITEMS: largest micro-batch
    queue_items: int = 32_768  # SUBBALANCE_QUEUE_ITEMS: transactions waiting, past it 503
    deadline_ms: int = 10_000  # SUBBALANCE_DEADLINE_MS: longest a request may wait for its answer
    settlement_interval_ms: int = 5_000  # SETTLEMENT_INTERVAL: "5", "5s" or "500ms"
    default_currency: str = "USD"  # DEFAULT_CURRENCY: ISO 4217


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """What happens when a part fails, and how leaks and divergence are found."""

    redis_fallback: bool = True  # ENABLE_REDIS_FALLBACK: PostgreSQL decides when Redis is gone
    circuit_breaker: bool = True  # ENABLE_CIRCUIT_BREAKER
    consistency_check: bool = True  # ENABLE_DATA_CONSISTENCY_CHECK
    auto_recovery: bool = True  # ENABLE_AUTO_RECOVERY: back to Redis, new epoch on divergence
    breaker_failures: int = 3  # SUBBALANCE_BREAKER_FAILURES: in a row
    breaker_timeout_ms: int = 30_000  # SUBBALANCE_BREAKER_TIMEOUT: open before one call is tried
    health_interval_ms: int = 5_000  # SUBBALANCE_HEALTH_INTERVAL: Redis is asked while it decides
    health_timeout_ms: int = 2_000  # SUBBALANCE_HEALTH_TIMEOUT: one such question
    probe_interval_ms: int = 500  # SUBBALANCE_PROBE_INTERVAL: Redis is asked while it is gone
    probes: int = 3  # SUBBALANCE_PROBES: good answers in a row before Redis decides again
    stable_after_ms: int = 60_000  # SUBBALANCE_STABLE_AFTER: a shorter epoch lengthens the wait
    recovery_wait_max_ms: int = 300_000  # SUBBALANCE_RECOVERY_WAIT_MAX: longest such wait
    reap_age_ms: int = 10_000  # SUBBALANCE_REAP_AGE: a reservation may be in flight this long
    consistency_interval_ms: int = 30_000  # SUBBALANCE_CONSISTENCY_INTERVAL


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of what happened, beside those who ask."""

    redis_url: str = ""  # SUBBALANCE_EVENTS_REDIS_URL: REDIS_URL unless set
    stream: str = "subbalance:events"  # SUBBALANCE_EVENTS_STREAM: its key
    stream_items: int = 100_000  # SUBBALANCE_EVENTS_STREAM_ITEMS: kept, about; 0 turns it off
    refill_ms: int = 600_000  # SUBBALANCE_EVENTS_REFILL: told again to a Redis that was emptied
    nats_url: str = ""  # NATS_URL
    nats_prefix: str = "deltran"  # NATS_TOPIC_PREFIX
    webhook_tries: int = 8  # SUBBALANCE_WEBHOOK_TRIES: of one event, then it is given up
    webhook_wait_ms: int = 1_000  # SUBBALANCE_WEBHOOK_WAIT: before the second try, then doubled
    webhook_timeout_ms: int = 10_000  # SUBBALANCE_WEBHOOK_TIMEOUT: one try
    webhook_dead_max: int = 20  # SUBBALANCE_WEBHOOK_DEAD_MAX: given up in a row, then disabled
    webhooks_private: bool = False  # SUBBALANCE_WEBHOOKS_PRIVATE: to addresses of private networks


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of the service while it runs."""

    metrics: bool = True  # SUBBALANCE_METRICS: counted and timed, for /metrics
    metrics_host: str = "127.0.0.1"  # SUBBALANCE_METRICS_HOST: where these ports listen, keyless
    metrics_port: int = 0  # SUBBALANCE_METRICS_PORT: an API process's own, 0 is none
    worker_metrics_port: int = 0  # SUBBALANCE_WORKER_METRICS_PORT: the worker's, 0 is none
    access_log: bool = False  # SUBBALANCE_ACCESS_LOG: a line for every request
    slow_request_ms: int = 500  # SUBBALANCE_SLOW_REQUEST_MS: a line for each that takes longer
    log_folder: str = "logs"  # SUBBALANCE_LOG_FOLDER: of the JSON files, "none" for none
    log_file_bytes: int = 10_000_000  # SUBBALANCE_LOG_FILE_BYTES: a larger one is put aside
    log_files: int = 5  # SUBBALANCE_LOG_FILES: so many are kept of each process
    traces_endpoint: str = ""  # OTEL_EXPORTER_OTLP_ENDPOINT: none without it


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator may choose."""

    http: Http = Http()
    security: Security = Security()
    redis: Redis = Redis()
    postgres: Postgres = Postgres()
    ledger: Ledger = Ledger()
    reliability: Reliability = Reliability()
    events: Events = Events()
    observation: Observation = Observation()
    log_level: str = "info"  # LOG_LEVEL

    @property
    def direct_postgres_url(self) -> str:
        """Where sessions that outlive a SQL transaction are opened."""
        return self.postgres.direct_url or self.postgres.url


def _without_passwords(section: msgspec.Struct) -> str:
    """Write a section as it is but for the passwords in its URLs."""
    pairs = msgspec.structs.asdict(section).items()
    told = ", ".join(f"{name}={value!r}" for name, value in pairs)
    masked = _PASSWORD.sub(r"\1***@", told)
    return f"{type(section).__name__}({masked})"


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read and check the environment; `InvalidSettings` names the variable at fault."""
    reader = Reader(environ)
    http, redis, postgres = Http(), Redis(), Postgres()
    settings = Settings(
        http=Http(
            host=reader.text("HOST", http.host),
            port=reader.integer("PORT", http.port, 0, 65_535),
            direct_route=reader.flag("SUBBALANCE_DIRECT_ROUTE", http.direct_route),
            require_idempotency_key=reader.flag("SUBBALANCE_REQUIRE_IDEMPOTENCY_KEY", False),
            listen_fd=reader.integer("SUBBALANCE_LISTEN_FD", http.listen_fd, 0, 65_535),
            notify_socket=reader.text("NOTIFY_SOCKET", http.notify_socket),
            enable_test_mode=reader.flag("ENABLE_TEST_MODE", False),
        ),
        security=_security(reader),
        redis=Redis(
            url=_redis_url(reader.text("REDIS_URL", redis.url)),
            timeout_ms=reader.integer("SUBBALANCE_REDIS_TIMEOUT_MS", redis.timeout_ms, 10, 60_000),
        ),
        postgres=Postgres(
            url=reader.text("DATABASE_URL", postgres.url),
            timeout_ms=reader.integer(
                "SUBBALANCE_POSTGRES_TIMEOUT_MS", postgres.timeout_ms, 100, 60_000
            ),
            read_connections=reader.integer("SUBBALANCE_READ_CONNECTIONS", 6, 1, 100),
            transaction_pooler=reader.flag("SUBBALANCE_TRANSACTION_POOLER", False),
            direct_url=reader.text("SUBBALANCE_DIRECT_DATABASE_URL", ""),
        ),
        ledger=_ledger(reader),
        reliability=_reliability(reader),
        events=_events(reader),
        observation=_observation(reader),
        log_level=reader.choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
    )
    reader.refuse_unknown()
    if settings.postgres.transaction_pooler and not settings.postgres.direct_url:
        raise InvalidSettings(
            "SUBBALANCE_TRANSACTION_POOLER needs SUBBALANCE_DIRECT_DATABASE_URL:"
            " leadership and LISTEN do not work through a transaction pooler"
        )
    return settings


def _security(reader: Reader) -> Security:
    default = Security()
    requests, window_s = reader.rate("SUBBALANCE_RATE_LIMIT")
    security = Security(
        require_api_key=reader.flag("SUBBALANCE_REQUIRE_API_KEY", default.require_api_key),
        rate_requests=requests,
        rate_window_s=window_s,
        connections_max=reader.integer(
            "SUBBALANCE_CONNECTIONS_MAX", default.connections_max, 1, limits.CONNECTIONS_MAX
        ),
        cors_origins=reader.origins("SUBBALANCE_CORS_ORIGINS"),
        tls_certificate=reader.text("SUBBALANCE_TLS_CERTIFICATE", ""),
        tls_key=reader.text("SUBBALANCE_TLS_KEY", ""),
    )
    if bool(security.tls_certificate) != bool(security.tls_key):
        raise InvalidSettings(
            "SUBBALANCE_TLS_CERTIFICATE and SUBBALANCE_TLS_KEY are set together or not at all"
        )
    return security


def _ledger(reader: Reader) -> Ledger:
    ledger = Ledger()
    return Ledger(
        slots=reader.integer("SUBBALANCE_SLOTS", ledger.slots, 1, limits.SLOT_COUNT_MAX),
        batch_items=reader.integer(
            "SUBBALANCE_BATCH_ITEMS", ledger.batch_items, 1, limits.BATCH_ITEMS_MAX
        ),
        queue_items=reader.integer(
            "SUBBALANCE_QUEUE_ITEMS", ledger.queue_items, 1, limits.QUEUE_ITEMS_MAX
        ),
        deadline_ms=reader.integer("SUBBALANCE_DEADLINE_MS", ledger.deadline_ms, 100, 120_000),
        settlement_interval_ms=reader.duration_ms(
            "SETTLEMENT_INTERVAL", ledger.settlement_interval_ms
        ),
        default_currency=reader.currency("DEFAULT_CURRENCY", ledger.default_currency),
    )


def _reliability(reader: Reader) -> Reliability:
    default = Reliability()
    return Reliability(
        redis_fallback=reader.flag("ENABLE_REDIS_FALLBACK", default.redis_fallback),
        circuit_breaker=reader.flag("ENABLE_CIRCUIT_BREAKER", default.circuit_breaker),
        consistency_check=reader.flag("ENABLE_DATA_CONSISTENCY_CHECK", default.consistency_check),
        auto_recovery=reader.flag("ENABLE_AUTO_RECOVERY", default.auto_recovery),
        breaker_failures=reader.integer(
            "SUBBALANCE_BREAKER_FAILURES", default.breaker_failures, 1, 1_000
        ),
        breaker_timeout_ms=reader.duration_ms(
            "SUBBALANCE_BREAKER_TIMEOUT", default.breaker_timeout_ms
        ),
        health_interval_ms=reader.duration_ms(
            "SUBBALANCE_HEALTH_INTERVAL", default.health_interval_ms
        ),
        health_timeout_ms=reader.duration_ms(
            "SUBBALANCE_HEALTH_TIMEOUT", default.health_timeout_ms
        ),
        probe_interval_ms=reader.duration_ms(
            "SUBBALANCE_PROBE_INTERVAL", default.probe_interval_ms
        ),
        probes=reader.integer("SUBBALANCE_PROBES", default.probes, 1, 1_000),
        stable_after_ms=reader.duration_ms("SUBBALANCE_STABLE_AFTER", default.stable_after_ms),
        recovery_wait_max_ms=reader.duration_ms(
            "SUBBALANCE_RECOVERY_WAIT_MAX", default.recovery_wait_max_ms
        ),
        reap_age_ms=reader.duration_ms("SUBBALANCE_REAP_AGE", default.reap_age_ms),
        consistency_interval_ms=reader.duration_ms(
            "SUBBALANCE_CONSISTENCY_INTERVAL", default.consistency_interval_ms
        ),
    )


def _events(reader: Reader) -> Events:
    default = Events()
    redis_url = reader.text("SUBBALANCE_EVENTS_REDIS_URL", default.redis_url)
    prefix = reader.text("NATS_TOPIC_PREFIX", default.nats_prefix)
    if not _SUBJECT.fullmatch(prefix):
        raise InvalidSettings("NATS_TOPIC_PREFIX: words of letters, digits, '_' and '-' with dots")
    return Events(
        redis_url=_redis_url(redis_url, "SUBBALANCE_EVENTS_REDIS_URL") if redis_url else "",
        stream=reader.text("SUBBALANCE_EVENTS_STREAM", default.stream),
        stream_items=reader.integer(
            "SUBBALANCE_EVENTS_STREAM_ITEMS", default.stream_items, 0, limits.STREAM_ITEMS_MAX
        ),
        refill_ms=reader.duration_ms("SUBBALANCE_EVENTS_REFILL", default.refill_ms),
        nats_url=reader.text("NATS_URL", default.nats_url),
        nats_prefix=prefix,
        webhook_tries=reader.integer(
            "SUBBALANCE_WEBHOOK_TRIES", default.webhook_tries, 1, limits.WEBHOOK_TRIES_MAX
        ),
        webhook_wait_ms=reader.duration_ms("SUBBALANCE_WEBHOOK_WAIT", default.webhook_wait_ms),
        webhook_timeout_ms=reader.duration_ms(
            "SUBBALANCE_WEBHOOK_TIMEOUT", default.webhook_timeout_ms
        ),
        webhook_dead_max=reader.integer(
            "SUBBALANCE_WEBHOOK_DEAD_MAX", default.webhook_dead_max, 1, 1_000
        ),
        webhooks_private=reader.flag("SUBBALANCE_WEBHOOKS_PRIVATE", default.webhooks_private),
    )


def _observation(reader: Reader) -> Observation:
    default = Observation()
    return Observation(
        metrics=reader.flag("SUBBALANCE_METRICS", default.metrics),
        metrics_host=reader.text("SUBBALANCE_METRICS_HOST", default.metrics_host),
        metrics_port=reader.integer("SUBBALANCE_METRICS_PORT", 0, 0, 65_535),
        worker_metrics_port=reader.integer("SUBBALANCE_WORKER_METRICS_PORT", 0, 0, 65_535),
        access_log=reader.flag("SUBBALANCE_ACCESS_LOG", default.access_log),
        slow_request_ms=reader.integer(
            "SUBBALANCE_SLOW_REQUEST_MS", default.slow_request_ms, 1, 120_000
        ),
        log_folder=reader.text("SUBBALANCE_LOG_FOLDER", default.log_folder),
        log_file_bytes=reader.integer(
            "SUBBALANCE_LOG_FILE_BYTES", default.log_file_bytes, 10_000, 1_000_000_000
        ),
        log_files=reader.integer("SUBBALANCE_LOG_FILES", default.log_files, 2, 100),
        traces_endpoint=reader.text("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
    )


def _redis_url(value: str, name: str = "REDIS_URL") -> str:
    if value.startswith("redis+sentinel:") and not _SENTINEL_URL.fullmatch(value):
        raise InvalidSettings(
            f"{name}: a Sentinel set is redis+sentinel://[:password@]host:port,host:port/master"
        )
    return value if "://" in value else f"redis://{value}"
