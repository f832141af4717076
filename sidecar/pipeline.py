"""The story on one page: what is committed is folded, projected into rows, and published.

Given: news that a run's journal has grown. Hands on: immutable snapshots and histories.
Never: delays an acknowledgement (it reads the journal, like any sink), or shows a reader something half done.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable

import msgspec

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from sidecar.follow import Follower
from sidecar.history import History
from sidecar.journal import Checkpoint, Record
from sidecar.rows import Row
from sidecar.snapshot import RunSnapshot, RunSummary
from sidecar.state import RunState
from sidecar.store import RunEntry, Store
from sidecar.telemetry import Telemetry

log = logging.getLogger("sidecar.pipeline")

PUBLISH_SECONDS = 0.25
PUBLISH_IDLE_SECONDS = 1.0  # Ages grow even when nothing arrives.
EVENTS_PER_TURN = 2_048  # Of one run before the next has its turn, and readers theirs: about 20 ms.
ROWS_PER_TURN_MIN, ROWS_PER_TURN_MAX = 16, 2_048
CHECKPOINT_EVENTS = 50_000  # Half a second of folding: what a restart has to do again at most.
CHECKPOINT_AT_STOP_EVENTS = 1_000
FOLLOWED_RUNS_MAX = 64  # Runs kept in memory; older ones are read from their journals when asked for.
PAST_RUNS_MAX = 4
LATENCIES_MAX = 512
LIVE_STATES = frozenset({"starting", "running", "stalled"})


class FollowedRun:
    """One run as the pipeline holds it: the fold so far, the series drawn from it, and what is published."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.history = _history(follower.checkpoint_history)
        self.snapshot: RunSnapshot | None = None
        self.behind = self.dirty = True
        self._since_checkpoint = 0
        self._rows_per_turn = ROWS_PER_TURN_MIN

    @property
    def state(self) -> RunState:
        return self.follower.projector.state

    def advance(self, telemetry: Telemetry) -> None:
        """Fold more of what was committed: about EVENTS_PER_TURN events."""
        reader, rows_max = self.follower.reader, self._rows_per_turn
        before, bad = self.follower.row, reader.bad_records + reader.damaged_rows
        newest, events = None, 0
        fresh: list[Row] = []
        for record, rows in self.follower.read(rows_max):
            fresh += rows
            if record.rank != wire.SIDECAR_RANK:
                newest = record
            events += 1
        self.history.extend(fresh)
        read = self.follower.row - before
        self.behind = read >= rows_max
        self.dirty = self.dirty or read > 0
        self._since_checkpoint += events
        if events:
            rows_fit = EVENTS_PER_TURN * read // events
            self._rows_per_turn = max(ROWS_PER_TURN_MIN, min(ROWS_PER_TURN_MAX, rows_fit))
        if reader.bad_records + reader.damaged_rows > bad:
            telemetry.frames_rejected_total["bad_event"] += reader.bad_records + reader.damaged_rows - bad
        if newest is not None and not self.behind:
            _note_latency(telemetry, newest)

    def publish(self, now_ns: int) -> None:
        self.snapshot = snapshot(self.state, now_ns=now_ns)
        self.dirty = False

    def checkpoint(self, events_min: int) -> Checkpoint | None:
        """The fold so far, when at least ``events_min`` events have come since the last one was taken."""
        if self._since_checkpoint < events_min:
            return None
        checkpoint = self.follower.checkpoint(self.history.dump())
        if checkpoint is not None:
            self._since_checkpoint = 0
        return checkpoint


