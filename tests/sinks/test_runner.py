"""What the runner promises: everything, in order, at least once, and no sink's trouble is another's."""

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from sidecar import wire
from sidecar.errors import UserError
from sidecar.follow import Follower
from sidecar.journal_format import Checkpoint
from sidecar.sinks import backoff, ending, registry
from sidecar.sinks import manager as manager_module
from sidecar.sinks.base import Report, Sink, Unavailable
from sidecar.sinks.cursors import Cursor, Cursors
from sidecar.sinks.deadletters import DeadLetters
from sidecar.sinks.manager import SinkManager
from sidecar.sinks.runner import SinkRunner
from sidecar.sinks.source import Policy, Source
from sidecar.snapshot import RunSummary
from sidecar.store import Store
from sidecar.telemetry import Telemetry

from . import stand_ins
from .harness import FAST, START_NS, STEP_NS, Manager, Run, config, until
from .stand_ins import delivered, order

pytestmark = pytest.mark.usefixtures("stand_ins")


def steps_of(rows: list[list[object]]) -> list[object]:
    return [row[2] for row in rows if row[1] == "step"]


def test_every_row_arrives_once_and_in_order(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "recorder") as manager:
        run.steps(0, 9)
        manager.drain()
        run.steps(10, 19)
        manager.drain()
    rows = delivered(tmp_path, "recorder")
    assert steps_of(rows) == list(range(20))
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert manager.health("recorder").delivered_rows == len(rows)
    assert manager.health("recorder").lag_events == 0


def test_after_a_restart_delivery_goes_on_where_it_was(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "recorder") as manager:
        run.steps(0, 9)
        manager.drain()
    run.steps(10, 14)
    with Manager(run, "recorder") as manager:
        manager.drain()
        run.steps(15, 19)
        manager.drain()
    rows = delivered(tmp_path, "recorder")
    assert steps_of(rows) == list(range(20))
    assert [row[0] for row in rows] == list(range(len(rows)))


def test_a_sink_added_late_gets_the_same_as_one_from_the_start(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "recorder") as manager:
        run.steps(0, 24)
        manager.drain()
        manager.manager.add("run-1", "second")
        run.steps(25, 30)
        manager.drain()
    assert delivered(tmp_path, "second") == delivered(tmp_path, "recorder")


def test_a_late_sink_is_remembered_over_a_restart(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run) as manager:
        run.steps(0, 4)
        manager.manager.add("run-1", "second")
        manager.drain()
    run.steps(5, 9)
    with Manager(run) as manager:
        manager.drain()
    assert steps_of(delivered(tmp_path, "second")) == list(range(10))


def test_a_sidecar_started_again_sends_what_the_one_before_had_not_of_a_run_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    over, going_on = Run(tmp_path), Run(tmp_path, "run-2", session=8)
    for run in (over, going_on):
        run.steps(0, 9)
    over.finish()
    ended = RunSummary("run-1", "demo", "d12", "pretrain", "finished", 9, START_NS)
    over.journal.put_summary(msgspec.msgpack.encode(ended))
    for run_id in ("run-1", "run-2"):
        Cursors(tmp_path / "cursors.sqlite").request(run_id, "recorder")
    manager = SinkManager(config(tmp_path, "second"), over.store, Telemetry(), policy=FAST, resumes=True)
    until(lambda: (found := manager.health("run-1", "recorder")) is not None and found.lag_events == 0)
    assert manager.health("run-2", "recorder") is None, "its processes say themselves that they are there"
    manager.run_started(over.hello)
    until(lambda: steps_of(delivered(tmp_path, "second")) == list(range(10)))  # Configured, and not left out.
    manager.close(20.0)
    assert steps_of(delivered(tmp_path, "recorder")) == list(range(10))


