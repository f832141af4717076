"""What is committed is folded and published: of every run, whatever happens to another."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import followed, pipeline, wire
from sidecar.journal import Chunk, Journal
from sidecar.journal_reader import Record
from sidecar.pipeline import Pipeline
from sidecar.rows import Projector
from sidecar.store import Store
from sidecar.telemetry import Telemetry


class Scene:
    """A pipeline whose turns are taken by hand, and runs to write to."""

    def __init__(self, folder: Path) -> None:
        self.store, self.telemetry = Store(folder), Telemetry()
        self.store.prepare()
        self.pipeline = Pipeline(self.store, self.telemetry, snapshot_steps=10)
        self.views = self.pipeline.views
        self.journals: dict[str, Journal] = {}

    def emit(self, run_id: str, *events: wire.Event) -> None:
        if run_id not in self.journals:
            self.journals[run_id] = journal = self.store.journal(run_id)
            hello = wire.Hello(run_id=run_id, rank=0, session=7, time_ns=1, mono_ns=1, project="p")
            journal.greet(hello, 1)
            self.pipeline.run_started(run_id, 1)
        journal = self.journals[run_id]
        records = [wire.encode_event(event) for event in events]
        journal.append([Chunk(7, journal.streams[7].next_seq, 1, records)])
        self.pipeline.notify(run_id)

    def turn(self) -> None:
        self.pipeline._published = 0.0  # So that news is published at once.
        self.pipeline._wait_for_news()
        self.pipeline._turn()

    def close(self) -> None:
        for journal in self.journals.values():
            journal.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def step(number: int) -> wire.Step:
    return wire.Step(number + 1, number + 1, number, {"train/loss": 1.0})


def finished(number: int) -> wire.Finished:
    return wire.Finished(number + 1, number + 1)


def test_a_record_that_cannot_be_folded_costs_that_record_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Projector.feed

    def feed_or_fail(self: Projector, record: Record) -> list[object]:
        if getattr(record.event, "step", None) == 2:
            raise RuntimeError("a mistake of ours")
        return feed(self, record)

    monkeypatch.setattr(Projector, "feed", feed_or_fail)
    scene.emit("a", *map(step, range(4)))
    scene.emit("a", *map(step, range(4, 6)))
    scene.emit("b", *map(step, range(6)))
    scene.turn()
    for run_id, events in (("a", 5), ("b", 5)):
        shown = scene.views.snapshot(run_id)
        assert shown is not None
        assert shown.step == 5
        run = scene.views.followed[run_id]
        assert run.follower.faults_total == 1
        assert run.state.events == events
    assert scene.telemetry.frames_rejected_total == {"internal_error": 2}


@pytest.mark.parametrize(("asks", "seconds"), [
    (False, pipeline.PUBLISH_SECONDS_MAX),
    (True, pipeline.PUBLISH_SECONDS_MIN),
])  # fmt: skip
def test_news_are_published_now_and_then_and_soon_for_who_asks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, asks: bool, seconds: float
) -> None:
    now = 1_000.0
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now)
    monkeypatch.setattr(pipeline, "REFRESH_SECONDS_MAX", 0.0)  # The turns are taken here, not meanwhile.
    scene.emit("a", step(0))
    scene.turn()
    before, took = scene.views.version, 1_000
    for number in range(took):
        now += 0.01
        scene.emit("a", step(number))
        if asks and scene.views.are_behind():
            scene.views.refresh()
        for run in scene.views.followed.values():
            run.behind = True  # So that the pipeline does not wait for the next publication.
        scene.pipeline._wait_for_news()
        scene.pipeline._turn()
    assert scene.views.version - before == pytest.approx(0.01 * took / seconds, abs=2)


def test_who_asks_is_shown_what_has_just_been_committed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PUBLISH_SECONDS_MIN", 0.0)
    monkeypatch.setattr(pipeline, "PUBLISH_SECONDS_MAX", 3_600.0)
    monkeypatch.setattr(pipeline, "REFRESH_SECONDS_MAX", 30.0)
    scene.emit("a", step(0))
    scene.pipeline.start()
    for number in range(1, 20):
        scene.emit("a", step(number))
        assert scene.views.are_behind()
        scene.views.refresh()
        shown = scene.views.snapshot("a")
        assert shown is not None
        assert shown.step == number
    assert scene.views.are_behind()  # Training goes on: its processes may hold more.
    scene.emit("a", finished(20))
    scene.views.refresh()
    assert not scene.views.are_behind()
    version = scene.views.version
    scene.views.refresh()
    assert scene.views.version == version  # Nothing is new.


def test_who_asks_is_shown_what_training_processes_still_held(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pipeline has published by itself while they were asked."""
    monkeypatch.setattr(pipeline, "PUBLISH_SECONDS_MIN", 0.0)
    monkeypatch.setattr(pipeline, "REFRESH_SECONDS_MAX", 30.0)
    scene.emit("a", step(0))
    scene.turn()
    scene.pipeline.start()

    def fetch() -> None:
        scene.pipeline._published = time.monotonic()
        monkeypatch.setattr(pipeline, "PUBLISH_SECONDS_MIN", 3_600.0)
        scene.emit("a", step(1))

    scene.pipeline.fetch = fetch
    scene.views.refresh()
    shown = scene.views.snapshot("a")
    assert shown is not None
    assert shown.step == 1


