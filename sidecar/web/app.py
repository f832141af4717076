"""The HTTP application: every route on one page.

Given: ``Views`` and ``Security``. Hands on: a FastAPI application behind its guard.
Never: changes anything, computes a number, waits for training, or answers 500 to a NaN.

What is sent was rendered once per published version: a thousand readers cost what one does.
"""

import time
from collections.abc import Callable
from importlib import resources
from pathlib import PurePath
from typing import Annotated, Any, Literal, Protocol

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sidecar import __version__
from sidecar.history import History
from sidecar.snapshot import RunSnapshot, RunSummary, summary
from sidecar.telemetry import Telemetry
from sidecar.web import openapi as openapi_document
from sidecar.web import status as status_view
from sidecar.web.exposition import Exposition
from sidecar.web.security import Guard, Security
from sidecar.web.status import Status
from sidecar.web.stream import EventStream, Hub
from sidecar.web.workers import Busy, Result, Workers

JOURNAL_THREADS = 2
JOURNAL_READS_MAX = 16  # Running or waiting; a page that opens an old run asks for it three times.
RETRY_AFTER_SECONDS = 5
NAMES_MAX = 64
RUNS_SECONDS = 1.0  # The list of runs comes from the store: read at most this often.
CACHED_MAX = 16
STUCK_STATES = frozenset({"stalled", "lost"})
PAGE_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Of the page's own files; index.html is served as /."""


class Views(Protocol):
    """What is published; see sidecar.pipeline.Views. Safe to read from any thread."""

    version: int
    telemetry: Telemetry

    def run_ids(self) -> list[str]: ...

    def snapshot(self, run_id: str | None = None) -> RunSnapshot | None: ...

    def history(self, run_id: str) -> History | None: ...

    def is_loaded(self, run_id: str | None = None) -> bool: ...

    def are_behind(self) -> bool: ...

    def refresh(self) -> None: ...

    def runs(self) -> list[Any]: ...


class Json(Response):
    """msgspec's JSON: NaN and infinities are null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else status_view.encode(content)


class NoSuchRun(Exception):
    """Becomes a 404 that names the runs there are."""

    def __init__(self, run_id: str, known: list[str]) -> None:
        super().__init__(run_id)
        self.run_id, self.known = run_id, known[:50]


class Dispatcher:
    """Chooses the threads that do the work of a request: what may read a journal for seconds has its own.

    So a large old run that is opened delays neither a scrape nor the run of today.
    """

    def __init__(self, views: Views, quick: Workers, journals: Workers) -> None:
        self._views, self._quick, self._journals = views, quick, journals

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """For what needs no run's journal."""
        return await self._quick.run(function, *arguments)

    async def refresh(self) -> None:
        """Have published what is not yet. A reader waits for it rather than be shown what was up to a second ago."""
        if self._views.are_behind():
            await self._quick.run(self._views.refresh)

    async def run_for(self, run_id: str | None, function: Callable[..., Result], *arguments: Any) -> Result:
        """For what needs this run. Raises Busy when too many requests wait for journals already."""
        await self.refresh()
        is_loaded = await self._quick.run(self._views.is_loaded, run_id)
        return await (self._quick if is_loaded else self._journals).run(function, *arguments)


