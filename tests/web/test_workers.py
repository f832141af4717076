"""Reading large old journals takes long: everything else is answered meanwhile, and the wait for them is bounded."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from sidecar import live
from sidecar.snapshot import RunSnapshot
from sidecar.web import app as module
from tests.web.conftest import Server
from tests.web.fake_views import FakeViews, make_snapshot

SECONDS = 20.0


class SlowViews(FakeViews):
    """Runs named old-... have journals that nobody has read yet; the read goes on until ``read`` is set."""

    def __init__(self) -> None:
        super().__init__(make_snapshot())
        self.read = threading.Event()
        self.reads_begun = threading.Semaphore(0)

    def is_loaded(self, run_id: str | None = None) -> bool:
        return not (run_id or "").startswith("old-")

    def snapshot(self, run_id: str | None = None) -> RunSnapshot | None:
        if self.is_loaded(run_id):
            return super().snapshot(run_id)
        self.reads_begun.release()
        assert self.read.wait(SECONDS)
        return make_snapshot(run_id or "")


class Asked:
    """A server whose old runs are slow, and requests that are still waiting."""

    def __init__(self, server: Server, views: SlowViews, threads: ThreadPoolExecutor) -> None:
        self.server, self.views, self._threads = server, views, threads

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.server.url + path, timeout=SECONDS)

    def later(self, path: str) -> "Future[httpx.Response]":
        return self._threads.submit(self.get, path)


@pytest.fixture
def asked(serve: Callable[..., Server]) -> Iterator[Asked]:
    views = SlowViews()
    with ThreadPoolExecutor(32) as threads:
        yield Asked(serve(views), views, threads)
        views.read.set()


def test_slow_reads_of_old_journals_delay_no_other_endpoint(asked: Asked) -> None:
    slow = [asked.later(f"/api/v1/runs/old-{number}") for number in range(8)]
    for _ in range(module.JOURNAL_THREADS):
        assert asked.views.reads_begun.acquire(timeout=SECONDS)
    for path in ("/metrics", "/status", "/status?format=text", "/api/v1/runs", "/api/v1/runs/nanochat-d12-1",
                 "/api/v1/runs/nanochat-d12-1/history", "/healthz"):
        asked.views.publish()  # Nothing is answered from what was rendered before.
        assert asked.get(path).status_code == 200, path
    with httpx.stream("GET", f"{asked.server.url}/api/v1/stream", timeout=SECONDS) as stream:
        assert "event: snapshot" in next(text for text in stream.iter_text() if "event:" in text)
    assert not any(request.done() for request in slow)
    asked.views.read.set()
    assert [request.result().status_code for request in slow] == [200] * 8


def test_beyond_the_limit_of_waiting_reads_the_answer_is_to_come_back_later(asked: Asked) -> None:
    waiting = [asked.later("/status?run=old-0") for _ in range(module.JOURNAL_READS_MAX)]
    pool = asked.server.app.state.journal_workers
    while pool.unfinished < module.JOURNAL_READS_MAX:
        assert not any(request.done() for request in waiting)
    for path in ("/status?run=old-1", "/api/v1/runs/old-1/history", "/api/v1/stream?run=old-1"):
        answer = asked.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
        assert "old journals" in answer.json()["error"]
    with pytest.raises(live.Busy, match="ask again later"):
        live.fetch(asked.server.url, "/status", query={"run": "old-1"})
    assert asked.get("/status").status_code == 200
    asked.views.read.set()
    assert {request.result().status_code for request in waiting} == {200}
    assert asked.get("/status?run=old-1").status_code == 200