class Views:
    """What outlets read. Thread-safe: everything handed out is replaced as a whole, never changed."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.version = 0
        """Grows at each publication."""
        self._store = store
        self._followed: dict[str, FollowedRun] = {}
        self._past: dict[str, FollowedRun] = {}
        self._past_lock = threading.Lock()

    def run_ids(self) -> list[str]:
        """Runs followed live, the one last started first."""
        return list(self._followed)[::-1]

    def snapshot(self, run_id: str | None = None) -> RunSnapshot | None:
        """The published state of a run (default: the one last started). None: no such run, or nothing yet."""
        run = self._find(run_id)
        return None if run is None else run.snapshot

    def history(self, run_id: str) -> History | None:
        run = self._find(run_id)
        return None if run is None else run.history

    def runs(self) -> list[RunEntry]:
        """All runs of the data directory, the one last started first; live ones as they are now."""
        entries = []
        for entry in self._store.runs():
            live = self._followed.get(entry.run_id)
            shown = live.snapshot if live else None
            live_now = {"state": shown.state, "last_step": shown.step} if shown else {}
            entries.append(msgspec.structs.replace(entry, **live_now))
        return entries

    def _find(self, run_id: str | None) -> FollowedRun | None:
        if run_id is None:
            ids = self.run_ids()
            if ids:
                return self._followed.get(ids[0])
            entries = self._store.runs()
            return self._from_journal(entries[0].run_id) if entries else None
        return self._followed.get(run_id) or self._from_journal(run_id)

    def _from_journal(self, run_id: str) -> FollowedRun | None:
        """A run of an earlier day, read from its journal once and kept."""
        with self._past_lock:
            run = self._past.get(run_id)
            if run is None:
                run = follow(self._store, run_id)
                if run is None:
                    return None
                while run.behind:
                    run.advance(self.telemetry)
                run.publish(time.time_ns())
                while len(self._past) >= PAST_RUNS_MAX:
                    self._past.pop(next(iter(self._past))).follower.close()
                self._past[run_id] = run
            return run


class Pipeline:
    """A thread of its own: it may be behind the journal after a restart or in a burst, and catches up."""

    def __init__(self, store: Store, telemetry: Telemetry, *, snapshot_steps: int) -> None:
        self.views = Views(store, telemetry)
        self.on_snapshot_due: Callable[[int], None] = lambda step: None
        self.on_checkpoint: Callable[[str, Checkpoint], None] = lambda run_id, checkpoint: None
        self._store, self._telemetry, self._snapshot_steps = store, telemetry, snapshot_steps
        self._runs = self.views._followed
        self._published = 0.0
        self._summaries: dict[str, RunSummary] = {}
        self._started: list[str] = []
        self._grown: set[str] = set()
        self._news = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Fold what is left, publish, and take a last checkpoint, within the time."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join(timeout_seconds)

    def run_started(self, run_id: str) -> None:
        """A training process of this run has introduced itself: it becomes the run last started. Thread-safe."""
        with self._news:
            self._started.append(run_id)
            self._news.notify()

    def notify(self, run_id: str) -> None:
        """More of this run is committed. Thread-safe."""
        with self._news:
            if run_id not in self._grown:
                self._grown.add(run_id)
                self._news.notify()

    def live_run_ids(self) -> list[str]:
        """Runs that are training now: the ones hardware readings belong to. Thread-safe."""
        runs = list(self._runs.items())
        return [id for id, run in runs if run.snapshot is None or run.snapshot.state in LIVE_STATES]

    def summary_of(self, run_id: str) -> bytes | None:
        """What `sidecar runs` shows, when it has changed since it was last stored. Thread-safe."""
        run = self._runs.get(run_id)
        if run is None or run.snapshot is None:
            return None
        summary = _summary(run.snapshot, run.state.started_ns)
        if self._summaries.get(run_id) == summary:
            return None
        self._summaries[run_id] = summary
        return msgspec.msgpack.encode(summary)

    def _run(self) -> None:
        while True:
            try:
                stopping = self._wait_for_news()
                self._turn()
                if stopping and not any(run.behind for run in self._runs.values()):
                    break
            except Exception:  # noqa: BLE001 - Task boundary: one run that we mishandle must not end the view of all others.
                log.exception("a turn of the pipeline failed")
                self._telemetry.frames_rejected_total["internal_error"] += 1
                time.sleep(0.1)
        self._publish(time.time_ns())
        for run_id in list(self._runs):
            self._save(run_id, CHECKPOINT_AT_STOP_EVENTS)

    def _wait_for_news(self) -> bool:
        """Until something is to be published. Nobody sees what is folded before that, so it is folded all at once."""
        with self._news:
            while not (self._started or self._stopping or any(run.behind for run in self._runs.values())):
                fresh = self._grown or any(run.dirty for run in self._runs.values())
                due = self._published + (PUBLISH_SECONDS if fresh else PUBLISH_IDLE_SECONDS)
                if (left := due - time.monotonic()) <= 0:
                    break
                self._news.wait(left)
            started, self._started = self._started, []
            grown, self._grown = self._grown, set()
            stopping = self._stopping
        for run_id in dict.fromkeys(started):
            self._follow(run_id)
        for run_id in grown:
            run = self._runs.get(run_id) or self._follow(run_id)
            if run is not None:
                run.behind = True
        return stopping

    def _follow(self, run_id: str) -> FollowedRun | None:
        run = self._runs.pop(run_id, None) or follow(self._store, run_id)
        if run is not None:
            run.behind = True
            self._runs[run_id] = run
            while len(self._runs) > FOLLOWED_RUNS_MAX:
                self._runs.pop(next(iter(self._runs))).follower.close()
        return run

    def _turn(self) -> None:
        for run_id, run in list(self._runs.items()):
            if run.behind:
                before = run.state.step
                run.advance(self._telemetry)
                self._ask_for_snapshot(before, run.state.step)
                self._save(run_id, CHECKPOINT_EVENTS)
        now = time.monotonic()
        dirty = any(run.dirty for run in self._runs.values())
        if now - self._published >= (PUBLISH_SECONDS if dirty else PUBLISH_IDLE_SECONDS):
            self._published = now
            self._publish(time.time_ns())

    def _publish(self, now_ns: int) -> None:
        for run in self._runs.values():
            if run.dirty or run.snapshot is None or run.snapshot.state in LIVE_STATES:
                run.publish(now_ns)
        self.views.version += 1

    def _ask_for_snapshot(self, before: int | None, step: int | None) -> None:
        if step is not None and (before is None or step // self._snapshot_steps > before // self._snapshot_steps):
            self.on_snapshot_due(step)

    def _save(self, run_id: str, events_min: int) -> None:
        checkpoint = self._runs[run_id].checkpoint(events_min)
        if checkpoint is not None:
            self.on_checkpoint(run_id, checkpoint)


def follow(store: Store, run_id: str) -> FollowedRun | None:
    """None when there is no journal of this run, or it cannot be read."""
    path = store.path(run_id)
    if not path.exists():
        return None
    try:
        return FollowedRun(Follower(path, run_id))
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        log.warning("the journal of %s cannot be read: %s", run_id, error)
        return None


def _history(stored: bytes | None) -> History:
    """What a checkpoint kept of the series; from now on, when that cannot be used."""
    try:
        return History.load(stored) if stored else History()
    except (ValueError, TypeError, IndexError) as error:
        log.warning("stored series cannot be read, charts begin anew: %s", error)
        return History()


def _note_latency(telemetry: Telemetry, record: Record) -> None:
    latencies = telemetry.intake_latency_seconds
    latencies.append(max(0.0, (record.received_ns - record.event.time_ns) / 1e9))
    if len(latencies) > LATENCIES_MAX:
        del latencies[: LATENCIES_MAX // 2]


def _summary(shown: RunSnapshot, started_ns: int) -> RunSummary:
    return RunSummary(
        run_id=shown.run_id,
        project=shown.project or "",
        name=shown.name,
        stage=shown.stage,
        state=shown.state,
        last_step=shown.step,
        started_ns=started_ns,
    )
