"""The API document and the page to try it; the page's assets come from an installed package."""

from importlib.metadata import distribution

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme
from litestar.router import Router
from litestar.static_files import create_static_files_router

_ASSETS_PATH = "/schema-assets"
_DESCRIPTION = """
Money moves by `POST /api/v1/transaction`. A 201 means the transaction is durable: it is committed
in PostgreSQL and survives the loss of everything else. It is PENDING until the settler folds it
into the settled balance; `available_balance` counts it at once.

Send an `Idempotency-Key` (or choose the `id`): a request repeated with the same key moves money
once, for ever, and gets the same answer with `Idempotency-Replayed: true`. The same key with
another body is refused. **A refusal is not remembered**: the same key may succeed later.

Every error is RFC 9457 problem+json with a stable `code`. `retryable: true` means the same request
may be sent again, with its key.
"""


_KEYS = Components(
    security_schemes={
        "bearer": SecurityScheme(type="http", scheme="bearer", description="sb_<id>_<secret>"),
        "header": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
    }
)


def openapi_config(version: str, *, needs_key: bool = False) -> OpenAPIConfig:
    """Describe the API; served at /schema and /schema/openapi.json."""
    return OpenAPIConfig(
        title="Sub-Balance",
        version=version,
        description=_DESCRIPTION.strip(),
        license=License(name="MIT", identifier="MIT"),
        path="/schema",
        components=_KEYS if needs_key else Components(),
        security=[{"bearer": []}, {"header": []}] if needs_key else None,
        use_handler_docstrings=True,
        render_plugins=[
            SwaggerRenderPlugin(
                path=["/", "/swagger"],
                favicon="",
                js_url=f"{_ASSETS_PATH}/swagger-ui-bundle.js",
                css_url=f"{_ASSETS_PATH}/swagger-ui.css",
                standalone_preset_js_url=f"{_ASSETS_PATH}/swagger-ui-standalone-preset.js",
            )
        ],
    )


def assets_router() -> Router:
    """Serve the page's assets from the installed package."""
    folder = str(distribution("swagger-ui-py").locate_file("swagger_ui/static"))
    return create_static_files_router(
        path=_ASSETS_PATH, directories=[folder], include_in_schema=False
    )