@pytest.mark.parametrize("ended", [True, False], ids=["ended-in-the-last-second", "never-ended"])
def test_what_a_crash_of_the_host_left_unsent_is_sent_although_nobody_speaks_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Its summary still says that it is running, and no process comes back to say anything else."""
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(manager_module, "SILENT_SECONDS", 0.2)
    crashed, going_on = Run(tmp_path), Run(tmp_path, "run-2", session=8)
    for run in (crashed, going_on):
        run.steps(0, 9)
        summary = RunSummary(run.run_id, "demo", "d12", "pretrain", "running", 9, START_NS)
        run.journal.put_summary(msgspec.msgpack.encode(summary))
        Cursors(tmp_path / "cursors.sqlite").request(run.run_id, "recorder")
    if ended:
        crashed.finish()
    policy = msgspec.structs.replace(FAST, linger_seconds=0.1)
    manager = SinkManager(config(tmp_path, "second"), crashed.store, Telemetry(), policy=policy, resumes=True)
    manager.run_started(going_on.hello)
    until(lambda: (run_1 := manager._runners.get(("run-1", "recorder"))) is not None and run_1.ended)
    assert manager.health("run-1", "recorder").lag_events == 0
    assert not manager._runners["run-2", "recorder"].ended, "more will come of that one"
    manager.close(20.0)
    assert steps_of(delivered(tmp_path, "recorder")) == [*range(10), *range(10)]


def test_rows_that_died_with_the_process_that_was_to_send_them_are_sent_by_the_next_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink took them all, so by the cursor alone there is nothing left to do for a run that is over."""
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    left, crashed = tmp_path / "left", tmp_path / "crashed"
    run = Run(left)
    run.steps(0, 9)
    run.finish()
    ended = RunSummary("run-1", "demo", "d12", "pretrain", "finished", 9, START_NS)
    run.journal.put_summary(msgspec.msgpack.encode(ended))
    with Manager(run, "uploader") as manager:
        manager.drain()
        assert not delivered(left, "uploader")
        shutil.copytree(left, crashed)  # As a kill of everything at this moment leaves it.
    policy, store = msgspec.structs.replace(FAST, linger_seconds=0.1), Store(crashed)
    manager = SinkManager(config(crashed, "uploader"), store, Telemetry(), policy=policy, resumes=True)
    until(lambda: (found := manager._runners.get(("run-1", "uploader"))) is not None and found.ended)
    manager.close(20.0)
    assert steps_of(delivered(crashed, "uploader")) == list(range(10))
    assert Cursors(crashed / "cursors.sqlite").unconfirmed() == set(), "a third sidecar need not open it again"


def test_cursors_of_an_earlier_version_are_taken_over(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "cursors.sqlite")) as database:
        database.executescript("""
            CREATE TABLE cursors (run TEXT NOT NULL, sink TEXT NOT NULL, row INTEGER NOT NULL, number INTEGER NOT NULL,
            paused INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run, sink)) WITHOUT ROWID;
            INSERT INTO cursors (run, sink, row, number) VALUES ('r', 's', 3, 30);
        """)
    for _ in range(2):
        with contextlib.closing(Cursors(tmp_path / "cursors.sqlite")) as cursors:
            assert cursors.get("r", "s") == Cursor(3, 30)
            assert cursors.unconfirmed() == set(), "nobody asked the far end"
    with contextlib.closing(Cursors(tmp_path / "cursors.sqlite")) as cursors:
        cursors.confirm("r", "s", 29)
        assert cursors.unconfirmed() == {("r", "s")}
        cursors.confirm("r", "s", 30)
        assert cursors.unconfirmed() == set()


def test_a_run_that_comes_back_after_its_rest_was_sent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(manager_module, "SILENT_SECONDS", 0.0)
    run = Run(tmp_path)
    run.steps(0, 9)
    Cursors(tmp_path / "cursors.sqlite").request("run-1", "recorder")
    policy = msgspec.structs.replace(FAST, linger_seconds=0.1)
    manager = SinkManager(config(tmp_path, "recorder"), run.store, Telemetry(), policy=policy, resumes=True)
    until(lambda: (found := manager._runners.get(("run-1", "recorder"))) is not None and found.ended)
    manager.run_started(run.hello)
    run.steps(10, 14)
    manager.notify("run-1")
    until(lambda: steps_of(delivered(tmp_path, "recorder")) == list(range(15)))
    assert not manager._runners["run-1", "recorder"].ended
    manager.close(20.0)


def test_an_outage_delays_but_loses_nothing_and_says_why(tmp_path: Path) -> None:
    run = Run(tmp_path)
    order(tmp_path, "recorder", "outage")
    with Manager(run, "recorder") as manager:
        run.steps(0, 5)
        manager.manager.notify("run-1")
        health = manager.health("recorder")
        until(lambda: health.failures_total >= 2)
        assert (health.state, health.reason) == ("failing", "ConnectionError: no route")
        assert not manager.manager.drained()
        order(tmp_path, "recorder", "")
        manager.drain()
        assert (health.state, health.dead_letters_total) == ("ok", 0)
    assert steps_of(delivered(tmp_path, "recorder")) == list(range(6))


