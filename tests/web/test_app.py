"""Every endpoint, through the guard, as a reader sees it."""

import math
from types import SimpleNamespace
from urllib.parse import quote

import msgspec
import pytest

from sidecar.snapshot import MetricValue
from sidecar.web.status import Status
from tests.web.conftest import Client
from tests.web.fake_views import FakeViews, make_history, make_snapshot


def test_status_is_the_published_schema(client: Client) -> None:
    answer = client.get("/status")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    status = msgspec.json.decode(answer.content, type=Status)
    assert (status.run_id, status.step, status.loss) == ("nanochat-d12-1", 12_840, 2.314)
    assert status.sinks["wandb"].state == "offline"
    assert status.sidecar.frames_rejected == {"bad_magic": 2}
    assert [run.run_id for run in status.runs] == ["nanochat-d12-1"]


def test_status_before_any_run_waits_with_null_fields() -> None:
    status = Client(FakeViews()).get("/status").json()
    assert status["state"] == "waiting"
    assert status["run_id"] is None
    assert status["loss"] is None
    assert status["sinks"]["tensorboard"]["state"] == "ok"


def test_status_as_text_begins_with_the_verdict(client: Client) -> None:
    lines = client.get("/status?format=text").text.splitlines()
    assert lines[0].startswith("Training. Step 12,840 of 100,000")
    assert len(lines) <= 40
    assert "41.2 % full attention" in "\n".join(lines)


def test_a_run_that_has_ended_says_when_and_not_how_old_its_last_step_was() -> None:
    run = make_snapshot(state="finished", started_ns=1_790_000_000_000_000_000, elapsed_seconds=3_600.0)
    text = Client(FakeViews(run)).get("/status?format=text").text
    assert "ended 2026-09-21 15:13:20 UTC" in text
    assert " ago" not in text.split("\n")[3]


def test_a_tiny_loss_and_a_nan_validation_are_not_hidden_in_the_text() -> None:
    run = make_snapshot(loss=3.2e-5, val={"loss": None, "accuracy": 0.5})
    run.metrics["val/loss"] = MetricValue(None, "nan", 3)
    text = Client(FakeViews(run)).get("/status?format=text").text
    assert "\nloss         3.2e-05" in text
    assert "\nvalidation   loss nan   accuracy 0.5" in text


def test_unknown_run_is_404_and_names_the_known_ones(client: Client) -> None:
    for path in ("/status?run=nope", "/api/v1/runs/nope", "/api/v1/runs/nope/history", "/api/v1/stream?run=nope"):
        assert client.get(path).status_code == 404, path
    assert client.get("/status?run=nope").json()["runs"] == ["nanochat-d12-1"]


def test_a_nan_loss_is_shown_as_null_with_its_state_everywhere() -> None:
    client = Client(FakeViews(make_snapshot(loss=None, loss_state="nan", perplexity=math.nan)))
    status = client.get("/status").json()
    assert (status["loss"], status["loss_state"], status["perplexity"]) == (None, "nan", None)
    assert "\nloss         nan" in client.get("/status?format=text").text
    assert "training_loss{run=\"nanochat-d12-1\"} NaN" in client.get("/metrics").text
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/healthz", "/livez", "/readyz", "/api/v1/runs",
                                  "/api/v1/stream", "/openapi.json", "/page/app.js"])
def test_head_answers_like_get_without_a_body(client: Client, path: str) -> None:
    answer = client.request("HEAD", path)
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_only_get_and_head_are_answered(client: Client, method: str) -> None:
    answer = client.request(method, "/status")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_unknown_paths_and_foreign_documentation_pages_are_404(client: Client) -> None:
    for path in ("/nope", "/docs", "/redoc", "/page/../app.py", "/page/..%2fapp.py", "/page/index.html", "/metrics/"):
        assert client.get(path).status_code == 404, path


def test_livez_is_503_only_while_training_does_not_progress(views: FakeViews, client: Client) -> None:
    for state, code in (("running", 200), ("stalled", 503), ("lost", 503), ("finished", 200), ("failed", 200)):
        views.publish(make_snapshot(state=state))
        assert client.get("/livez").status_code == code, state
    assert Client(FakeViews()).get("/livez").json() == {"status": "waiting"}


