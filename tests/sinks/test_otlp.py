"""OTLP against a receiver that decodes with OpenTelemetry's own messages."""

import contextlib
import gzip
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service

from sidecar import wire
from sidecar.sinks import otlp

from .harness import START_NS, STEP_NS, Manager, Run, until


class Receiver(ThreadingHTTPServer):
    """Keeps what it was sent; ``answers`` are (status, headers, body) to give first, one each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Any] = []
        self.headers: list[Any] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def points(self, name: str) -> list[tuple[int, Any]]:
        """(time in ns, value) of a gauge, in order of arrival."""
        return [(at, value) for found, at, value in self.every_point() if found == name]

    def every_point(self) -> Iterator[tuple[str, int, Any]]:
        metrics = [m for r in self.requests for rm in r.resource_metrics for s in rm.scope_metrics for m in s.metrics]
        for metric in metrics:
            for point in metric.gauge.data_points:
                yield metric.name, point.time_unix_nano, getattr(point, point.WhichOneof("value"))


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, answer = self.server.answers.pop(0) if self.server.answers else (200, {}, b"")
        if status == 200 and headers.get("Content-Type") != "text/html":
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            self.server.requests.append(service.ExportMetricsServiceRequest.FromString(body))
            self.server.headers.append((self.path, dict(self.headers)))
        self.send_response(status)
        for key, value in (
            {"Content-Type": "application/x-protobuf", "Content-Length": str(len(answer))} | headers
        ).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        return None


@contextlib.contextmanager
def serving() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving() as server:
        yield server


def test_values_arrive_at_their_own_times_with_their_steps(tmp_path: Path, receiver: Receiver) -> None:
    run = Run(tmp_path)
    with Manager(run, "otlp", otlp_endpoint=receiver.url) as manager:
        run.steps(0, 9)
        run.steps(10, 10, **{"train/loss": math.nan, "up": math.inf, "down": -math.inf, "big": 2**63})
        manager.drain()
        assert manager.health("otlp").reason == f"to {receiver.url}/v1/metrics"
    times = [START_NS + STEP_NS * (step + 1) for step in range(11)]
    losses = receiver.points("train/loss")
    assert [time for time, _ in losses] == pytest.approx(times, abs=1000)
    assert [value for _, value in losses[:10]] == [4.0 / (1 + step) for step in range(10)]
    assert math.isnan(losses[10][1])
    assert [receiver.points(name)[0][1] for name in ("up", "down", "big")] == [math.inf, -math.inf, float(2**63)]
    assert dict(receiver.points("train/global_step")) == {
        time: step for step, (time, _) in enumerate(losses)
    }
    resource = receiver.requests[0].resource_metrics[0].resource
    facts = {a.key: a.value.string_value for a in resource.attributes}
    assert facts == {
        "service.name": "trainer-sidecar", "service.instance.id": "run-1", "training.project": "demo",
        "training.run": "d12", "training.stage": "pretrain",
    }  # fmt: skip


def test_texts_never_leave_and_histograms_need_their_word(tmp_path: Path, receiver: Receiver) -> None:
    run = Run(tmp_path, config={"prompt": "canary"}, host="canary-host")
    with Manager(run, "otlp", otlp_endpoint=receiver.url, allow=("histograms", "text")) as manager:
        run.steps(0, 0, word="canary")
        run.emit(wire.Text(run.now_ns, 0, 0, "sample", "canary"))
        run.emit(wire.Histogram(run.now_ns, 0, 0, "weights/wte", [0.0, 1.0, 2.0], [3.0, 4.0]))
        manager.drain()
    assert b"canary" not in b"".join(request.SerializeToString() for request in receiver.requests)
    metrics = [m for r in receiver.requests for m in r.resource_metrics[0].scope_metrics[0].metrics]
    (histogram,) = [m.histogram.data_points[0] for m in metrics if m.name == "weights/wte"]
    assert (histogram.count, list(histogram.bucket_counts), list(histogram.explicit_bounds)) == (7, [3, 4], [1.0])
    assert (histogram.min, histogram.max) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((503, {"Retry-After": "1"}, b""), "answers 503; rows wait"),
        ((429, {}, b""), "answers 429; rows wait"),
        ((401, {}, b""), "refuses us (401): check OTEL_EXPORTER_OTLP_HEADERS"),
        ((404, {}, b""), "check otlp_endpoint"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "answers 302"),
        ((200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "answers a web page"),
    ],
)
def test_a_receiver_in_trouble_gets_everything_later(
    tmp_path: Path, receiver: Receiver, answer: Any, reason: str
) -> None:
    receiver.answers.append(answer)
    run = Run(tmp_path)
    with Manager(run, "otlp", otlp_endpoint=receiver.url) as manager:
        health = manager.health("otlp")
        run.steps(0, 4)
        manager.manager.notify("run-1")
        until(lambda: health.failures_total)
        assert reason in (health.reason or "") or health.state == "ok"
        manager.drain()
    assert [value for _, value in receiver.points("train/loss")] == [4.0 / (1 + step) for step in range(5)]


def test_rows_that_are_refused_for_good_are_put_aside(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers += [(400, {}, b"")] * 200
    run = Run(tmp_path)
    with Manager(run, "otlp", otlp_endpoint=receiver.url) as manager:
        run.steps(0, 0)
        manager.manager.notify("run-1")
        until(lambda: manager.health("otlp").failures_total >= 3)
        assert "refuses these rows (400)" in manager.health("otlp").reason


def test_no_such_host_and_nobody_listening_are_named_with_what_to_do(tmp_path: Path) -> None:
    for url in ("http://no-such-host.invalid", "http://127.0.0.1:9"):
        run = Run(tmp_path / url[7:10])
        with Manager(run, "otlp", otlp_endpoint=url) as manager:
            run.steps(0, 0)
            manager.manager.notify("run-1")
            until(lambda manager=manager: manager.health("otlp").failures_total)
            assert f"no OTLP receiver at {url}/v1/metrics" in manager.health("otlp").reason
            assert "rows wait in the journal" in manager.health("otlp").reason
            manager.manager.close(2.0)


def test_points_refused_in_part_are_shown_and_not_sent_again(tmp_path: Path, receiver: Receiver) -> None:
    response = service.ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = 3
    response.partial_success.error_message = "too old"
    receiver.answers.append((200, {}, response.SerializeToString()))
    run = Run(tmp_path)
    with Manager(run, "otlp", otlp_endpoint=receiver.url) as manager:
        run.steps(0, 1)
        manager.drain()
        assert manager.health("otlp").reason == "the receiver refused 3 points for good: too old"
    metrics = [
        metric
        for request in receiver.requests  # One or two: a batch may end before the rows that were derived.
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    points = [(metric.name, str(point)) for metric in metrics for point in metric.gauge.data_points]
    assert points
    assert len(points) == len(set(points)), "no point was sent twice"


def test_where_to_and_with_which_headers_is_opentelemetrys_own_convention() -> None:
    assert otlp.endpoint({}, {}) == "http://localhost:4318/v1/metrics"
    assert otlp.endpoint({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1/"}) == "http://a:1/v1/metrics"
    assert otlp.endpoint({}, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a/x"}) == "http://a/x"
    assert (
        otlp.endpoint({"endpoint": "https://b"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}) == "https://b/v1/metrics"
    )
    with pytest.raises(ValueError, match="is no http"):
        otlp.endpoint({"endpoint": "localhost:4318"}, {})
    assert otlp.headers({"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=1"}) == {"api-key": "a b", "x": "1"}
    assert otlp.shown("https://user:secret@host/v1/metrics?key=1") == "https://host/v1/metrics"
