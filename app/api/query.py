"""Refuses parameters that a route does not have: who mistypes `dry_run` wants no money moved."""

from litestar import Litestar

from app import errors, limits
from app.infra.http import HttpRequest

_DRY_RUN = "dry_run"
_CHECKED = ("/api/", "/test/")
_ANY_NAME = "<key>"


async def refuse_unknown_parameters(request: HttpRequest) -> None:
    """Let only those names pass that the API document has for the route."""
    scope = request.scope
    if not scope["query_string"] or not scope["path_template"].startswith(_CHECKED):
        return
    known = _known(request.app).get((request.method, scope["path_template"]))
    if known is None:
        return  # OPTIONS, which the framework answers itself
    for name in request.query_params:
        if name not in known and not any(_is_of_family(name, each) for each in known):
            why = "This has no dry run." if name == _DRY_RUN else "This has no such parameter."
            shown = name[: limits.METADATA_KEY_LENGTH_MAX]
            raise errors.InvalidParameter(why, pointer=f"/{shown}")


def learn_parameters(app: Litestar) -> None:
    """Read the API document, once, before requests are served."""
    app.state.parameters = {
        (method.upper(), path): {
            parameter.name
            for parameter in getattr(item, method).parameters or ()
            if parameter.param_in == "query"
        }
        for path, item in (app.openapi_schema.paths or {}).items()
        for method in ("get", "post", "put", "patch", "delete")
        if getattr(item, method) is not None
    }


def _known(app: Litestar) -> dict[tuple[str, str], set[str]]:
    known: dict[tuple[str, str], set[str]] = app.state.parameters
    return known


def _is_of_family(name: str, described: str) -> bool:
    """Tell whether a name is one of those that are described by how they begin."""
    beginning = described.removesuffix(_ANY_NAME)
    return beginning != described and name.startswith(beginning)
