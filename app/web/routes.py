"""The dashboard over HTTP: its pages, what they are made of, and the figures they show."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

from litestar import Response, Router, get
from litestar.datastructures import State
from litestar.params import PathParameter
from litestar.types import ASGIApp

from app.infra.http import (
    EVENT_STREAM,
    HttpRequest,
    described_events,
    documented,
    json_answer,
)
from app.ledger.parameters import AccountIdPath
from app.web.live import LiveFeed
from app.web.schemas import RealtimeAnswer, Snapshot
from app.web.snapshot import realtime_answer
from app.web.stream import LiveStream

FileNamePath = Annotated[str, PathParameter(description="A file of the pages")]
_PAGES = Path(__file__).parent / "pages"
# Where a page says this stands what all pages begin with.
_TOP = b"<!-- include: top -->\n"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # Nothing from elsewhere, nothing written into the page, no form that goes anywhere with what
    # is in it, no text that becomes markup, and nobody frames it.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "cache-control": "no-cache",
}


@get(
    "/api/v1/live",
    summary="Listen",
    responses=documented(200, str, (500, 503), media_type=EVENT_STREAM),
    operation_class=described_events(Snapshot),
)
async def get_live(state: State) -> ASGIApp:
    """Get a snapshot of the service every second, as server-sent events with JSON data.

    All listeners of a process get the same one. Who is slow misses some; who takes none for five
    seconds is let go, and connects again if it wants to.
    """
    feed: LiveFeed = state.live
    return LiveStream(feed)


@get(
    "/api/v1/metrics/realtime",
    summary="The figures of now",
    responses=documented(200, RealtimeAnswer, (500, 503)),
)
async def get_realtime(state: State) -> Response[bytes]:
    """Read the figures of now, no older than a second; null where one is not known."""
    feed: LiveFeed = state.live
    return json_answer(realtime_answer(await feed.latest()))


class _Files:
    """The files of the pages, read once; there is no way to any other."""

    def __init__(self, folder: Path) -> None:
        top = (folder / "top.part").read_bytes()
        self._files = {
            path.name: (path.read_bytes().replace(_TOP, top), _TYPES[path.suffix])
            for path in folder.iterdir()
            if path.suffix in _TYPES
        }

    def answer(self, name: str, request: HttpRequest) -> Response[bytes]:
        """Answer with a file, or that the client has it already."""
        content, media_type = self._files.get(name, (b"", ""))
        if not media_type:
            return Response(b"", status_code=404, headers=_HEADERS, media_type="text/plain")
        tag = f'"{sha256(content).hexdigest()[:32]}"'
        headers = {**_HEADERS, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(b"", status_code=304, headers=headers, media_type=media_type)
        return Response(content, headers=headers, media_type=media_type)


def web_router() -> Router:
    """Serve the dashboard."""
    files = _Files(_PAGES)

    @get("/", include_in_schema=False)
    async def get_overview(request: HttpRequest) -> Response[bytes]:
        """Show the whole service."""
        return files.answer("overview.html", request)

    @get("/accounts/{account_id:str}", include_in_schema=False)
    async def get_account_page(account_id: AccountIdPath, request: HttpRequest) -> Response[bytes]:
        """Show one account; the page itself reads which."""
        del account_id
        return files.answer("account.html", request)

    @get("/web/{name:str}", include_in_schema=False)
    async def get_file(name: FileNamePath, request: HttpRequest) -> Response[bytes]:
        """Give one of the files that the pages need."""
        return files.answer(name, request)

    return Router(
        path="/",
        route_handlers=[get_overview, get_account_page, get_file, get_live, get_realtime],
        tags=["dashboard"],
    )
