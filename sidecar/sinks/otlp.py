"""Rows as OTLP metrics over HTTP, for any OpenTelemetry receiver. Needs the extra ``otlp``.

Given: rows that passed the privacy gate. Hands on: one protobuf request per batch to ENDPOINT/v1/metrics: gauges under
the canonical names at the rows' own times, histograms where they are allowed.
Never: follows a redirect, shows a header's value, waits longer than its time-out, or sends a text.

The SDK's exporter is not used: it stamps what it sends with the time of sending, and rows that come late or again must
keep theirs. A repeated batch has the same series and times, so a receiver keeps one point.
"""

import gzip
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA, Metric, ResourceMetrics

from sidecar.metrics import unit_of
from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import Report, Sink, SinkContext, Unavailable

ENDPOINT_DEFAULT = "http://localhost:4318"
TIMEOUT_SECONDS = 10.0
COMPRESSED_FROM_BYTES = 1024
ANSWER_BYTES_MAX = 1 << 20
RETRY_AFTER_SECONDS_MAX = 300.0
STEP = "train/global_step"
INT64 = range(-(2**63), 2**63)
UNITS = {
    "seconds": "s", "milliseconds": "ms", "minutes": "min", "hours": "h", "percent": "%", "ratio": "1", "GB": "GBy",
    "bytes": "By", "tokens": "{token}", "tokens/s": "{token}/s", "samples": "{sample}", "samples/s": "{sample}/s",
    "steps": "{step}", "steps/s": "{step}/s", "watts": "W", "joules": "J", "celsius": "Cel",
}  # fmt: skip
"""The catalogue's units as OpenTelemetry writes them; others are left out."""


class Refused(ValueError):
    """The receiver will not take these rows, now or later."""