def test_a_sink_that_keeps_failing_is_not_waited_for_at_the_end_but_tries_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    run = Run(tmp_path)
    order(tmp_path, "recorder", "outage")
    with Manager(run, "recorder", "second") as manager:
        run.steps(0, 5)
        manager.drain_one("second")
        until(lambda: manager.health("recorder").failures_total >= 2)
        assert not manager.manager.is_worth_waiting(["run-1"])
        before = manager.health("recorder").failures_total
        monkeypatch.setattr(backoff, "FIRST_SECONDS", 600.0)  # The next rest is a long one.
        until(lambda: manager.health("recorder").failures_total > before)
        order(tmp_path, "recorder", "")
    assert steps_of(delivered(tmp_path, "recorder")) == list(range(6)), "the network came back in the last moment"


@pytest.mark.parametrize(("failures", "waits"), [(0, True), (1, True), (2, False)])
def test_a_slow_sink_is_waited_for_at_the_end_also_after_one_accident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, waits: bool
) -> None:
    monkeypatch.setattr(ending, "LAST_ATTEMPT_SECONDS", 0.05)
    run = Run(tmp_path)
    order(tmp_path, "recorder", "wait")
    with Manager(run, "recorder") as manager:
        run.steps(0, 5)
        manager.manager.notify("run-1")
        until(lambda: manager.health("recorder").state == "ok")
        manager.manager._runners["run-1", "recorder"]._failures = failures
        assert manager.manager.is_worth_waiting() is waits
        if waits:
            threading.Timer(0.3, order, (tmp_path, "recorder", "")).start()
        manager.manager.close(20.0)
        assert steps_of(delivered(tmp_path, "recorder")) == (list(range(6)) if waits else [])
        order(tmp_path, "recorder", "")


def test_a_poison_row_is_put_aside_and_the_others_arrive(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 5)
    run.emit(wire.Log(run.now_ns, 0, 5, {"poison": 1.0}))
    run.steps(6, 9)
    with Manager(run, "recorder", policy=Policy(pace_seconds=0.0, poll_seconds=0.05, poison_attempts=1)) as manager:
        manager.drain()
        assert manager.health("recorder").dead_letters_total == 1
    rows = delivered(tmp_path, "recorder")
    assert steps_of(rows) == list(range(10))
    assert not any("poison" in row[3] for row in rows)
    letters = (tmp_path / "dead-letters" / "run-1.recorder.jsonl").read_text().splitlines()
    assert len(letters) == 1
    assert "cannot take this row" in letters[0]


def test_a_hung_sink_delays_no_other(tmp_path: Path) -> None:
    run = Run(tmp_path)
    order(tmp_path, "recorder", "hang")
    with Manager(run, "recorder", "second") as manager:
        run.steps(0, 9)
        manager.manager.notify("run-1")
        until(lambda: steps_of(delivered(tmp_path, "second")) == list(range(10)))
        until(lambda: manager.health("recorder").lag_events == 10)
        closing = threading.Thread(target=manager.manager.close, args=(0.5,))
        closing.start()
        closing.join(10.0)
        assert not closing.is_alive()
    assert delivered(tmp_path, "recorder") == []


@pytest.mark.parametrize("word", ["refuse", "outage"])
def test_a_sink_that_is_away_from_the_start_says_how_far_and_how_long_it_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    run = Run(tmp_path)
    order(tmp_path, "recorder", word)
    with Manager(run, "recorder") as manager:
        run.steps(0, 9)
        manager.manager.notify("run-1")
        health = manager.health("recorder")
        age_of_the_first = (time.time_ns() - START_NS - STEP_NS) / 1e9
        until(lambda: health.lag_events == 10 and health.lag_seconds >= age_of_the_first)
        order(tmp_path, "recorder", "")
        manager.drain()
        assert (health.lag_events, health.lag_seconds) == (0, None)


