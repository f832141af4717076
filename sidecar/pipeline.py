"""The story on one page: what is committed is folded, projected into rows, and published.

Given: news that a run's journal has grown. Hands on: immutable snapshots and histories.
Never: delays an acknowledgement (it reads the journal, like any sink), or shows a reader something half done.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from sidecar.followed import FollowedRun, PastRuns, follow
from sidecar.history import History
from sidecar.journal_format import Checkpoint
from sidecar.snapshot import RunSnapshot, summary
from sidecar.store import RunEntry, Store
from sidecar.telemetry import Telemetry

log = logging.getLogger("sidecar.pipeline")

PUBLISH_SECONDS_MIN = 0.25  # What was fetched and published so lately is fresh enough, however many read.
PUBLISH_SECONDS_MAX = 2.0  # While nobody reads: each one costs training CPU time. A stall is noticed by the next one.
REFRESH_SECONDS_MAX = 0.5  # A reader waits so long for a publication, then takes the one before.
CHECKPOINT_EVENTS = 50_000  # About a second of folding: the most that a restart has to do again.
CHECKPOINT_AT_STOP_EVENTS = 1_000
FAULTS_LOGGED_MAX = 100  # Different ones.
FOLLOWED_RUNS_MAX = 64  # Beyond this, runs that have ended leave memory; their journals are read when somebody asks.


class Views:
    """What outlets read. Thread-safe: everything handed out is replaced as a whole, never changed."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.version = 0
        """Grows at each publication."""
        self.followed: dict[str, FollowedRun] = {}
        """Runs followed live, by id, the one last started last. The pipeline replaces it as a whole."""
        self.are_behind: Callable[[], bool] = lambda: False
        """Whether ``refresh`` has anything to do."""
        self.refresh: Callable[[], None] = lambda: None
        """Have what trainers hold published now. Waits for it, never long. The pipeline sets it, and ``are_behind``."""
        self._store = store
        self._past = PastRuns(store)

    def run_ids(self) -> list[str]:
        """Runs followed live, the one last started first."""
        return list(self.followed)[::-1]

    def snapshot(self, run_id: str | None = None) -> RunSnapshot | None:
        """The published state of a run (default: the one last started). None: no such run, or nothing yet."""
        run = self._find(run_id)
        return None if run is None else run.snapshot

    def history(self, run_id: str) -> History | None:
        run = self._find(run_id)
        return None if run is None else run.history

    def is_loaded(self, run_id: str | None = None) -> bool:
        """Whether ``snapshot`` and ``history`` answer from memory. Otherwise they read a journal from its last
        checkpoint on, which may take seconds."""
        if run_id is None:
            if self.followed:
                return True
            entries = self._store.runs()
            return not entries or self._past.holds(entries[0].run_id)
        return run_id in self.followed or self._past.holds(run_id)

    def runs(self) -> list[RunEntry]:
        """All runs of the data directory, the one last started first; live ones as they are now."""
        entries = []
        for entry in self._store.runs():
            live = self.followed.get(entry.run_id)
            shown = live.snapshot if live else None
            live_now = {"state": shown.state, "last_step": shown.step} if shown else {}
            entries.append(msgspec.structs.replace(entry, **live_now))
        return entries

    def _find(self, run_id: str | None) -> FollowedRun | None:
        if run_id is None:
            ids = self.run_ids()
            if ids:
                return self.followed.get(ids[0])
            entries = self._store.runs()
            return self._past.read(entries[0].run_id) if entries else None
        return self.followed.get(run_id) or self._past.read(run_id)