def test_what_the_pipeline_has_published_by_itself_is_not_fresh_to_a_reader(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what trainers sent when they were asked last, up to a second before."""
    monkeypatch.setattr(pipeline, "REFRESH_SECONDS_MAX", 30.0)
    scene.emit("a", step(0))
    scene.turn()
    scene.pipeline.fetch = lambda: scene.emit("a", step(1))
    scene.pipeline.start()
    scene.views.refresh()
    shown = scene.views.snapshot("a")
    assert shown is not None
    assert shown.step == 1


def test_of_many_who_ask_at_once_the_first_has_it_fetched_for_all(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PUBLISH_SECONDS_MAX", 3_600.0)
    fetches: list[None] = []
    scene.pipeline.fetch = lambda: fetches.append(None)
    scene.emit("a", *map(step, range(20)))
    scene.turn()
    scene.pipeline.start()
    for _ in range(20):
        scene.views.refresh()  # What those do that had found the views behind, and then waited for a thread.
    assert len(fetches) == 1
    scene.pipeline.stop(30.0)


def test_nobody_waits_for_a_pipeline_that_hangs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "REFRESH_SECONDS_MAX", 0.01)
    scene.emit("a", step(0))
    scene.views.refresh()  # No thread takes turns here.
    assert scene.views.are_behind()


def test_a_journal_that_cannot_be_read_holds_up_no_other_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.emit("a", step(0))
    scene.emit("b", step(0))
    scene.turn()

    def damaged(*_: object) -> Iterator[Record]:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(scene.views.followed["a"].follower.reader, "records", damaged)
    scene.emit("a", step(1))
    scene.emit("b", step(1))
    scene.turn()
    shown = scene.views.snapshot("b")
    assert shown is not None
    assert shown.step == 1
    assert not any(run.behind for run in scene.views.followed.values())
    assert scene.telemetry.frames_rejected_total == {"internal_error": 1}


@pytest.mark.parametrize("part", ["publish_if_due", "checkpoint"])
def test_a_fault_of_ours_with_one_run_holds_up_no_other_and_is_logged_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    done = getattr(followed.FollowedRun, part)

    def failing(self: followed.FollowedRun, given: int) -> object:
        if self.state.run_id == "a":
            raise RuntimeError("a mistake of ours")
        return done(self, given)

    monkeypatch.setattr(followed.FollowedRun, part, failing)
    for number in range(3):
        for run_id in ("a", "b"):
            scene.emit(run_id, step(number))
        scene.turn()
    shown = scene.views.snapshot("b")
    assert shown is not None
    assert shown.step == 2
    assert len(caplog.records) == 1
    assert scene.telemetry.frames_rejected_total == {"internal_error": 3}


def test_an_end_that_names_a_session_which_no_journal_can_hold_does_not_freeze_its_run(scene: Scene) -> None:
    """Such an end can only be a training process' own invention."""
    scene.emit("a", step(0), wire.RankEnded(1, 1, rank=0, session=2**63), step(1))
    scene.turn()
    shown = scene.views.snapshot("a")
    assert shown is not None
    assert shown.step == 1
    assert scene.telemetry.frames_rejected_total == {}


def test_a_run_that_cannot_be_taken_up_keeps_no_other_from_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(store: Store, run_id: str) -> followed.FollowedRun | None:
        if run_id == "a":
            raise MemoryError
        return followed.follow(store, run_id)

    monkeypatch.setattr(pipeline, "follow", follow)
    for run_id in ("a", "b"):
        scene.emit(run_id, step(0))
    scene.turn()
    assert scene.views.run_ids() == ["b"]


def test_live_runs_stay_in_memory_however_many_and_ended_ones_leave_it_oldest_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FOLLOWED_RUNS_MAX", 3)
    names = [f"r{number}" for number in range(6)]
    for name in names:
        scene.emit(name, step(0))
        scene.turn()
    assert scene.views.run_ids() == names[::-1]
    for name in ("r1", "r3"):
        scene.emit(name, finished(1))
    scene.turn()
    scene.emit("r6", step(0))
    scene.turn()
    assert scene.views.run_ids() == ["r6", "r5", "r4", "r2", "r0"]
    past = scene.views.snapshot("r1")
    assert past is not None
    assert past.state == "finished"


def test_the_run_last_started_is_told_by_its_own_time_not_by_who_came_back_first(scene: Scene) -> None:
    scene.emit("older", step(0))
    scene.emit("newer", step(0))
    for run_id, started_ns in (("newer", 200), ("older", 100)):
        scene.pipeline.run_started(run_id, started_ns)
        scene.turn()
    assert scene.views.run_ids() == ["newer", "older"]
    scene.pipeline.run_started("older", 300)  # Its training process was started again.
    scene.turn()
    assert scene.views.run_ids() == ["older", "newer"]


def test_a_run_that_was_silent_for_hours_is_measured_no_more_and_makes_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FOLLOWED_RUNS_MAX", 2)
    for name in ("a", "b"):
        scene.emit(name, step(0))
        scene.turn()
    assert sorted(scene.pipeline.live_run_ids()) == ["a", "b"]
    scene.views.followed["a"].heard -= followed.SILENT_SECONDS
    assert scene.pipeline.live_run_ids() == ["b"]
    scene.emit("c", step(0))
    scene.turn()
    assert set(scene.views.run_ids()) == {"b", "c"}
    scene.emit("a", step(1))
    scene.turn()
    assert set(scene.pipeline.live_run_ids()) == {"a", "b", "c"}


def test_a_run_of_an_earlier_day_is_shown_as_its_journal_is_now(scene: Scene) -> None:
    scene.emit("a", step(0))
    scene.turn()
    scene.views.followed = {}  # As after a restart, or when it has left memory.
    for number in (1, 2):
        scene.emit("a", step(number))
        shown = scene.views.snapshot("a")
        assert shown is not None
        assert shown.step == number
    history = scene.views.history("a")
    assert history is not None
    assert scene.telemetry.intake_latency_seconds == [0.0]  # Of the turn alone: reading an old journal is no news.


def test_a_run_that_was_read_before_answers_while_another_is_read_for_the_first_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("kept", "large"):
        scene.emit(run_id, step(3))
        scene.turn()
    scene.views.followed = {}
    assert not scene.views.is_loaded("kept")
    assert scene.views.snapshot("kept") is not None
    begun, go_on = threading.Event(), threading.Event()

    def slow(store: Store, run_id: str) -> followed.FollowedRun | None:
        begun.set()
        assert go_on.wait(20)
        return follow(store, run_id)

    follow = followed.follow
    monkeypatch.setattr(followed, "follow", slow)
    reading = threading.Thread(target=scene.views.snapshot, args=("large",))
    reading.start()
    assert begun.wait(20)
    asked = threading.Thread(target=scene.views.snapshot, args=("kept",))
    asked.start()
    asked.join(20)
    waited = asked.is_alive()
    assert (scene.views.is_loaded("kept"), scene.views.is_loaded("large")) == (True, False)
    go_on.set()
    reading.join(20)
    assert not waited
    assert scene.views.is_loaded("large")


def test_only_the_runs_asked_for_last_stay_in_memory_and_unknown_ones_never(scene: Scene) -> None:
    names = [f"r{number}" for number in range(followed.PAST_RUNS_MAX + 2)]
    for name in names:
        scene.emit(name, step(0))
        scene.turn()
    scene.views.followed = {}
    for name in names:
        assert scene.views.snapshot(name) is not None
    for number in range(10):
        assert scene.views.snapshot(f"nobody-{number}") is None
    assert [name for name in names if scene.views.is_loaded(name)] == names[-followed.PAST_RUNS_MAX:]
    assert len(scene.views._past._kept) == followed.PAST_RUNS_MAX


def test_the_list_of_runs_on_disk_learns_of_each_change_of_state(scene: Scene) -> None:
    changed: list[str] = []
    scene.pipeline.on_state_changed = changed.append
    scene.emit("a", step(0))
    scene.turn()
    scene.emit("a", step(1))
    scene.turn()
    assert changed == ["a"]
    scene.emit("a", finished(2))
    scene.turn()
    assert changed == ["a", "a"]
    assert b"finished" in (scene.pipeline.summary_of("a") or b"")
    scene.turn()
    assert changed == ["a", "a"]
    scene.emit("a", step(3), finished(4))  # Resumed, and over again before anybody looked.
    scene.turn()
    assert changed == ["a", "a", "a"]