def test_a_paused_sink_waits_says_how_far_it_is_behind_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.02)
    run = Run(tmp_path)
    Cursors(tmp_path / "cursors.sqlite").pause("run-1", "recorder", True)
    with Manager(run, "recorder") as manager:
        until(lambda: manager.health("recorder").state == "paused")
        run.steps(0, 4)
        manager.manager.notify("run-1")
        until(lambda: manager.health("recorder").lag_events == 5)
        assert manager.health("recorder").state == "paused"
        assert manager.manager.drained()
        assert delivered(tmp_path, "recorder") == []
        Cursors(tmp_path / "cursors.sqlite").pause("run-1", "recorder", False)
        until(lambda: len(steps_of(delivered(tmp_path, "recorder"))) == 5)


def test_a_period_selects_steps_of_remote_sinks_only(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 20)
    policy = Policy(pace_seconds=0.0, poll_seconds=0.05, period_steps=10)
    with Manager(run, "recorder", "remote", policy=policy) as manager:
        manager.drain()
    remote = [row for row in delivered(tmp_path, "remote") if row[1] == "step" and row[3]]
    assert [row[2] for row in remote] == [0, 10, 20]
    assert remote[1][3]["train/loss"] == 4.0 / 11
    assert steps_of(delivered(tmp_path, "recorder")) == list(range(21))


def test_a_record_larger_than_many_rows_does_not_stop_the_reader(tmp_path: Path) -> None:
    run = Run(tmp_path)
    whole = wire.encode_event(wire.Text(run.now_ns, 0, 0, "note", "x" * 900_000))
    size = 30_000
    slices = [whole[at : at + size] for at in range(0, len(whole), size)]
    for index, data in enumerate(slices):
        run.emit(wire.Part(run.now_ns, 0, index, len(slices), data))
    run.steps(1, 2)
    with Manager(run, "recorder") as manager:
        manager.drain()
    rows = delivered(tmp_path, "recorder")
    assert [row[1] for row in rows if row[1] != "derived"] == ["text", "step", "step"]


def test_a_finished_run_closes_its_sink_and_reopens_it_for_news(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 3)
    run.finish()
    with Manager(run, "recorder", policy=Policy(pace_seconds=0.0, poll_seconds=0.02, linger_seconds=0.0)) as manager:
        until(lambda: all(runner.ended for runner in manager.manager._runners.values()))
        assert manager.manager.drained()
        again = Run(tmp_path, session=8)
        again.now_ns = run.now_ns
        manager.manager.run_started(again.hello)
        again.steps(4, 6)
        manager.drain()
        until(lambda: steps_of(delivered(tmp_path, "recorder")) == list(range(7)))


class FarEnd(Sink):
    """Remembers rows by number and says, when opened, how many of them survived."""

    def __init__(self) -> None:
        self.kept: dict[int, object] = {}
        self.opened = 0

    def open(self, run: object) -> Report:
        self.opened += 1
        return Report(acknowledged=len(self.kept))

    def deliver(self, rows: object, number: int) -> None:
        self.kept |= {number + index: row for index, row in enumerate(rows)}


def source_of(run: Run, start: Cursor = Cursor()) -> Source:
    path = run.store.path(run.run_id)
    return Source(lambda number: Follower(path, run.run_id, number_max=number), start, FAST)


def runner_of(run: Run, sink: Sink, cursors: Cursors, tmp_path: Path) -> SinkRunner:
    def source(start: Cursor) -> Source:
        return source_of(run, start)

    letters = DeadLetters(tmp_path / "dead", run.run_id, "far")
    return SinkRunner(run.run_id, "far", sink, source, cursors, letters, policy=FAST, random=lambda: 0.999)


def test_what_the_far_end_lost_is_delivered_again_from_the_journal(tmp_path: Path) -> None:
    run, sink, cursors = Run(tmp_path), FarEnd(), Cursors(tmp_path / "cursors.sqlite")
    run.steps(0, 9)
    first = runner_of(run, sink, cursors, tmp_path)
    first.start()
    until(lambda: len(sink.kept) == 20)
    first.stop()
    assert first.join(10.0)
    everything = dict(sink.kept)
    sink.kept = {number: row for number, row in sink.kept.items() if number < 7}
    second = runner_of(run, sink, cursors, tmp_path)
    second.start()
    until(lambda: second.drained and len(sink.kept) == 20)
    second.stop()
    assert second.join(10.0)
    assert sink.kept == everything