class Pipeline:
    """A thread of its own: it may be behind the journal after a restart or in a burst, and catches up."""

    def __init__(self, store: Store, telemetry: Telemetry, *, snapshot_steps: int) -> None:
        self.views = Views(store, telemetry)
        self.fetch: Callable[[], None] = lambda: None
        """Have trainers send what they hold, and wait until it is committed. Never long."""
        self.on_snapshot_due: Callable[[str, int], None] = lambda run_id, step: None
        self.on_checkpoint: Callable[[str, Checkpoint], None] = lambda run_id, checkpoint: None
        self.on_state_changed: Callable[[str], None] = lambda run_id: None
        self._store, self._telemetry, self._snapshot_steps = store, telemetry, snapshot_steps
        self._published = self._published_fetched = 0.0
        """When anything was published last, and what trainers had been asked for."""
        self._started: dict[str, int] = {}
        self._grown: set[str] = set()
        self._wanted = self._taken_up = self._served = 0
        """Publications that readers have asked for: in all, up to this turn, up to the last one."""
        self._stopping = False
        self._logged: set[str] = set()
        lock = threading.Lock()
        self._news, self._publication = threading.Condition(lock), threading.Condition(lock)
        self.views.are_behind, self.views.refresh = self._is_behind, self._refresh
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Fold what is left, publish, and take a last checkpoint, within the time."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join(timeout_seconds)

    def run_started(self, run_id: str, started_ns: int) -> None:
        """A training process of this run, started then, has introduced itself. Thread-safe.

        After a restart of the sidecar all do, in any order: which run was started last is told by their own times.
        """
        with self._news:
            self._started[run_id] = max(started_ns, self._started.get(run_id, 0))
            self._news.notify()

    def notify(self, run_id: str) -> None:
        """More of this run is committed: it will be seen at the next publication. Thread-safe."""
        with self._news:
            self._grown.add(run_id)

    def live_run_ids(self) -> list[str]:
        """Runs that are training now: the ones hardware readings belong to. Thread-safe."""
        return [id for id, run in self._runs.items() if run.is_active]

    def summary_of(self, run_id: str) -> bytes | None:
        """What `sidecar runs` shows. Thread-safe."""
        run = self._runs.get(run_id)
        if run is None or run.snapshot is None:
            return None
        return msgspec.msgpack.encode(summary(run.snapshot))

    @property
    def _runs(self) -> dict[str, FollowedRun]:
        return self.views.followed

    def _is_behind(self) -> bool:
        may_have_news = self._started or self._grown or any(run.dirty or run.is_active for run in self._runs.values())
        return bool(may_have_news) and time.monotonic() - self._published_fetched >= PUBLISH_SECONDS_MIN

    def _refresh(self) -> None:
        if not self._is_behind():
            return  # What another reader asked for has been published since.
        self.fetch()
        with self._news:
            if not self._stopping:
                self._wanted += 1
                own = self._wanted
                self._news.notify()
                self._publication.wait_for(lambda: self._served >= own, REFRESH_SECONDS_MAX)

    def _run(self) -> None:
        while True:
            try:
                stopping = self._wait_for_news()
                self._turn()
                if stopping and not any(run.behind for run in self._runs.values()):
                    break
            except Exception as error:  # noqa: BLE001 - Task boundary: the view of all runs must go on.
                self._note_fault("a turn of the pipeline", error)
                time.sleep(0.1)
        self._publish(time.time_ns())
        for run_id in self._runs:
            self._save(run_id, CHECKPOINT_AT_STOP_EVENTS)

    def _wait_for_news(self) -> bool:
        """Until something is to be published. Nobody sees what is folded before that, so it is folded all at once."""
        with self._news:
            while not (self._started or self._stopping or any(run.behind for run in self._runs.values())):
                left = self._published + PUBLISH_SECONDS_MAX - time.monotonic()
                if left <= 0 or self._wanted != self._served:
                    break
                self._news.wait(left)
            started, self._started = self._started, {}
            grown, self._grown = self._grown, set()
            self._taken_up, stopping = self._wanted, self._stopping
        for run_id in [*started, *(grown - started.keys())]:
            with self._noting_faults(f"taking up {run_id}"):
                known = None if run_id in started else self._runs.get(run_id)
                run = known or self._follow(run_id, started.get(run_id, 0))
                if run is not None:
                    run.behind = True
        return stopping

    def _follow(self, run_id: str, started_ns: int = 0) -> FollowedRun | None:
        """Put it in its place among the runs: the one last started is the last."""
        run = self._runs.get(run_id) or follow(self._store, run_id)
        if run is not None:
            run.behind = True
            run.started_ns = max(started_ns, run.started_ns)
            others = {id: other for id, other in self._runs.items() if id != run_id}
            runs = dict(sorted((others | {run_id: run}).items(), key=lambda item: item[1].started_ns))
            idle = [id for id, other in runs.items() if not other.is_active and id != run_id]
            leaving = idle[: max(0, len(runs) - FOLLOWED_RUNS_MAX)]
            for id in leaving:
                self._save(id, CHECKPOINT_AT_STOP_EVENTS)
            self.views.followed = {id: other for id, other in runs.items() if id not in leaving}
            for id in leaving:
                runs[id].follower.close()
        return run

    def _turn(self) -> None:
        for run_id, run in self._runs.items():
            if run.behind:
                before, run.behind = run.state.step, False  # Where it cannot be read, until more of it is committed.
                with self._noting_faults(f"reading the journal of {run_id}"):
                    run.advance(self._telemetry)
                self._ask_for_snapshot(run_id, before, run.state.step)
                self._save(run_id, CHECKPOINT_EVENTS)
        now, has_readers = time.monotonic(), self._taken_up != self._served
        if has_readers or now >= self._published + PUBLISH_SECONDS_MAX:
            self._published = now
            if has_readers:
                self._published_fetched = now
            self._publish(time.time_ns())
            with self._news:
                self._served = self._taken_up
                self._publication.notify_all()

    def _publish(self, now_ns: int) -> None:
        for run_id, run in self._runs.items():
            with self._noting_faults(f"publishing {run_id}"):
                if run.publish_if_due(now_ns):
                    self.on_state_changed(run_id)
        self.views.version += 1

    @contextlib.contextmanager
    def _noting_faults(self, what: str) -> Iterator[None]:
        """A task boundary: what goes wrong with one run must not hold up the others."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - See above.
            self._note_fault(what, error)

    def _note_fault(self, what: str, error: Exception) -> None:
        """Counted each time, logged once: it may come again at each publication."""
        self._telemetry.frames_rejected_total["internal_error"] += 1
        fault = f"{what}: {error!r}"
        if fault not in self._logged and len(self._logged) < FAULTS_LOGGED_MAX:
            self._logged.add(fault)
            log.error("%s failed", what, exc_info=error)

    def _ask_for_snapshot(self, run_id: str, before: int | None, step: int | None) -> None:
        if step is not None and (before is None or step // self._snapshot_steps > before // self._snapshot_steps):
            self.on_snapshot_due(run_id, step)

    def _save(self, run_id: str, events_min: int) -> None:
        with self._noting_faults(f"a checkpoint of {run_id}"):
            checkpoint = self._runs[run_id].checkpoint(events_min)
            if checkpoint is not None:
                self.on_checkpoint(run_id, checkpoint)