class OtlpSink(Sink):
    per_node: ClassVar[bool] = True

    def __init__(self, context: SinkContext) -> None:
        self._url = endpoint(context.options, os.environ)
        self._headers = headers(os.environ)
        self._resource: list[KeyValue] = []
        self._report = Report()

    def open(self, run: RunInfo) -> Report:
        facts = {
            "service.name": "trainer-sidecar", "service.instance.id": run.run_id, "training.project": run.project,
            "training.run": run.name, "training.stage": run.stage, "training.first_rank": run.node,
        }  # fmt: skip
        self._resource = [_attribute(key, value) for key, value in facts.items() if value is not None]
        self._report = Report(reason=f"to {shown(self._url)}")
        return self._report

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        body = request(self._resource, rows).SerializeToString()
        if body:
            self._post(body)

    def report(self) -> Report:
        return self._report

    def _post(self, body: bytes) -> None:
        sent = {"Content-Type": "application/x-protobuf", "User-Agent": "trainer-sidecar", **self._headers}
        if len(body) >= COMPRESSED_FROM_BYTES:
            body, sent["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        try:
            call = urllib.request.Request(self._url, body, sent)
            with urllib.request.build_opener(_NoRedirect).open(call, timeout=TIMEOUT_SECONDS) as answer:
                kind, content = answer.headers.get_content_type(), answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            raise _refusal(error, shown(self._url)) from None
        except OSError as error:  # urllib's URLError is one: no route, no such name, time-out, TLS.
            reason = getattr(error, "reason", None) or error
            raise Unavailable(f"no OTLP receiver at {shown(self._url)} ({reason}); rows wait in the journal") from None
        if kind == "text/html" and content:
            raise Unavailable(f"{shown(self._url)} answers a web page: it is no OTLP receiver, or a login is in front")
        self._note_rejected(kind, content)

    def _note_rejected(self, kind: str, content: bytes) -> None:
        """A receiver may keep a part; the protocol says not to send the rest again."""
        rejected, text = 0, ""
        try:
            if kind == "application/x-protobuf":
                partial = ExportMetricsServiceResponse.FromString(content).partial_success
                rejected, text = partial.rejected_data_points, partial.error_message
            elif kind == "application/json" and content:
                partial = json.loads(content).get("partialSuccess") or {}
                rejected, text = int(partial.get("rejectedDataPoints", 0)), str(partial.get("errorMessage", ""))
        except Exception:  # noqa: BLE001 - an answer we cannot read says nothing against the rows it took.
            return
        if rejected:
            self._report = Report(reason=f"the receiver refused {rejected} points for good: {text[:120]}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def request(resource: Sequence[KeyValue], rows: Sequence[Row]) -> ExportMetricsServiceRequest:
    """One message with each metric of ``rows`` once, and a data point for each of its values; empty without values.

    Rows with a step carry it as a point of train/global_step at the same time.
    """
    metrics: dict[str, Metric] = {}
    for row in rows:
        time_ns = int(row.time * 1e9)
        attributes = [_attribute("rank", row.rank)] if row.rank >= 0 else []
        values = dict(row.metrics)
        if values and row.step is not None:
            values.setdefault(STEP, row.step)
        for name, value in values.items():
            if row.kind == "histogram" and isinstance(value, dict) and value["counts"]:
                _add_histogram(_metric(metrics, name), value, time_ns, attributes)
            elif isinstance(value, bool | int | float):
                point = _metric(metrics, name).gauge.data_points.add(time_unix_nano=time_ns, attributes=attributes)
                if isinstance(value, int) and int(value) in INT64:
                    point.as_int = int(value)
                else:
                    point.as_double = float(value)
    if not metrics:
        return ExportMetricsServiceRequest()
    whole = ResourceMetrics()
    whole.resource.attributes.extend(resource)
    scope = whole.scope_metrics.add()
    scope.scope.name = "sidecar"
    scope.metrics.extend(metrics.values())
    return ExportMetricsServiceRequest(resource_metrics=[whole])


def endpoint(options: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Option otlp_endpoint, else OpenTelemetry's own variables, else this machine. Raises ValueError for no URL."""
    url = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    base = options.get("endpoint")
    if base or not url:
        base = base or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ENDPOINT_DEFAULT
        url = base if base.rstrip("/").endswith("/v1/metrics") else base.rstrip("/") + "/v1/metrics"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"{shown(url)} is no http(s) address; set otlp_endpoint, for instance {ENDPOINT_DEFAULT}")
    return url


def headers(environ: Mapping[str, str]) -> dict[str, str]:
    """OTEL_EXPORTER_OTLP_HEADERS: key=value,key=value, percent-encoded; those for metrics come on top."""
    found: dict[str, str] = {}
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS"):
        for pair in environ.get(variable, "").split(","):
            key, is_pair, value = pair.partition("=")
            if is_pair:
                found[unquote(key.strip())] = unquote(value.strip())
    return found


def shown(url: str) -> str:
    """Without a password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _refusal(error: urllib.error.HTTPError, url: str) -> Exception:
    if error.code in (401, 403):
        return Unavailable(f"{url} refuses us ({error.code}): check OTEL_EXPORTER_OTLP_HEADERS")
    if error.code == 404:
        return Unavailable(f"{url} does not exist there (404): check otlp_endpoint")
    if error.code in (400, 413, 422):
        return Refused(f"{url} refuses these rows ({error.code})")
    after = error.headers.get("Retry-After", "")
    seconds = min(float(after), RETRY_AFTER_SECONDS_MAX) if after.isdigit() else None
    return Unavailable(f"{url} answers {error.code}; rows wait in the journal", retry_after_seconds=seconds)


def _metric(metrics: dict[str, Metric], name: str) -> Metric:
    if name not in metrics:
        metrics[name] = Metric(name=name, unit=UNITS.get(unit_of(name) or "", ""))
    return metrics[name]


def _add_histogram(metric: Metric, value: dict[str, Any], time_ns: int, attributes: list[KeyValue]) -> None:
    """OTLP's outermost buckets are open, ours are not: the outer edges go as min and max."""
    edges, counts = value["edges"], [int(count) for count in value["counts"]]
    metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    metric.histogram.data_points.add(
        time_unix_nano=time_ns, attributes=attributes, count=sum(counts), bucket_counts=counts,
        explicit_bounds=edges[1:-1], min=edges[0], max=edges[-1],
    )  # fmt: skip


def _attribute(key: str, value: str | int) -> KeyValue:
    held = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=key, value=held)