def test_readyz_is_503_while_the_disk_is_full(views: FakeViews, client: Client) -> None:
    assert client.get("/readyz").status_code == 200
    views.telemetry.journal.state = "full"
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_status_is_composed_once_per_publish(views: FakeViews, client: Client) -> None:
    calls = []
    plain = views.snapshot
    views.snapshot = lambda run_id=None: calls.append(run_id) or plain(run_id)  # type: ignore[method-assign]
    for _ in range(5):
        client.get("/status")
    composed = len(calls)
    assert composed == 2, "for its own part and for its line in the list"
    views.publish(make_snapshot(step=12_841))
    assert client.get("/status").json()["step"] == 12_841
    assert len(calls) == 2 * composed


@pytest.mark.parametrize("path", ["/status", "/metrics", "/api/v1/runs/nanochat-d12-1", "/status?format=text"])
def test_what_is_not_published_yet_is_published_for_who_asks(views: FakeViews, client: Client, path: str) -> None:
    assert "12841" not in client.get(path).text.replace(",", "")
    views.unpublished = make_snapshot(step=12_841)
    assert "12841" in client.get(path).text.replace(",", "")
    assert views.unpublished is None


def test_history_comes_thinned_with_its_extremes(views: FakeViews, client: Client) -> None:
    views.histories["nanochat-d12-1"] = make_history(3_000)
    path = "/api/v1/runs/nanochat-d12-1/history"
    assert "train/loss" in client.get(path).json()["names"]
    answer = client.get(f"{path}?names=train/loss,val/loss,nope&points=100").json()
    assert len(answer["x"]) <= 100
    assert sorted(answer["series"]) == ["train/loss", "val/loss"]
    assert {len(column) for column in answer["series"]["train/loss"].values() if column} == {len(answer["x"])}


@pytest.mark.parametrize("query", ["points=0", "points=nan", "points=1e9", "x=colour", "names=" + "a," * 4_100])
def test_bad_history_queries_are_422_with_one_line(views: FakeViews, client: Client, query: str) -> None:
    views.histories["nanochat-d12-1"] = make_history(10)
    answer = client.get(f"/api/v1/runs/nanochat-d12-1/history?{query}")
    assert answer.status_code in (414, 422)
    assert set(answer.json()) == {"error"}


def test_a_run_of_an_earlier_day_is_listed(views: FakeViews, client: Client) -> None:
    views.earlier = [SimpleNamespace(run_id="old-1", project="p", name=None, stage="sft", state="finished",
                                     last_step=7, started_ns=1)]
    listed = client.get("/api/v1/runs").json()["runs"]
    assert [(run["run_id"], run["last_step"]) for run in listed] == [("nanochat-d12-1", 12_840), ("old-1", 7)]


@pytest.mark.parametrize("run_id", ["team/d12", "../../etc/passwd", "a//b", "100 %?#"])
def test_a_run_is_found_whatever_its_id_contains(run_id: str) -> None:
    client = Client(FakeViews(make_snapshot(run_id=run_id)))
    address = f"/api/v1/runs/{quote(run_id, safe='')}"
    assert client.get(address).json()["run_id"] == run_id
    assert client.get(f"{address}/history").status_code == 200
    assert client.get("/api/v1/runs/team").status_code == 404


def test_livez_does_not_judge_a_run_that_only_the_journal_knows() -> None:
    views = FakeViews(make_snapshot(state="lost"))
    views.run_ids = lambda: []  # type: ignore[method-assign]
    answer = Client(views).get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "waiting"})
    assert Client(views).get("/livez?run=nanochat-d12-1").status_code == 404


def test_the_list_of_runs_says_what_the_status_beside_it_says() -> None:
    """It used to be up to a second older: empty beside the first run, and twenty steps behind a fast one."""
    views = FakeViews()
    client = Client(views)
    assert client.get("/status").json()["runs"] == []
    for step, state in ((1, "running"), (2, "finished")):
        views.publish(make_snapshot(run_id="new", step=step, state=state))
        for runs in (client.get("/status").json()["runs"], client.get("/api/v1/runs").json()["runs"]):
            assert [(run["run_id"], run["last_step"], run["state"]) for run in runs] == [("new", step, state)]
