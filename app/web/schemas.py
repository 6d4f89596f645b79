"""The wire of the dashboard: one snapshot of the service. What is not known is null."""

from typing import Annotated

import msgspec
from msgspec import Meta

from app.ledger.schemas import TransactionView


class PartView(msgspec.Struct, kw_only=True):
    """How one part of the service is."""

    name: str
    ok: bool
    detail: str
    latency_ms: float


class VerifiedView(msgspec.Struct, kw_only=True):
    """The latest check of the books that ran in the background."""

    ok: bool
    complete: bool
    mismatch_count: int
    verified_at: str
    duration_ms: float


class InstanceView(msgspec.Struct, kw_only=True):
    """How this instance sees itself and what it works with."""

    status: str
    ready: bool
    mode: str
    epoch: int
    settler_lag_ms: Annotated[int | None, Meta(description="Age of the oldest pending entry")]
    queue_depth: Annotated[int, Meta(description="This process's requests that are in no batch")]
    parts: list[PartView]
    verified: VerifiedView | None


class PercentilesView(msgspec.Struct, kw_only=True):
    """How long answers to writes (POST) took, from a request's head to its answer, estimated
    between the bounds of `subbalance_http_request_seconds`. Null where there were none, or it was
    longer than the last bound.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    count: int


class ProcessView(msgspec.Struct, kw_only=True):
    """What this process counted. Requests that were refused before a decision are in `problems`
    alone.
    """

    window_s: Annotated[float, Meta(description="The seconds that rates and times are of")]
    accepted_per_s: float | None
    replayed_per_s: float | None
    refused_per_s: float | None
    success_rate: Annotated[float | None, Meta(description="Null where nothing was decided")]
    latency_ms: PercentilesView
    accepted: Annotated[int, Meta(description="Since the process started, as all that follows")]
    replayed: int
    refused: Annotated[dict[str, int], Meta(description="Decided and refused, by code")]
    problems: Annotated[dict[str, int], Meta(description="Requests answered so, by code")]
    refused_last_1h: int
    started_at: str


class SecondView(msgspec.Struct, kw_only=True):
    """One second of the whole ledger."""

    at: str
    entries: int | None


class HotView(msgspec.Struct, kw_only=True):
    """An account and how many of the sampled entries are its."""

    account_id: str
    currency: str
    entries: int
    share: float


class EpochView(msgspec.Struct, kw_only=True):
    """Who decided from when on, and why."""

    epoch: int
    mode: str
    reason: str
    opened_at: str


class LedgerView(msgspec.Struct, kw_only=True):
    """The whole ledger, whichever process did it, as PostgreSQL has it."""

    tps: Annotated[float | None, Meta(description="Entries journaled in the last whole second")]
    seconds: Annotated[list[SecondView], Meta(description="Whole seconds, the latest last")]
    pending_count: int
    pending_is_more: bool
    settled_today: Annotated[int | None, Meta(description="Entries settled since 00:00 UTC")]
    hot_accounts: list[HotView]
    sampled_entries: int
    recent: list[TransactionView]
    epochs: list[EpochView]


class Snapshot(msgspec.Struct, kw_only=True):
    """Everything the dashboard shows. `ledger` is null while PostgreSQL does not answer, `process`
    where metrics are switched off.
    """

    at: str
    number: int
    instance: InstanceView
    process: ProcessView | None
    ledger: LedgerView | None


class RealtimeAnswer(msgspec.Struct, kw_only=True):
    """The figures of now; null where one is not known."""

    at: str
    mode: str
    tps: Annotated[
        float | None, Meta(description="The whole ledger's entries in the last whole second")
    ]
    success_rate: Annotated[
        float | None, Meta(description="Of what this process decided in the last seconds")
    ]
    pending_count: Annotated[int | None, Meta(description="Entries accepted and not settled")]
    queue_depth: Annotated[int, Meta(description="This process's requests that are in no batch")]
    failed_last_1h: Annotated[int | None, Meta(description="What this process decided to refuse")]
    settled_today: Annotated[int | None, Meta(description="Entries settled since 00:00 UTC")]
    settler_lag_ms: int | None
    latency_ms: PercentilesView | None
