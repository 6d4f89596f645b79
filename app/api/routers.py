"""The list of routers: what this service answers."""

from litestar import Router

from app.api.health import health_router
from app.api.metrics import get_metrics
from app.api.openapi import assets_router
from app.events.routes import events_router
from app.ledger.routes import ledger_router
from app.settings import Settings
from app.web.routes import web_router


def all_routers(settings: Settings) -> list[Router]:
    """Every room's routes and the shared ones."""
    return [
        ledger_router(test_mode=settings.http.enable_test_mode),
        events_router,
        health_router,
        Router(path="/", route_handlers=[get_metrics], tags=["health"]),
        assets_router(),
        web_router(),
    ]
