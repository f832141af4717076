"""``/metrics``: the Prometheus view of all current runs and of the sidecar itself.

Given: ``Views``, a monotonic clock, the two request headers that matter. Hands on: bytes and their content type.
Never: renders twice for the same published version, lets a counter go down, or keeps a device or rank that is gone.

Samples are made afresh for each publish, so what vanished is not exported. Values of a run that has
ended are held for ``HOLD_SECONDS`` (Prometheus' own look-back), then the run disappears from ``/metrics``; it stays
in ``/status``, the journal and every sink.
"""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from sidecar.metrics import own_family_names
from sidecar.snapshot import RunSnapshot
from sidecar.telemetry import Telemetry
from sidecar.web import samples
from sidecar.web.prometheus_text import Floor, MetricsText
from sidecar.web.samples import Sample

HOLD_SECONDS = 300.0
GZIP_LEVEL = 1  # 2.5 ms for 160 kB, a tenth of the size; level 9 saves another fifth for ten times the work.
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class ViewsLike(Protocol):
    """What is read of sidecar.pipeline.Views."""

    version: int
    telemetry: Telemetry

    def run_ids(self) -> list[str]: ...

    def snapshot(self, run_id: str | None = None) -> RunSnapshot | None: ...


class Rendered(NamedTuple):
    body: bytes
    content_type: str
    gzipped: bool


class Exposition:
    """Renders at most once per published version and format. Thread-safe."""

    def __init__(self, views: ViewsLike, clock: Callable[[], float] = time.monotonic) -> None:
        self._views = views
        self._collector = Collector(views, clock)
        self._text: tuple[int, MetricsText] = (-1, MetricsText())
        self._lock = threading.Lock()
        self._cached: dict[tuple[str, bool], tuple[int, bytes]] = {}
        self.renders_total = 0
        self.scrapes_total = 0
        """How often /metrics was served: the end of a run waits for one more scrape by a scraper that was there."""

    def serve(self, accept: str = "", accept_encoding: str = "") -> Rendered:
        """The page in the format and encoding that these request headers prefer."""
        kind, gzipped = negotiate(accept), accepts_gzip(accept_encoding)
        with self._lock:
            version = self._views.version
            body = self._body(kind, version)
            if gzipped:
                body = self._gzipped(kind, version, body)
            self._count()
        return Rendered(body, kind, gzipped)

    def ready(self, accept: str = "", accept_encoding: str = "") -> Rendered | None:
        """What ``serve`` would return if nothing has to be rendered for it; never waits."""
        kind, gzipped = negotiate(accept), accepts_gzip(accept_encoding)
        known = self._cached.get((kind, gzipped))
        if known is None or known[0] != self._views.version:
            return None
        self._count()
        return Rendered(known[1], kind, gzipped)

    def _count(self) -> None:
        self.scrapes_total += 1
        self._views.telemetry.scrapes_total = self.scrapes_total

    def _body(self, kind: str, version: int) -> bytes:
        known = self._cached.get((kind, False))
        if known is not None and known[0] == version:
            return known[1]
        if self._text[0] != version:
            self._text = (version, self._collector.collect())
        body = self._text[1].render(openmetrics=kind == OPENMETRICS)
        self.renders_total += 1
        self._cached[kind, False] = (version, body)
        return body

    def _gzipped(self, kind: str, version: int, body: bytes) -> bytes:
        known = self._cached.get((kind, True))
        if known is None or known[0] != version:
            known = self._cached[kind, True] = (version, gzip.compress(body, GZIP_LEVEL, mtime=0))
        return known[1]


class Collector:
    """Reads what is published into one text. Keeps what must outlive one: floors of counters, when runs ended."""

    def __init__(self, views: ViewsLike, clock: Callable[[], float]) -> None:
        self._views, self._clock = views, clock
        self._own_names = own_family_names()
        self._ended_at: dict[str, float] = {}
        self._floors: dict[str, Floor] = {}
        self._dropped: dict[str, int] = {}

    def collect(self) -> MetricsText:
        text = MetricsText()
        own_names = self._own_names
        shown = list(self._shown())
        for run in shown:
            floor = self._floors.setdefault(run.run_id, {})
            for sample in samples.of_run(run, own_names):
                text.add(sample, floor)
            if dropped := samples.series_dropped(run, own_names):
                self._dropped[run.run_id] = max(self._dropped.get(run.run_id, 0), dropped)
        self._floors = {run.run_id: self._floors[run.run_id] for run in shown}
        for sample in samples.of_telemetry(self._views.telemetry):
            text.add(sample, {})
        text.add(Sample("sidecar_series_dropped_total", {}, sum(self._dropped.values())), {})
        return text

    def _shown(self) -> Iterator[RunSnapshot]:
        now = self._clock()
        known = set()
        for run_id in self._views.run_ids():
            run = self._views.snapshot(run_id)
            if run is None:
                continue
            known.add(run_id)
            if run.state not in samples.ENDED_STATES:
                self._ended_at.pop(run_id, None)
                yield run
            elif now - self._ended_at.setdefault(run_id, now) < HOLD_SECONDS:
                yield run
        self._ended_at = {run_id: since for run_id, since in self._ended_at.items() if run_id in known}


def negotiate(accept: str) -> str:
    """OpenMetrics only for a client that asks for it and prefers it at least as much as text (quality values count)."""
    wanted = {"application/openmetrics-text": -1.0, "text/plain": -1.0}
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media in wanted:
            wanted[media] = max(wanted[media], _quality(parameters))
    openmetrics = wanted["application/openmetrics-text"]
    return OPENMETRICS if openmetrics > 0 and openmetrics >= wanted["text/plain"] else TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is named with a quality above 0."""
    for part in accept_encoding.split(","):
        coding, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if coding == "gzip":
            return _quality(parameters) > 0
    return False


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
