"""Trouble inside the sidecar: an error while rows are read or filtered, its own files damaged, news at a bad moment."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.follow import Follower
from sidecar.rows import Row
from sidecar.sinks import cursors as cursors_module
from sidecar.sinks import egress, health
from sidecar.sinks import manager as manager_module
from sidecar.sinks.base import Sink
from sidecar.sinks.cursors import Cursors
from sidecar.sinks.deadletters import DeadLetters
from sidecar.sinks.privacy import Gate
from sidecar.sinks.runner import SinkRunner
from sidecar.sinks.source import Policy
from sidecar.telemetry import SinkHealth

from .harness import FAST, Manager, Run, until
from .stand_ins import Recorder, delivered
from .test_files import values_of
from .test_runner import source_of

pytestmark = pytest.mark.usefixtures("stand_ins")


class Kept(Sink):
    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        self.rows |= dict(enumerate(rows, number))


def all_delivered(run: Run, tmp_path: Path, gate: Gate) -> dict[int, Row]:
    """What a runner delivers of the whole journal, whatever fails on the way."""
    sink, cursors = Kept(), Cursors(tmp_path / "cursors.sqlite")
    runner = SinkRunner(
        "run-1", "far", sink, lambda start: source_of(run, start), cursors, DeadLetters(tmp_path, "run-1", "far"),
        gate=gate, policy=FAST, random=lambda: 0.999,
    )  # fmt: skip
    runner.start()
    until(lambda: runner.drained, say=lambda: str(runner.health))
    runner.stop()
    assert runner.join(10.0)
    assert runner.health.failures_total == 1
    return sink.rows


def test_rows_that_the_gate_failed_on_are_neither_skipped_nor_sent_unfiltered(tmp_path: Path) -> None:
    class Failing(Gate):
        failures = 1

        def rows(self, rows: Sequence[Row]) -> list[Row]:
            if self.failures:
                self.failures -= 1
                raise RecursionError("too deep")
            return super().rows(rows)

    run = Run(tmp_path)
    run.steps(0, 9, secret="canary")
    rows = all_delivered(run, tmp_path, Failing("run-1", "far"))
    assert sorted(rows) == list(range(20))
    assert [row.step for row in rows.values() if row.kind == "step"] == list(range(10))
    assert not any("secret" in row.metrics for row in rows.values())


def test_rows_read_before_an_error_of_the_journal_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = Follower.read, [sqlite3.OperationalError("disk I/O error")]

    def failing(self: Follower, rows_max: int) -> Iterator[Any]:
        for count, pair in enumerate(read(self, rows_max)):
            if count == 5 and failures:
                raise failures.pop()
            yield pair

    monkeypatch.setattr(Follower, "read", failing)
    run = Run(tmp_path)
    run.steps(0, 9)
    rows = all_delivered(run, tmp_path, Gate("run-1", "far"))
    assert sorted(rows) == list(range(20))


def test_rows_that_come_while_the_sink_of_a_finished_run_is_closed_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, go_on = threading.Event(), threading.Event()

    def close(self: Recorder) -> None:
        closing.set()
        go_on.wait(30.0)

    monkeypatch.setattr(Recorder, "close", close)
    run = Run(tmp_path)
    run.steps(0, 3)
    run.finish()
    with Manager(run, "recorder", policy=Policy(pace_seconds=0.0, poll_seconds=0.02, linger_seconds=0.0)) as manager:
        assert closing.wait(30.0)
        again = Run(tmp_path, session=8)
        again.now_ns = run.now_ns
        again.steps(4, 6)
        manager.manager.notify("run-1")  # The last word that it gets of them.
        go_on.set()
        until(lambda: [row[2] for row in delivered(tmp_path, "recorder") if row[1] == "step"] == list(range(7)))


@pytest.mark.parametrize("content", [b"garbage " * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_of_cursors_is_put_aside_and_sinks_begin_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cursors.sqlite").write_bytes(content)
    run = Run(tmp_path)
    with Manager(run, "jsonl") as manager:
        run.steps(0, 4)
        manager.drain()
    assert [step for step, _ in values_of(tmp_path, "jsonl")] == list(range(5))
    (aside,) = tmp_path.glob("cursors.sqlite.damaged-*")
    assert aside.read_bytes() == content


def test_cursors_that_cannot_be_opened_are_said_and_the_sinks_start_once_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Callable[[Path], sqlite3.Connection] = cursors_module._opened
    full = [True]

    def failing(path: Path) -> sqlite3.Connection:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        return opened(path)

    monkeypatch.setattr(cursors_module, "_opened", failing)
    run = Run(tmp_path)
    with Manager(run, "jsonl") as manager:  # Nothing is raised into the intake.
        run.steps(0, 4)
        manager.manager.notify("run-1")
        assert manager.health("jsonl").state == "failing"
        assert "database or disk is full" in manager.health("jsonl").reason
        assert manager.health("jsonl").lag_events is None, "nobody knows how far it is"
        assert manager.health("jsonl").failures_total > 0
        assert manager.manager.passed_row("run-1") == 0  # Nothing may be removed from the journal.
        full.clear()
        until(lambda: manager.manager.health("run-1", "jsonl"))
        manager.drain()
        assert manager.health("jsonl").state == "ok"
    assert [step for step, _ in values_of(tmp_path, "jsonl")] == list(range(5))


def test_a_disk_that_fills_up_under_the_cursors_is_an_outage_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[int] = []

    class Full:
        """A connection whose file cannot grow."""

        def __init__(self, db: sqlite3.Connection) -> None:
            self.db = db

        def execute(self, statement: str, values: Any = ()) -> Any:
            if full and statement.startswith("INSERT"):
                raise sqlite3.OperationalError("database or disk is full")
            return self.db.execute(statement, values)

        def close(self) -> None:
            self.db.close()

    opened: Callable[[Path], sqlite3.Connection] = cursors_module._opened
    monkeypatch.setattr(cursors_module, "_opened", lambda path: Full(opened(path)))
    run = Run(tmp_path)
    policy = Policy(pace_seconds=0.0, poll_seconds=0.05, linger_seconds=60.0, poison_attempts=1)
    with Manager(run, "jsonl", policy=policy) as manager:
        run.steps(0, 4)
        manager.drain()
        full.append(1)
        run.steps(5, 9)
        manager.manager.notify("run-1")
        until(lambda: manager.health("jsonl").failures_total >= 2)
        assert "cursors.sqlite cannot be used (database or disk is full); make room" in manager.health("jsonl").reason
        full.clear()
        manager.drain()
        assert (manager.health("jsonl").state, manager.health("jsonl").dead_letters_total) == ("ok", 0)
    assert [step for step, _ in values_of(tmp_path, "jsonl")] == list(range(10))


def test_a_run_whose_journal_is_gone_keeps_no_other_run_from_a_sink_added_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    gone, other = Run(tmp_path), Run(tmp_path, "run-2", session=8)
    other.steps(0, 4)
    cursors = Cursors(tmp_path / "cursors.sqlite")
    cursors.pause("run-1", "jsonl", True)
    with Manager(gone, "jsonl") as manager:
        gone.steps(0, 4)
        manager.manager.notify("run-1")
        until(lambda: manager.health("jsonl").lag_events == 5)
        for path in tmp_path.glob("runs/run-1-*"):
            path.unlink()
        until(lambda: manager.health("jsonl").lag_events is None)
        cursors.order("run-2", "csv")
        until(lambda: (found := manager.manager.health("run-2", "csv")) is not None and found.delivered_rows)
        cursors.pause("run-1", "jsonl", False)
    assert (tmp_path / "files" / "run-2.csv").read_text().count(",step,train/loss,") == 5


def test_a_full_disk_under_the_cursors_is_one_line_a_reason_and_none_of_it_stays_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: Callable[[Path], sqlite3.Connection] = cursors_module._opened
    errors = itertools.cycle([sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")])
    tries: list[Exception] = []

    def failing(path: Path) -> sqlite3.Connection:
        tries.append(next(errors))
        raise tries[-1]

    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(cursors_module, "_opened", failing)
    run = Run(tmp_path)
    manager = Manager(run, "jsonl")  # Before any run, when nobody but the ticker opens the file.
    until(lambda: len(tries) > 6)
    assert manager.health("jsonl").state == "failing"
    assert "cursors.sqlite cannot be used" in manager.health("jsonl").reason
    assert manager.health("jsonl").reason.endswith("; make room there, and let this user write there")
    monkeypatch.setattr(cursors_module, "_opened", opened)
    until(lambda: manager.health("jsonl") == SinkHealth(lag_events=0))
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["ERROR", "ERROR", "WARNING"], said
    assert all("cannot be used" in text for _, text in said[:2])
    assert not any(record.exc_info for record in caplog.records), "a full disk is no mistake of ours"
    with manager:
        run.steps(0, 4)
        manager.drain()
    assert [step for step, _ in values_of(tmp_path, "jsonl")] == list(range(5))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("end", [b"\n", b"garbage\n", b"{}\n", b"\x00\x00\n"])
def test_what_is_no_row_at_the_end_of_a_file_is_cut_off(tmp_path: Path, kind: str, end: bytes) -> None:
    run = Run(tmp_path)
    run.steps(0, 4)
    with Manager(run, kind) as manager:
        manager.drain()
    with (tmp_path / "files" / f"run-1.{kind}").open("ab") as file:
        file.write(end)
    run.steps(5, 6)
    with Manager(run, kind) as manager:
        manager.drain()
        assert manager.health(kind).state == "ok"
    assert [step for step, _ in values_of(tmp_path, kind)] == list(range(7))


def test_a_manifest_is_written_when_it_has_changed_only(tmp_path: Path) -> None:
    gate, manifests = Gate("run-1", "far"), egress.Manifests(tmp_path)
    manifests.write({("run-1", "far"): gate})
    (tmp_path / "egress/run-1.json").unlink()
    manifests.write({("run-1", "far"): gate})
    assert egress.read(tmp_path, "run-1") == []
    gate.rows([Row("run-1", 0, 0, 1, 0.0, "step", {"train/loss": 1.0})])
    manifests.write({("run-1", "far"): gate})
    assert egress.of_sink(tmp_path, "run-1", "far") == gate.manifest()


def test_the_health_of_several_runs_has_the_sums_of_all_counts() -> None:
    one = SinkHealth(delivered_rows=1, lag_events=2, failures_total=3, restarts_total=4, dead_letters_total=5,
                     lost_rows_total=6, lag_seconds=7.0)  # fmt: skip
    both = health.joined({"a": one, "b": SinkHealth(state="ok", delivered_rows=10)})
    assert (both.delivered_rows, both.lag_events, both.failures_total, both.restarts_total) == (11, 2, 3, 4)
    assert (both.dead_letters_total, both.lost_rows_total, both.lag_seconds) == (5, 6, 7.0)
    assert health.joined({"a": SinkHealth(), "b": SinkHealth(state="disabled")}).lag_events is None


def test_trouble_of_an_earlier_run_is_shown_with_its_name_and_the_address_of_the_newest() -> None:
    failing = SinkHealth(state="failing", reason="the disk is full", url="http://a")
    shown = health.joined({"a": failing, "b": SinkHealth(state="ok", reason="sent", url="http://b")})
    assert (shown.state, shown.reason, shown.url) == ("failing", "run a: the disk is full", "http://b")
    shown = health.joined({"a": SinkHealth(), "b": failing})
    assert (shown.state, shown.reason, shown.url) == ("failing", "the disk is full", "http://a")


def test_a_sink_added_late_to_an_old_run_does_not_stand_for_the_one_that_goes_on(
    tmp_path: Path, stand_ins: None
) -> None:
    old, new = Run(tmp_path), Run(tmp_path, "run-2", session=8)
    Cursors(tmp_path / "cursors.sqlite").pause("run-1", "recorder", True)
    with Manager(new, "recorder") as manager:
        new.steps(0, 4)
        manager.drain()
        manager.manager.add(old.run_id, "recorder")
        until(lambda: manager.manager.health("run-1", "recorder").state == "paused")
        manager.manager._publish()
        assert manager.health("recorder").state == "ok"
