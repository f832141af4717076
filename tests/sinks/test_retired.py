"""A sidecar that serves for months: what the sinks of runs that are over keep in memory is bounded."""

from pathlib import Path

import msgspec
import pytest

from sidecar.sinks import egress, retired
from sidecar.sinks import manager as manager_module
from sidecar.sinks.manager import SinkManager
from sidecar.telemetry import Telemetry

from .harness import FAST, Run, config, until
from .stand_ins import delivered

pytestmark = pytest.mark.usefixtures("stand_ins")

RUNS, STEPS = 12, 5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(manager_module, "MANIFEST_SECONDS", 0.0)
    monkeypatch.setattr(retired, "KEPT_MAX", 2)


def test_runners_of_runs_that_are_over_leave_memory_and_their_counts_stay(tmp_path: Path) -> None:
    runs = [Run(tmp_path, f"run-{n}", session=n + 1) for n in range(RUNS)]
    telemetry, policy = Telemetry(), msgspec.structs.replace(FAST, linger_seconds=0.0)
    manager = SinkManager(config(tmp_path, "remote"), runs[0].store, telemetry, policy=policy)
    for run in runs:
        run.steps(1, STEPS)
        if run is not runs[5]:
            run.finish()
        manager.run_started(run.hello)
    until(lambda: len(manager._runners) == 3 and len(manager._factory.gates) == 3)
    assert ("run-5", "remote") in manager._runners, "it goes on"
    rows = 2 * RUNS * STEPS  # A step, and what is derived from it.
    assert telemetry.sinks["remote"].delivered_rows == rows
    assert egress.of_sink(tmp_path, "run-0", "remote").sent

    sent = sum(egress.of_sink(tmp_path, "run-0", "remote").sent.values())
    runs[0].steps(STEPS + 1, STEPS + 1)
    manager.notify("run-0")
    until(lambda: telemetry.sinks["remote"].delivered_rows == rows + 2)
    until(lambda: sum(egress.of_sink(tmp_path, "run-0", "remote").sent.values()) > sent)
    manager.close(20.0)
    assert len(delivered(tmp_path, "remote")) == rows + 2
    assert telemetry.sinks["remote"].delivered_rows == rows + 2


def test_what_fails_is_kept_and_tried_again(tmp_path: Path) -> None:
    runs = [Run(tmp_path, f"run-{n}", session=n + 1) for n in range(RUNS)]
    telemetry, policy = Telemetry(), msgspec.structs.replace(FAST, linger_seconds=0.0)
    (tmp_path / "remote.orders").write_text("outage")
    manager = SinkManager(config(tmp_path, "remote"), runs[0].store, telemetry, policy=policy)
    for run in runs:
        run.steps(1, STEPS)
        run.finish()
        manager.run_started(run.hello)
    until(lambda: telemetry.sinks["remote"].failures_total >= RUNS)
    assert len(manager._runners) == RUNS
    (tmp_path / "remote.orders").unlink()
    until(lambda: len(manager._runners) == 2)
    manager.close(20.0)
    assert len(delivered(tmp_path, "remote")) == 2 * RUNS * STEPS
