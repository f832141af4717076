"""One run as readers see it: folded from its journal, published as a snapshot and a history.

Given: a journal. Hands on: a ``FollowedRun``; ``PastRuns`` are those that nobody follows, read when asked for.
Never: writes, or makes one run wait until another has been read.
"""

import logging
import sqlite3
import threading
import time

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from sidecar.follow import Follower
from sidecar.history import History
from sidecar.journal_format import Checkpoint
from sidecar.journal_reader import Record
from sidecar.rows import Row
from sidecar.snapshot import RunSnapshot
from sidecar.state import RunState
from sidecar.store import Store
from sidecar.telemetry import Telemetry

log = logging.getLogger("sidecar.followed")

EVENTS_PER_TURN = 2_048  # Of one run before the next has its turn, and readers theirs: about 20 ms.
ROWS_PER_TURN_MIN, ROWS_PER_TURN_MAX = 16, 2_048
PAST_RUNS_MAX = 4
SILENT_SECONDS = 6 * 3600.0  # A stalled run that was silent for so long gets no more hardware readings, and may leave.
LATENCIES_MAX = 512
LIVE_STATES = frozenset({"starting", "running", "stalled"})


class FollowedRun:
    """One run as the pipeline holds it: the fold so far, the series drawn from it, and what is published."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.history = _history(follower.checkpoint_history)
        self.snapshot: RunSnapshot | None = None
        self.behind = self.dirty = True
        self.heard = time.monotonic()
        """When its training processes last sent anything."""
        self.started_ns = 0
        """When the process last started that belongs to it; 0 until one has introduced itself."""
        self._since_checkpoint = 0
        self._rows_per_turn = ROWS_PER_TURN_MIN

    @property
    def state(self) -> RunState:
        return self.follower.projector.state

    def advance(self, telemetry: Telemetry) -> None:
        """Fold more of what was committed: about EVENTS_PER_TURN events."""
        rows_max, faults, bad = self._rows_per_turn, self.follower.faults_total, self._bad_records()
        before = self.follower.row
        newest, events = None, 0
        fresh: list[Row] = []
        for record, rows in self.follower.read(rows_max):
            fresh += rows
            if record.rank != wire.SIDECAR_RANK:
                newest = record
            events += 1
        self.history.extend(fresh)
        if newest is not None:
            self.heard = time.monotonic()
        read = self.follower.row - before
        self.behind = read >= rows_max
        self.dirty = self.dirty or read > 0
        self._since_checkpoint += events
        if events:
            rows_fit = EVENTS_PER_TURN * read // events
            self._rows_per_turn = max(ROWS_PER_TURN_MIN, min(ROWS_PER_TURN_MAX, rows_fit))
        if more := self._bad_records() - bad:
            telemetry.frames_rejected_total["bad_event"] += more
        if more := self.follower.faults_total - faults:
            telemetry.frames_rejected_total["internal_error"] += more
        if newest is not None and not self.behind:
            _note_latency(telemetry, newest)

    def _bad_records(self) -> int:
        return self.follower.reader.bad_records + self.follower.reader.damaged_rows

    @property
    def is_live(self) -> bool:
        """Is it training, as far as is known? A run that nothing was published of counts as live."""
        return self.snapshot is None or self.snapshot.state in LIVE_STATES

    @property
    def is_active(self) -> bool:
        """Live, and heard of in the last hours: processes of other hosts can disappear without a word."""
        return self.is_live and time.monotonic() - self.heard < SILENT_SECONDS

    def publish_if_due(self, now_ns: int) -> bool:
        """True when `sidecar runs` is to be told: of another state (running, finished, ...), or of news of a run that
        has ended, because no later batch would take its line along."""
        if not (self.dirty or self.is_live):
            return False
        before = self.snapshot
        self.snapshot = snapshot(self.state, now_ns=now_ns)
        self.dirty = False
        return before is None or before.state != self.snapshot.state or not self.is_live

    def checkpoint(self, events_min: int) -> Checkpoint | None:
        """The fold so far, when at least ``events_min`` events have come since the last one was taken."""
        if self._since_checkpoint < events_min:
            return None
        checkpoint = self.follower.checkpoint(self.history.dump())
        if checkpoint is not None:
            self._since_checkpoint = 0
        return checkpoint


def follow(store: Store, run_id: str) -> FollowedRun | None:
    """None when there is no journal of this run, or it cannot be read."""
    path = store.path(run_id)
    if not path.exists():
        return None
    try:
        return FollowedRun(Follower(path, run_id))
    except (sqlite3.Error, ValueError) as error:
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


class _PastRun:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        """Threads that read this run or wait for it: it is not closed under them."""
        self.run: FollowedRun | None = None
        """None until it was read to the end of its journal once."""


class PastRuns:
    """Runs that are not followed live, read from their journals when they are asked for; the last few are kept.

    Thread-safe. One run never waits for another to be read.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[str, _PastRun] = {}
        """The one asked for last at the end."""

    def holds(self, run_id: str) -> bool:
        """Whether it was read before, so that at most what its journal gained since is left to read."""
        kept = self._kept.get(run_id)
        return kept is not None and kept.run is not None

    def read(self, run_id: str) -> FollowedRun | None:
        """The run as its journal is now. None when there is no journal of it, or it cannot be read."""
        with self._lock:
            kept = self._kept.pop(run_id) if run_id in self._kept else _PastRun()
            self._kept[run_id] = kept
            kept.users += 1
        try:
            with kept.lock:
                run = kept.run or follow(self._store, run_id)
                if run is not None:
                    _read_to_the_end(run, run_id)
                kept.run = run
                return run
        finally:
            with self._lock:
                kept.users -= 1
                self._forget()

    def _forget(self) -> None:
        """Drop runs that do not exist, and the oldest beyond PAST_RUNS_MAX."""
        for run_id in [run_id for run_id, kept in self._kept.items() if not kept.users and kept.run is None]:
            del self._kept[run_id]
        unused = [(run_id, kept.run) for run_id, kept in self._kept.items() if not kept.users]
        for run_id, run in unused[: max(0, len(self._kept) - PAST_RUNS_MAX)]:
            del self._kept[run_id]
            if run is not None:
                run.follower.close()


def _read_to_the_end(run: FollowedRun, run_id: str) -> None:
    run.behind = True
    try:
        while run.behind:
            run.advance(Telemetry())  # What an old journal holds is no news of this sidecar.
    except sqlite3.Error as error:
        log.warning("the journal of %s cannot be read to its end: %s", run_id, error)
    run.publish_if_due(time.time_ns())
