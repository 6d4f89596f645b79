"""Health: alive, ready, and each component in detail."""

from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec

from app.api.connection import LEAVING
from app.infra.http import documented, json_answer
from app.ledger.model import Consistency, Controls, LedgerHealth
from app.ledger.schemas import instant


class Health(msgspec.Struct, kw_only=True):
    """Whether this instance works, in one word."""

    status: str
    mode: str
    epoch: int


class Live(msgspec.Struct):
    """This process answers."""

    status: str = "alive"


class ComponentAnswer(msgspec.Struct, kw_only=True):
    """One component's state."""

    ok: bool
    detail: str
    latency_ms: float


class ControlsAnswer(msgspec.Struct, kw_only=True):
    """What operators have set, and the last thing one did."""

    forced_mode: str | None
    closed: bool
    last_action: str | None
    last_actor: str | None
    last_action_at: str | None


class ConsistencyAnswer(msgspec.Struct, kw_only=True):
    """The latest consistency check that ran in the background."""

    ok: bool
    complete: bool
    mismatch_count: int
    duration_ms: float
    verified_at: str
    compared: dict[str, int]


class DetailedHealth(msgspec.Struct, kw_only=True):
    """Everything an operator asks first."""

    status: str
    ready: bool
    mode: str
    epoch: int
    settler_lag_ms: int
    queue_items: int
    components: dict[str, ComponentAnswer]
    features: dict[str, bool]
    controls: ControlsAnswer | None
    consistency: ConsistencyAnswer | None


def _documented(answer: type, *, is_guarded: bool = True) -> dict[int, ResponseSpec]:
    """Describe a health answer, which is the same when not all is well, but with 503."""
    unwell = ResponseSpec(answer, generate_examples=False, description="No transaction is decided")
    return documented(200, answer, (), is_guarded=is_guarded) | {503: unwell}


@get(
    ["/health", "/api/v1/health"],
    summary="Is everything well?",
    responses=_documented(Health),
)
async def get_health(state: State) -> Response[bytes]:
    """Tell whether everything works; 503 when no transaction can be decided."""
    health = await state.ledger.health()
    return json_answer(_summary(health), 200 if health.ready else 503)


@get(
    "/health/live",
    summary="Does this process answer?",
    responses=documented(200, Live, (), is_guarded=False),
    security=[{}],
)
async def get_live() -> Response[bytes]:
    """Tell that this process answers, whatever else is down."""
    return json_answer(Live())


@get(
    "/health/ready",
    summary="Can it decide?",
    responses=_documented(Health, is_guarded=False),
    security=[{}],
)
async def get_ready(state: State, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Tell whether a transaction sent now would be decided, and the next one as well: 503 when
    this process ends.
    """
    health = await state.ledger.health()
    ends = request.scope["state"].get(LEAVING, False)
    return json_answer(_summary(health), 200 if health.ready and not ends else 503)


@get("/health/detailed", summary="Every component", responses=_documented(DetailedHealth))
async def get_detailed(state: State) -> Response[bytes]:
    """Show every component, the mode and epoch, and how far behind the settler is."""
    health: LedgerHealth = await state.ledger.health()
    answer = DetailedHealth(
        status=health.status,
        ready=health.ready,
        mode=health.mode,
        epoch=health.epoch,
        settler_lag_ms=health.settler_lag_ms,
        queue_items=health.queue_items,
        components={
            name: ComponentAnswer(
                ok=part.ok, detail=part.detail, latency_ms=round(part.latency_ms, 3)
            )
            for name, part in health.components.items()
        },
        features=health.features,
        controls=_controls(health.controls),
        consistency=_consistency(health.consistency),
    )
    return json_answer(answer, 200 if health.ready else 503)


def _controls(controls: Controls | None) -> ControlsAnswer | None:
    if controls is None:
        return None
    return ControlsAnswer(
        forced_mode=controls.forced_mode,
        closed=controls.closed,
        last_action=controls.last_action,
        last_actor=controls.last_actor,
        last_action_at=None
        if controls.last_action_at is None
        else instant(controls.last_action_at),
    )


def _consistency(check: Consistency | None) -> ConsistencyAnswer | None:
    if check is None:
        return None
    return ConsistencyAnswer(
        ok=check.ok,
        complete=check.complete,
        mismatch_count=check.mismatch_count,
        duration_ms=round(check.duration_ms, 3),
        verified_at=instant(check.verified_at),
        compared=check.compared,
    )


def _summary(health: LedgerHealth) -> Health:
    return Health(status=health.status, mode=health.mode, epoch=health.epoch)


health_router = Router(
    path="/",
    route_handlers=[get_health, get_live, get_ready, get_detailed],
    tags=["health"],
)