class Reader:
    """Composes status objects from what is published, and remembers them until the next publish."""

    def __init__(self, views: Views, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._views, self._now_ns = views, now_ns
        self._encoded: dict[str | None, tuple[int, bytes]] = {}
        self._stored: tuple[float, list[RunSummary]] = (-RUNS_SECONDS, [])
        """When the store was read last, and what it listed then."""

    def known(self) -> list[str]:
        """Ids of all runs that can be asked for, newest first, those of earlier days included."""
        return list(dict.fromkeys([*self._views.run_ids(), *(run.run_id for run in self.runs())]))

    def runs(self) -> list[RunSummary]:
        """The one last started first. What is followed live is as its snapshot says: an answer says no two things."""
        read_at, stored = self._stored
        if time.monotonic() - read_at >= RUNS_SECONDS:
            stored = status_view.summaries(self._views.runs())
            self._stored = (time.monotonic(), stored)
        followed = [summary(shown) for id in self._views.run_ids() if (shown := self._views.snapshot(id))]
        followed_ids = {run.run_id for run in followed}
        return status_view.summaries([*followed, *(run for run in stored if run.run_id not in followed_ids)])

    def status(self, run_id: str | None = None) -> Status:
        """Raises NoSuchRun."""
        snapshot = self._views.snapshot(run_id)
        if snapshot is None and run_id is not None:
            raise NoSuchRun(run_id, self.known())
        return status_view.compose(snapshot, self._views.telemetry, self.runs(), now_ns=self._now_ns())

    def encoded(self, run_id: str | None = None) -> bytes:
        version = self._views.version
        known = self._encoded.get(run_id)
        if known is None or known[0] != version:
            known = (version, status_view.encode(self.status(run_id)))
            if len(self._encoded) >= CACHED_MAX:
                self._encoded.clear()
            self._encoded[run_id] = known
        return known[1]


def create_app(views: Views, security: Security | None = None) -> FastAPI:
    """The application. ``app.state`` has ``exposition`` (scrapes_total), ``hub`` (clients), ``reader`` and
    ``journal_workers`` (unfinished)."""
    security = security or Security()
    app = FastAPI(title="trainer-sidecar", version=__version__, docs_url=None, redoc_url=None,
                  default_response_class=Json, redirect_slashes=False,
                  description="What one training run is doing. Read-only.")
    app.state.reader = reader = Reader(views)
    app.state.exposition = exposition = Exposition(views)
    app.state.journal_workers = Workers(JOURNAL_THREADS, unfinished_max=JOURNAL_READS_MAX)
    dispatcher = Dispatcher(views, Workers(), app.state.journal_workers)
    app.state.hub = Hub(lambda run_id: msgspec.to_builtins(reader.status(run_id)), lambda: views.version,
                        security.streams_max, dispatcher.run_for)
    _add_errors(app)
    _add_page(app)
    _add_status(app, reader, dispatcher)
    _add_probes(app, views)
    _add_metrics(app, exposition, dispatcher)
    _add_api(app, views, reader, dispatcher)
    _add_schema(app)
    app.add_middleware(Guard, security=security)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(NoSuchRun)
    async def no_such_run(_: Request, error: NoSuchRun) -> Response:
        return Json({"error": f"no such run: {status_view.clean(error.run_id)}", "runs": error.known}, 404)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        cause = f"{JOURNAL_READS_MAX} requests wait for old journals to be read; ask again later"
        return Json({"error": cause}, 503, {"retry-after": str(RETRY_AFTER_SECONDS)})

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return Json({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Json({"error": status_view.clean(f"{where}: {first['msg']}")}, 422)


def _add_page(app: FastAPI) -> None:
    folder = resources.files("sidecar.web") / "page"
    index = (folder / "index.html").read_bytes()
    files = {file.name: (file.read_bytes(), media_type) for file in folder.iterdir()
             if (media_type := PAGE_TYPES.get(PurePath(file.name).suffix))}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(index, media_type="text/html; charset=utf-8")

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        body, media_type = files[name]
        return Response(body, media_type=media_type)


def _add_status(app: FastAPI, reader: Reader, dispatcher: Dispatcher) -> None:
    @app.get("/status")
    async def status(
        run: Annotated[str | None, Query(max_length=500)] = None,
        format: Annotated[Literal["json", "text"], Query()] = "json",
    ) -> Response:
        """The run last started, or ``run``; as one screenful of text for ``format=text``."""
        if format == "text":
            return Response(status_view.to_text(await dispatcher.run_for(run, reader.status, run)),
                            media_type="text/plain; charset=utf-8")
        return Json(await dispatcher.run_for(run, reader.encoded, run))


def _add_probes(app: FastAPI, views: Views) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """The process answers."""
        return Json({"status": "ok"})

    @app.get("/livez")
    async def livez(run: Annotated[str | None, Query(max_length=500)] = None) -> Response:
        """The run followed live (the one last started, or ``run``) makes progress or has ended; or none has begun."""
        live = views.run_ids()
        if run is not None and run not in live:
            raise NoSuchRun(run, live)
        snapshot = views.snapshot(run or live[0]) if live else None
        state = snapshot.state if snapshot else "waiting"
        return Json({"status": state}, 503 if state in STUCK_STATES else 200)

    @app.get("/readyz")
    async def readyz() -> Response:
        """The journal takes events."""
        state = views.telemetry.journal.state
        return Json({"status": "ok" if state == "ok" else f"journal {state}"}, 200 if state == "ok" else 503)


def _add_metrics(app: FastAPI, exposition: Exposition, dispatcher: Dispatcher) -> None:
    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text, or OpenMetrics for clients that ask for it."""
        accept = ",".join(request.headers.getlist("accept"))
        encoding = ",".join(request.headers.getlist("accept-encoding"))
        await dispatcher.refresh()
        rendered = exposition.ready(accept, encoding)
        if rendered is None:
            rendered = await dispatcher.run(exposition.serve, accept, encoding)
        headers = {"content-type": rendered.content_type, "vary": "accept, accept-encoding"}
        if rendered.gzipped:
            headers["content-encoding"] = "gzip"
        return Response(rendered.body, headers=headers)


def _add_api(app: FastAPI, views: Views, reader: Reader, dispatcher: Dispatcher) -> None:
    @app.get("/api/v1/runs")
    async def runs() -> Response:
        """Every run, newest first, those of earlier days included."""
        await dispatcher.refresh()
        return Json({"runs": await dispatcher.run(reader.runs)})

    # An id may contain a slash, which arrives decoded. So this route goes before the next one, which takes all paths.
    @app.get("/api/v1/runs/{run_id:path}/history")
    async def history(
        run_id: str,
        names: str = "",
        name: Annotated[list[str], Query(max_length=NAMES_MAX)] = [],  # noqa: B006 - FastAPI copies it.
        points: Annotated[int, Query(ge=1, le=5_000)] = 500,
        x: Annotated[Literal["step", "tokens", "time"], Query()] = "step",
    ) -> Response:
        """Series thinned to ``points``, extremes kept; ``name`` may be repeated, for names that contain a comma.
        Without any: which names there are."""
        series = await dispatcher.run_for(run_id, views.history, run_id)
        if series is None:
            raise NoSuchRun(run_id, await dispatcher.run(reader.known))
        wanted = list(dict.fromkeys([*filter(None, names.split(",")), *name]))
        if len(wanted) > NAMES_MAX:
            raise HTTPException(422, f"at most {NAMES_MAX} names at once")
        if not wanted:
            return Json({"names": await dispatcher.run(series.names)})
        return Json(await dispatcher.run(series.query, wanted, points, x))

    @app.get("/api/v1/runs/{run_id:path}")
    async def run(run_id: str) -> Response:
        """One run, as /status shows it."""
        return Json(await dispatcher.run_for(run_id, reader.encoded, run_id))

    @app.get("/api/v1/stream", response_class=Response)
    async def stream(request: Request, run: Annotated[str | None, Query(max_length=500)] = None) -> Any:
        """Server-sent events: ``snapshot`` once, then ``delta`` (JSON merge patch), at most two a second."""
        await dispatcher.run_for(run, reader.status, run)  # Answers 404; reads an old run outside the loop.
        return _as_response(EventStream(request.app.state.hub, run))

    @app.get("/api/v1/schema/status")
    async def schema() -> Response:
        """JSON Schema of /status."""
        return Json(status_view.schema())


def _as_response(stream: EventStream) -> Response:
    """FastAPI hands on only what is a Response; this one writes itself."""

    class _Stream(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await stream(scope, receive, send)

    return _Stream()


def _add_schema(app: FastAPI) -> None:
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_document.complete(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


__all__ = ["Json", "Reader", "Views", "create_app"]
