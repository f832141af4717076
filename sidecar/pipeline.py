"""The story on one page: what is committed is folded, projected into rows, and published.

Given: Hellos and committed batches, in order, from the intake's thread. Hands on: immutable snapshots and histories.
Never: does I/O on the way, or shows a reader something half done.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable

import msgspec

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from sidecar.history import History
from sidecar.intake import LATENCIES_MAX, Committed
from sidecar.journal import Checkpoint, JournalReader, Record, decode
from sidecar.rows import Projector
from sidecar.snapshot import RunSnapshot
from sidecar.state import dump, load
from sidecar.store import RunEntry, Store, Summary
from sidecar.telemetry import Telemetry

log = logging.getLogger("sidecar.pipeline")

PUBLISH_SECONDS = 0.25
PUBLISH_IDLE_SECONDS = 1.0  # Ages grow even when nothing arrives.
CHECKPOINT_EVENTS = 100_000  # About a second of folding: what a restart has to do again at most.
FOLLOWED_RUNS_MAX = 64  # Runs kept in memory; older ones are read from their journals when asked for.


class FollowedRun:
    """One run as the pipeline holds it: the fold so far, the series drawn from it, and what is published."""

    def __init__(self, run_id: str, checkpoint: Checkpoint | None = None) -> None:
        self.projector = Projector(run_id, load(checkpoint.state) if checkpoint else None)
        self.history = History()
        self.parts: dict[int, list[bytes]] = {}
        self.snapshot: RunSnapshot | None = None
        self.dirty = True
        self._row, self._number = (checkpoint.row, checkpoint.number) if checkpoint else (0, 0)
        self._since_checkpoint = 0

    def feed(self, record: Record) -> None:
        for row in self.projector.feed(record):
            self.history.add(row)
            self._number += 1
        self._row = record.row
        self._since_checkpoint += 1
        self.dirty = True

    def checkpoint(self, events_min: int = CHECKPOINT_EVENTS) -> Checkpoint | None:
        """The fold so far, when at least ``events_min`` events have come since the last one was taken."""
        if self._since_checkpoint < events_min or self.parts:
            return None
        self._since_checkpoint = 0
        return Checkpoint(self._row, self._number, dump(self.projector.state), None)

    def publish(self, now_ns: int) -> None:
        self.snapshot = snapshot(self.projector.state, now_ns=now_ns)
        self.dirty = False


class Views:
    """What outlets read. Thread-safe: everything handed out is replaced as a whole, never changed."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.version = 0
        """Grows at each publication."""
        self._store = store
        self._followed: dict[str, FollowedRun] = {}
        self._read: dict[str, FollowedRun] = {}

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
            entries.append(entry._replace(state=shown.state, last_step=shown.step) if shown else entry)
        return entries

    def _find(self, run_id: str | None) -> FollowedRun | None:
        if run_id is None:
            ids = self.run_ids()
            if ids:
                return self._followed[ids[0]]
            entries = self._store.runs()
            return self._from_journal(entries[0].run_id) if entries else None
        return self._followed.get(run_id) or self._from_journal(run_id)

    def _from_journal(self, run_id: str) -> FollowedRun | None:
        """A run of an earlier day, read from its journal once and kept."""
        if run_id not in self._read:
            run = replay(self._store, run_id)
            if run is None:
                return None
            run.publish(time.time_ns())
            while len(self._read) >= 4:
                self._read.pop(next(iter(self._read)), None)
            self._read[run_id] = run
        return self._read[run_id]


