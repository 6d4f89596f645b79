"""Puts one snapshot together out of what the service says of itself; what is not known is None."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from app import limits
from app.errors import LedgerError
from app.ledger.model import Consistency, LedgerHealth
from app.ledger.schemas import instant, transaction_view
from app.web.counts import Counts, ProcessFigures, percentile_ms
from app.web.schemas import (
    EpochView,
    HotView,
    InstanceView,
    LedgerView,
    PartView,
    PercentilesView,
    ProcessView,
    RealtimeAnswer,
    SecondView,
    Snapshot,
    VerifiedView,
)
from app.web.service import LedgerFigures

_log = logging.getLogger(__name__)


class Sources(NamedTuple):
    """The ledger's service and the dashboard's, or what stands in for them until they are open."""

    ledger: Any
    dashboard: Any


class Sampler:
    """Takes snapshots."""

    def __init__(self, sources: Callable[[], Sources], counts: Counts) -> None:
        """`sources` gives the services as they are now, `counts` are the process's."""
        self._sources = sources
        self._counts = counts
        self._number = 0

    async def take(self) -> Snapshot:
        """Ask everybody at once, each for a bounded time."""
        ledger, dashboard = self._sources()
        health, figures = await asyncio.gather(ledger.health(), _figures(dashboard))
        self._number += 1
        return Snapshot(
            at=instant(datetime.now(UTC)),
            number=self._number,
            instance=_instance(health),
            process=_process(self._counts.look()),
            ledger=figures,
        )


def realtime_answer(snapshot: Snapshot) -> RealtimeAnswer:
    """Pick the figures of now out of a snapshot."""
    ledger, process, instance = snapshot.ledger, snapshot.process, snapshot.instance
    is_counted = ledger is not None and not ledger.pending_is_more
    return RealtimeAnswer(
        at=snapshot.at,
        mode=instance.mode,
        tps=None if ledger is None else ledger.tps,
        success_rate=None if process is None else process.success_rate,
        pending_count=ledger.pending_count if ledger is not None and is_counted else None,
        queue_depth=instance.queue_depth,
        failed_last_1h=None if process is None else process.refused_last_1h,
        settled_today=None if ledger is None else ledger.settled_today,
        settler_lag_ms=instance.settler_lag_ms,
        latency_ms=None if process is None else process.latency_ms,
    )


async def _figures(dashboard: Any) -> LedgerView | None:
    try:
        async with asyncio.timeout(limits.LIVE_FIGURES_S):
            return _ledger(await dashboard.ledger())
    except (LedgerError, TimeoutError) as error:
        _log.info("PostgreSQL is not known for now: %s", error)
        return None


def _instance(health: LedgerHealth) -> InstanceView:
    parts = [
        PartView(name=name, ok=part.ok, detail=part.detail, latency_ms=round(part.latency_ms, 3))
        for name, part in health.components.items()
    ]
    return InstanceView(
        status=health.status,
        ready=health.ready,
        mode=health.mode,
        epoch=health.epoch,
        settler_lag_ms=None if health.settler_lag_ms < 0 else health.settler_lag_ms,
        queue_depth=health.queue_items,
        parts=parts,
        verified=_verified(health.consistency),
    )


def _verified(check: Consistency | None) -> VerifiedView | None:
    if check is None:
        return None
    return VerifiedView(
        ok=check.ok,
        complete=check.complete,
        mismatch_count=check.mismatch_count,
        verified_at=instant(check.verified_at),
        duration_ms=round(check.duration_ms, 3),
    )


def _process(figures: ProcessFigures | None) -> ProcessView | None:
    if figures is None:
        return None
    now, before, took = figures.now, figures.before, figures.took
    accepted, replayed = now.accepted - before.accepted, now.replayed - before.replayed
    refused = sum(now.refused.values()) - sum(before.refused.values())
    decided = accepted + replayed + refused
    p50, p95, p99 = (percentile_ms(took, share) for share in (0.5, 0.95, 0.99))
    return ProcessView(
        window_s=round(figures.window_s, 3),
        accepted_per_s=_rate(accepted, figures.window_s),
        replayed_per_s=_rate(replayed, figures.window_s),
        refused_per_s=_rate(refused, figures.window_s),
        success_rate=round((accepted + replayed) / decided, 6) if decided else None,
        latency_ms=PercentilesView(p50=p50, p95=p95, p99=p99, count=sum(took)),
        accepted=now.accepted,
        replayed=now.replayed,
        refused=_most_first(now.refused),
        problems=_most_first(now.problems),
        refused_last_1h=figures.refused_last_hour,
        started_at=instant(figures.started_at),
    )


def _most_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds >= limits.LIVE_SAMPLE_S / 2 else None


def _ledger(figures: LedgerFigures) -> LedgerView:
    seconds = [SecondView(at=instant(each.at), entries=each.entries) for each in figures.seconds]
    sampled = figures.hot[0].sampled if figures.hot else 0
    return LedgerView(
        tps=seconds[-1].entries if seconds else None,
        seconds=seconds,
        pending_count=figures.pending_count,
        pending_is_more=figures.pending_is_more,
        settled_today=figures.settled_today,
        hot_accounts=[
            HotView(
                account_id=each.account_id,
                currency=each.currency,
                entries=each.entries,
                share=round(each.entries / each.sampled, 4),
            )
            for each in figures.hot
        ],
        sampled_entries=sampled,
        recent=[transaction_view(each) for each in figures.recent],
        epochs=[
            EpochView(
                epoch=each.epoch,
                mode=each.mode,
                reason=each.reason,
                opened_at=instant(each.opened_at),
            )
            for each in figures.epochs
        ],
    )