def test_rows_have_the_same_numbers_in_every_life_whenever_ranks_join(tmp_path: Path) -> None:
    run = Run(tmp_path, world_size=2)
    live = source_of(run)
    seen: list[object] = []
    run.steps(0, 4)
    seen += numbered(live)
    other = Run(tmp_path, session=8, rank=1, world_size=2)
    for step in range(5, 20):
        run.steps(step, step)
        other.now_ns = run.now_ns
        other.steps(step, step)
        if step % 4 == 0:
            seen += numbered(live)
    seen += numbered(live)
    again = source_of(run)
    assert numbered(again) == seen
    later = source_of(run, Cursor(9, 17))
    assert numbered(later) == seen[17:]


def numbered(source: Source) -> list[object]:
    found: list[object] = []
    while batch := source.next_batch():
        found += list(enumerate(batch.rows, batch.number))
    return found


def checkpointed(run: Run) -> int:
    """Store the fold of everything so far, as the pipeline does; its row."""
    follower = Follower(run.store.path(run.run_id), run.run_id)
    list(follower.read(10_000))
    checkpoint = follower.checkpoint()
    assert checkpoint is not None
    run.journal.checkpoint(checkpoint)
    follower.close()
    return checkpoint.row


def test_a_restart_begins_at_a_checkpoint_and_gives_the_same_rows(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for last in (9, 19, 29):
        run.steps(last - 9, last)
        checkpointed(run)
    everything = numbered(source_of(run))
    for start in (0, 7, 20, 21, 39, 55, 60):
        source = source_of(run, Cursor(0, start))
        assert source._follower.number == start // 20 * 20
        assert numbered(source) == everything[start:]
        assert source.lost_rows == 0


def test_rows_that_retention_removed_are_counted_as_lost_and_the_rest_arrives(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "second") as manager:
        run.steps(0, 9)
        manager.drain()
        run.journal.drop_through(checkpointed(run))
        run.steps(10, 14)
        manager.drain()
        assert manager.health("second").lost_rows_total == 0
    with Manager(run, "isolated", "second") as manager:
        manager.drain()
        assert (manager.health("isolated").lost_rows_total, manager.health("second").lost_rows_total) == (20, 0)
    assert steps_of(delivered(tmp_path, "isolated")) == list(range(10, 15))
    assert delivered(tmp_path, "isolated") == delivered(tmp_path, "second")[20:]


def test_a_gap_that_opens_ahead_of_a_slow_reader_is_counted_and_numbers_stay_right(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 9)
    everything = numbered(source_of(run))
    slow = source_of(run)
    slow._policy = msgspec.structs.replace(FAST, batch_rows_max=2, read_rows_max=1)
    first = slow.next_batch()
    assert first is not None
    row = checkpointed(run)
    run.steps(10, 12)
    everything = numbered(source_of(run))
    run.journal.drop_through(row)
    rest = numbered(slow)
    assert (first.number, len(first.rows), slow.lost_rows) == (0, 2, 18)
    assert rest == everything[20:]


def test_retention_waits_for_the_slowest_sink_and_for_what_the_far_end_confirmed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    order(tmp_path, "second", "outage")
    with Manager(run, "recorder", "second") as manager:
        assert manager.manager.passed_row("run-1") == 0
        assert manager.manager.passed_row("another") is None
        run.steps(0, 9)
        manager.drain_one("recorder")
        assert manager.manager.passed_row("run-1") == 0
        order(tmp_path, "second", "")
        manager.drain()
        assert manager.manager.passed_row("run-1") == 10
        runner = manager.manager._runners["run-1", "second"]
        runner._confirmed = 15
        assert manager.manager.passed_row("run-1") == 0
        run.journal.checkpoint(Checkpoint(5, 10, b"", None))
        assert manager.manager.passed_row("run-1") == 5


def test_an_unavailable_sink_is_tried_again_with_growing_rests(tmp_path: Path) -> None:
    class Away(Sink):
        def open(self, run: object) -> Report:
            raise Unavailable("away; wait")

    run, rests = Run(tmp_path), []
    run.steps(0, 0)

    def wait(event: threading.Event, seconds: float) -> bool:
        rests.append(seconds)
        if len(rests) >= 12:
            event.set()
        return event.is_set()

    runner = runner_of(run, Away(), Cursors(tmp_path / "cursors.sqlite"), tmp_path)
    runner._wait, runner._random = wait, lambda: 0.0
    runner.start()
    assert runner.join(10.0)
    assert rests[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert runner.health.reason == "away; wait"


def test_the_back_off_has_full_jitter_and_a_cap() -> None:
    source = random.Random(1)
    delays = [backoff.delay_seconds(12, source.random) for _ in range(1000)]
    assert 0 < min(delays) < 2
    assert 58 < max(delays) <= 60
    assert backoff.delay_seconds(1_000_000, lambda: 0.0) == 60


def test_the_trainer_may_switch_sinks_off_and_the_reason_is_shown(tmp_path: Path) -> None:
    with Manager(Run(tmp_path, sinks=["none"]), "recorder") as manager:
        assert manager.manager.drained()
        assert manager.health("recorder").state == "disabled"
        assert manager.health("recorder").reason == "disabled: this run asked for none"


def test_a_sink_that_is_not_allowed_or_does_not_exist_is_refused_with_the_reason(tmp_path: Path) -> None:
    with Manager(Run(tmp_path, sinks=["recorder", "wandbb"]), allow_sinks=("second", "wandbb")) as manager:
        assert manager.health("recorder").reason == "disabled: not in --allow-sinks of this sidecar"
        assert "did you mean wandb?" in manager.health("wandbb").reason


def test_what_leaves_the_machine_is_sent_by_the_node_of_rank_0_only(tmp_path: Path) -> None:
    run = Run(tmp_path)
    second_node = msgspec.structs.replace(run.hello, rank=8, session=99)
    manager = Manager(run, "remote", "recorder")
    manager.manager.run_started(second_node)
    run.steps(0, 2)
    manager.drain()
    assert manager.health("remote").reason == "waits for rank 0, whose node publishes for all ranks"
    assert len(steps_of(delivered(tmp_path, "recorder"))) == 3
    assert delivered(tmp_path, "remote") == []
    manager.manager.run_started(run.hello)
    manager.drain()
    manager.manager.close(5.0)
    assert len(steps_of(delivered(tmp_path, "remote"))) == 3


def test_a_further_node_publishes_its_share_when_rank_0_does_not_come(tmp_path: Path) -> None:
    run = Run(tmp_path, rank=8, session=99, world_size=16)
    policy = msgspec.structs.replace(FAST, node_seconds=0.2)
    with Manager(run, "by_node", "remote", policy=policy) as manager:
        run.steps(0, 2)
        until(lambda: manager.manager.health("run-1", "by_node"))
        manager.drain()
        assert manager.manager.health("run-1", "remote") is None
        assert manager.health("remote").reason == "waits for rank 0, whose node publishes for all ranks"
    assert len(steps_of(delivered(tmp_path, "by_node"))) == 3
    assert [node["node"] for node in stand_ins.opened(tmp_path, "by_node")] == [8]


def test_an_unknown_sink_is_an_error_with_cause_and_remedy() -> None:
    with pytest.raises(UserError) as caught:
        registry.names("tensorbord")
    assert caught.value.cause == "unknown sink 'tensorbord'"
    assert caught.value.remedy.endswith("none (did you mean tensorboard?)")
    assert registry.names("tensorboard, none,wandb,tensorboard") == ["tensorboard", "wandb"]


def test_the_table_loads_nothing() -> None:
    program = (
        "import sys, sidecar.sinks.registry as table, sidecar.sinks.manager\n"
        "assert 'wandb' in table.SINKS\n"
        "heavy = ('wandb', 'tensorboard', 'pyarrow', 'numpy', 'torch')\n"
        "print([name for name in sys.modules if name in heavy or name.startswith('sidecar.sinks.wandb')])"
    )
    root = Path(registry.__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", program], cwd=root).strip() == b"[]"


def test_the_dummy_word_keeps_a_run_off_wandb_only(tmp_path: Path) -> None:
    run = Run(tmp_path, sinks=["dummy"])
    with Manager(run, "recorder", "wandb") as manager:
        run.steps(0, 1)
        manager.drain()
        assert manager.health("wandb").state == "disabled"
    assert steps_of(delivered(tmp_path, "recorder")) == [0, 1]
    assert not (tmp_path / "wandb").exists()


def test_stand_ins_are_the_real_protocol() -> None:
    recorder: type[Sink] = stand_ins.Recorder
    assert recorder.isolated is False