class Pipeline:
    """Owned by the intake's thread."""

    def __init__(self, store: Store, telemetry: Telemetry, *, snapshot_steps: int) -> None:
        self.views = Views(store, telemetry)
        self.on_snapshot_due: Callable[[int], None] = lambda step: None
        self.on_rows: Callable[[str], None] = lambda run_id: None
        self.on_checkpoint: Callable[[str, Checkpoint], None] = lambda run_id, checkpoint: None
        self._store, self._telemetry, self._snapshot_steps = store, telemetry, snapshot_steps
        self._runs = self.views._followed
        self._published = 0.0
        self._summaries: dict[str, Summary] = {}

    def greet(self, hello: wire.Hello, received_ns: int) -> None:
        """A training process has introduced itself. The run it belongs to becomes the one last started."""
        run = self._runs.pop(hello.run_id, None)
        if run is None:
            run = replay(self._store, hello.run_id) or FollowedRun(hello.run_id)
        run.projector.greet(hello, received_ns)
        run.dirty = True
        self._runs[hello.run_id] = run
        while len(self._runs) > FOLLOWED_RUNS_MAX:
            del self._runs[next(iter(self._runs))]

    def committed(self, batch: list[Committed]) -> None:
        now_ns = time.time_ns()
        for item in batch:
            run = self._runs.get(item.run_id)
            if run is None:
                run = self._runs[item.run_id] = replay(self._store, item.run_id) or FollowedRun(item.run_id)
                continue  # The replay has read this batch already.
            self._feed(run, item, now_ns)
        for run_id in {item.run_id for item in batch}:
            self.on_rows(run_id)
            self.save(run_id)

    def save(self, run_id: str, events_min: int = CHECKPOINT_EVENTS) -> None:
        """Take a checkpoint of a run if enough has come since the last one."""
        run = self._runs.get(run_id)
        checkpoint = run.checkpoint(events_min) if run else None
        if checkpoint is not None:
            self.on_checkpoint(run_id, checkpoint)

    def _feed(self, run: FollowedRun, item: Committed, now_ns: int) -> None:
        before = run.projector.state.step
        session, event = item.chunk.session, None
        for seq, data in enumerate(item.chunk.records, item.chunk.first_seq):
            event = decode(data, session, run.parts)
            if event is not None:
                run.feed(Record(item.row, item.rank, session, seq, item.chunk.received_ns, event))
            elif session not in run.parts:
                self._telemetry.frames_rejected_total["bad_event"] += 1
        if event is not None and item.rank != wire.SIDECAR_RANK:
            self._note_latency((now_ns - event.time_ns) / 1e9)
        step = run.projector.state.step
        if step is not None and (before is None or step // self._snapshot_steps > before // self._snapshot_steps):
            self.on_snapshot_due(step)

    def _note_latency(self, seconds: float) -> None:
        latencies = self._telemetry.intake_latency_seconds
        latencies.append(max(0.0, seconds))
        if len(latencies) > LATENCIES_MAX:
            del latencies[: -LATENCIES_MAX // 2]

    def live_run_ids(self) -> list[str]:
        """Runs that are training now: the ones hardware readings belong to."""
        return [id for id, run in self._runs.items() if run.snapshot is None or run.snapshot.state in LIVE_STATES]

    def publish_if_due(self) -> None:
        now = time.monotonic()
        dirty = any(run.dirty for run in self._runs.values())
        if now - self._published >= (PUBLISH_SECONDS if dirty else PUBLISH_IDLE_SECONDS):
            self._published = now
            now_ns = time.time_ns()
            for run in self._runs.values():
                if run.dirty or run.snapshot is None or run.snapshot.state in LIVE_STATES:
                    run.publish(now_ns)
            self.views.version += 1

    def summary_of(self, run_id: str) -> bytes | None:
        """What `sidecar runs` shows, when it has changed since it was last stored."""
        run = self._runs.get(run_id)
        if run is None or run.snapshot is None:
            return None
        summary = _summary(run)
        if self._summaries.get(run_id) == summary:
            return None
        self._summaries[run_id] = summary
        return msgspec.msgpack.encode(summary)

    def summaries(self) -> dict[str, bytes]:
        """All summaries that have changed since they were last stored."""
        return {run_id: blob for run_id in list(self._runs) if (blob := self.summary_of(run_id)) is not None}


LIVE_STATES = frozenset({"starting", "running", "stalled"})


def replay(store: Store, run_id: str) -> FollowedRun | None:
    """Fold a journal from its last checkpoint. None when there is none, or it cannot be read."""
    path = store.path(run_id)
    if not path.exists():
        return None
    try:
        with contextlib.closing(JournalReader(path)) as reader:
            checkpoint = reader.checkpoint()
            run = FollowedRun(run_id, checkpoint)
            for hello in reader.hellos():
                run.projector.greet(hello, hello.time_ns)
            for record in reader.records(checkpoint.row if checkpoint else 0):
                run.feed(record)
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        log.warning("the journal of %s cannot be read: %s", run_id, error)
        return None
    return run


def _summary(run: FollowedRun) -> Summary:
    state, shown = run.projector.state, run.snapshot
    assert shown is not None
    return Summary(
        run_id=shown.run_id,
        project=shown.project or "",
        name=shown.name,
        stage=shown.stage,
        state=shown.state,
        last_step=shown.step,
        started_ns=state.started_ns,
    )
