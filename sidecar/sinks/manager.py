"""All sinks of all runs: which run gets which sink, one runner for each, their health in one place.

Given: the configuration, the store, the telemetry; then news of runs. Hands on: runners.
Never: blocks its callers (they are the intake), or lets one sink's trouble reach another.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from sidecar import wire
from sidecar.errors import UserError
from sidecar.journal_reader import JournalReader
from sidecar.sinks import egress, ending, registry
from sidecar.sinks.base import Unavailable, reason_of
from sidecar.sinks.cursors import Cursors, cannot_be_used
from sidecar.sinks.factory import RunnerFactory
from sidecar.sinks.health import joined
from sidecar.sinks.period import CONFIGURED, split
from sidecar.sinks.retired import Retired
from sidecar.sinks.runner import SinkRunner
from sidecar.sinks.source import Policy
from sidecar.sinks.trouble import DISK_ERRORS, Trouble
from sidecar.state import ENDS
from sidecar.store import Store
from sidecar.telemetry import SinkHealth, Telemetry

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
MANIFEST_SECONDS = 10.0
RESUMED_RUNS_MAX = 16
SILENT_SECONDS = 30.0  # Processes that go on have introduced themselves again long before.
RUNNERS_MAX = 512


class SinkManager:
    """``config`` needs: dir, sinks, allow_sinks, sink_period_steps, allow, allow_config and the sinks' own fields."""

    def __init__(
        self, config: Any, store: Store, telemetry: Telemetry, *, policy: Policy | None = None, resumes: bool = False
    ) -> None:
        """``resumes``: send what an earlier sidecar of this directory had not, of runs that have ended since, and in a
        while of those that nobody speaks for: their host crashed."""
        self._config, self._store, self._telemetry = config, store, telemetry
        self._policy = policy or Policy(
            period_steps=getattr(config, "sink_period_steps", 1), names=getattr(config, "names", None)
        )
        self._configured = registry.names(config.sinks)  # Raises UnknownSink: at start, where the user sees it.
        self._lock = threading.RLock()
        self._runners: dict[tuple[str, str], SinkRunner] = {}
        self._wanted: dict[str, list[str]] = {}
        self._chosen: set[str] = set()
        """Runs whose processes were heard of. A sink may be wanted for others: it was added late, or goes on."""
        self._waiting: dict[tuple[str, str], float] = {}
        """Sinks that wait for rank 0, and since when."""
        self._unbound: dict[str, wire.Hello] = {}
        """By run: of the lowest rank whose sinks could not be started for an error of the disk."""
        self._factory = RunnerFactory(config, store, self._policy)
        began = time.monotonic()
        self._resumes = [(began, ENDS), (began + SILENT_SECONDS, None)] if resumes else []
        """When runs in which of these states (None: in any) are taken up that an earlier sidecar left."""
        self._orders: list[tuple[str, str]] = []
        """Runs and sinks that another process asked for, and that are not yet bound."""
        self._manifests = egress.Manifests(Path(config.dir))
        self._retired = Retired()
        self._trouble = Trouble(telemetry.sinks)
        self._cursors: Cursors | None = None
        self._closing = threading.Event()
        for name in self._configured:
            telemetry.sinks[name] = SinkHealth(lag_events=0)
        self._ticker = threading.Thread(target=self._tick, name="sinks-ticker", daemon=True)
        self._ticker.start()

    # --- called by the intake, and by whoever shows or stops the sinks

    def run_started(self, hello: wire.Hello) -> None:
        """A training process introduced itself; called for every rank and session, so mostly there is nothing new."""
        with self._lock:
            if self._closing.is_set():
                return
            try:
                self._bind(hello)
            except DISK_ERRORS as error:
                known = self._unbound.setdefault(hello.run_id, hello)
                self._unbound[hello.run_id] = min(known, hello, key=lambda each: each.rank)
                self._trouble.found(error, self._not_running())
            self._publish()

    def notify(self, run_id: str) -> None:
        """New rows of this run are committed."""
        with self._lock:
            for name in self._wanted.get(run_id, ()):
                runner = self._runners.get((run_id, name))
                if runner is not None:
                    runner.notify()
                else:
                    self._retired.notify((run_id, name))
            if not self._closing.is_set():
                with contextlib.suppress(*DISK_ERRORS):  # The ticker tries again.
                    self._restart_ended(run_id)

    def add(self, run_id: str, name: str) -> None:
        """A sink bound late: it gets the run from its first row, then live. Raises UnknownSink, SinkNotInstalled."""
        registry.load(name)
        with self._lock:
            wanted = self._wanted.setdefault(run_id, [])
            if name not in wanted:
                wanted.append(name)
            self._start(run_id, name)
            self._publish()

    def health(self, run_id: str, name: str) -> SinkHealth | None:
        """Of one runner; telemetry.sinks has those of all runs joined."""
        runner = self._runners.get((run_id, name))
        return runner.health if runner is not None else None

    def passed_row(self, run_id: str) -> int | None:
        """The last journal row that every sink of this run has delivered, and the far end confirmed where it can;
        None when it has none. What is paused or fails is waited for; what is disabled is not."""
        with self._lock:
            if run_id in self._unbound:
                return 0
            names = list(self._wanted.get(run_id, ()))
            runners = {name: self._runners.get((run_id, name)) for name in names}
        passed = []
        for name, runner in runners.items():
            if runner is None or runner.health.state == "disabled":
                continue
            cursor, confirmed = self._open_cursors().get(run_id, name), runner.confirmed
            if confirmed is None or confirmed >= cursor.number:
                passed.append(cursor.row)
            else:
                passed.append(self._row_before(run_id, confirmed))
        return min(passed, default=None)

    def drained(self, run_ids: Container[str] | None = None) -> bool:
        """Has every sink everything that it will get for now, of these runs or of all? A failing one has not."""
        return all(runner.drained for runner in self._runners_of(run_ids))

    def is_worth_waiting(self, run_ids: Container[str] | None = None) -> bool:
        """Will a sink that lacks rows of these runs, or of any, perhaps get them soon? Not one that keeps failing."""
        return ending.is_worth_waiting(self._runners_of(run_ids))

    def close(self, timeout_seconds: float) -> None:
        """Let every sink deliver what is left and close, all at once, within the time; then give up on the rest."""
        deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        runners = self._runners_of(None)
        ending.end(runners, timeout_seconds)
        self._ticker.join(max(0.0, deadline - time.monotonic()))
        self._manifests.write(self._factory.gates)
        self._publish()
        if self._cursors is not None and all(runner.ended for runner in runners):
            self._cursors.close()

    def _runners_of(self, run_ids: Container[str] | None) -> list[SinkRunner]:
        with self._lock:
            return [runner for (run, _), runner in self._runners.items() if run_ids is None or run in run_ids]

    def _row_before(self, run_id: str, number: int) -> int:
        """A journal row whose output surely lies before row of output ``number``."""
        with contextlib.closing(JournalReader(self._store.path(run_id))) as reader:
            checkpoint = reader.checkpoint(number)
            return checkpoint.row if checkpoint else 0

    # --- choosing

    def _bind(self, hello: wire.Hello) -> None:
        if hello.run_id not in self._chosen:
            late = self._wanted.get(hello.run_id, [])
            self._wanted[hello.run_id] = list(dict.fromkeys([*self._choose(hello), *late]))
            self._chosen.add(hello.run_id)
            for name in self._wanted[hello.run_id]:
                if runner := self._runners.get((hello.run_id, name)):
                    runner.expects_more = True
        for name in self._wanted[hello.run_id]:
            key = (hello.run_id, name)
            if hello.rank == 0 or key in self._runners or not self._only_rank_0(name):
                self._waiting.pop(key, None)
                self._start(hello.run_id, name)
            else:
                self._waiting.setdefault(key, time.monotonic())

    def _choose(self, hello: wire.Hello) -> list[str]:
        """The configured sinks, or those the trainer asked for as far as they are allowed; and any added late."""
        if hello.sinks is None:
            chosen = list(self._configured)
        else:
            chosen = self._asked_for(hello.sinks)
            for name in self._configured:
                if name not in chosen:
                    self._disabled(name, f"disabled: this run asked for {', '.join(hello.sinks) or 'no sinks'}")
        late = self._open_cursors().of_run(hello.run_id)
        return list(dict.fromkeys([*chosen, *(name for name in late if name in registry.known())]))

    def _asked_for(self, words: Iterable[str]) -> list[str]:
        chosen: list[str] = []
        for word in (split(word)[0] for word in words):
            if word == CONFIGURED:
                chosen += self._configured
            elif word == "dummy":  # A dummy run stays off W&B; what is local goes on.
                chosen += [name for name in self._configured if name != "wandb"]
            elif word not in registry.OFF and self._permitted(word):
                chosen.append(word)
        return list(dict.fromkeys(chosen))

    def _permitted(self, name: str) -> bool:
        allowed = self._config.allow_sinks
        if allowed is not None and name not in allowed and name not in self._configured:
            self._disabled(name, "disabled: not in --allow-sinks of this sidecar")
            return False
        try:
            registry.target_of(name)
        except registry.UnknownSink as error:
            self._disabled(name[:40], f"disabled: {error.cause}; {error.remedy}")
            return False
        return True

    def _only_rank_0(self, name: str) -> bool:
        """What leaves the machine is sent once for a run: by the sidecar of the node that has rank 0."""
        try:
            only = getattr(registry.load(name), "leaves_machine", True)
        except registry.SinkNotInstalled:
            return False  # To be reported when it is started.
        if only:
            self._explain(name, SinkHealth(reason="waits for rank 0, whose node publishes for all ranks"))
        return only

    def _disabled(self, name: str, reason: str) -> None:
        self._explain(name, SinkHealth(state="disabled", reason=reason))

    def _explain(self, name: str, health: SinkHealth) -> None:
        """Why nothing is sent, unless it is for another run."""
        if not any(key[1] == name for key in self._runners):
            self._telemetry.sinks[name] = health

    def _not_running(self) -> list[str]:
        """The configured sinks that no run has a runner for."""
        running = {name for _, name in self._runners}
        return [name for name in self._configured if name not in running]

    # --- runners

    def _start(self, run_id: str, name: str) -> SinkRunner | None:
        key = (run_id, name)
        existing = self._runners.get(key)
        if self._closing.is_set() or (
            existing is not None and (not existing.ended or existing.health.state == "disabled")
        ):
            return existing
        if sum(not runner.ended for runner in self._runners.values()) >= RUNNERS_MAX:
            self._disabled(name, f"disabled: {RUNNERS_MAX} sinks are running already")
            return None
        try:
            runner = self._factory.make(run_id, name, self._open_cursors(), existing.health if existing else None)
        except UserError as error:
            self._disabled(name, f"disabled: {error.cause}; {error.remedy}")
            return None
        except (ValueError, OSError) as error:  # A bad option, or its folder cannot be made.
            self._disabled(name, f"disabled: {reason_of(error)}")
            return None
        runner.expects_more = run_id in self._chosen
        self._open_cursors().request(run_id, name)  # So that it counts as unsent from now on.
        self._runners[key] = runner
        self._retired.started(key)
        runner.start()
        return runner

    def _restart_ended(self, run_id: str) -> None:
        """A run that was over has news."""
        for name in self._wanted.get(run_id, ()):
            runner = self._runners.get((run_id, name))
            if self._retired.is_wanted((run_id, name)) or (runner is not None and runner.has_news):
                self._start(run_id, name)

    def _open_cursors(self) -> Cursors:
        if self._cursors is None:
            path = Path(self._config.dir) / "cursors.sqlite"
            try:
                self._cursors = Cursors(path)
            except DISK_ERRORS as error:
                raise Unavailable(cannot_be_used(path, error)) from error
        return self._cursors

    # --- health

    def _tick(self) -> None:
        next_manifest = time.monotonic() + MANIFEST_SECONDS
        while not self._closing.wait(TICK_SECONDS):
            try:
                self._measure_lags()
                cursors = self._open_cursors()
                if self._resumes and time.monotonic() >= self._resumes[0][0]:
                    self._orders += self._left_by_earlier_ones(cursors, self._resumes[0][1])
                    del self._resumes[0]
                bound = list(cursors.all())  # Without our lock, for which the intake waits: these may wait for a disk.
                self._orders += cursors.take_orders()
                with self._lock:
                    self._bind_again()
                    for run_id in self._wanted:
                        self._restart_ended(run_id)
                    self._adopt_late_ones(bound)
                    self._start_as_further_nodes()
                    self._publish()
                    self._trouble.over(self._not_running())
                if time.monotonic() >= next_manifest:
                    self._retire()
                    next_manifest = time.monotonic() + MANIFEST_SECONDS
            except Exception as error:  # noqa: BLE001 - task boundary: one failed reading must not end the ticker.
                with self._lock:
                    self._trouble.found(error, self._not_running())

    def _retire(self) -> None:
        """Write the manifests, and let go what is over, so that memory does not grow with the number of runs."""
        with self._lock:
            over = self._retired.due(self._runners, self._chosen)
        failed = self._manifests.write(self._factory.gates)
        with self._lock:
            for key in over:
                runner = self._runners[key]
                if key[0] not in failed and runner.ended and not runner.has_news:
                    self._retired.add(key, runner.health)
                    del self._runners[key]
                    self._factory.gates.pop(key, None)
                    self._manifests.forget(key[0])

    def _bind_again(self) -> None:
        for run_id, hello in list(self._unbound.items()):
            self._bind(hello)
            del self._unbound[run_id]

    def _start_as_further_nodes(self) -> None:
        """Rank 0 is not on this node: what is published here is labelled as this node's share of the run."""
        for (run_id, name), since in list(self._waiting.items()):
            if time.monotonic() - since >= self._policy.node_seconds:
                with contextlib.suppress(UserError):
                    if getattr(registry.load(name), "per_node", False):
                        self._start(run_id, name)
                del self._waiting[run_id, name]

    def _adopt_late_ones(self, bound: Iterable[tuple[str, str]]) -> None:
        """`sidecar sink add` of another process writes a cursor and an order; they are taken up within a second."""
        for run_id, name in bound:
            if run_id in self._wanted and name not in self._wanted[run_id] and name in registry.known():
                log.info("sink %s was added to run %s", name, run_id)
                self._wanted[run_id].append(name)
                self._start(run_id, name)
        while self._orders:
            run_id, name = self._orders[0]
            try:
                self.add(run_id, name)
            except UserError as error:
                self._disabled(name, f"disabled: {error.cause}; {error.remedy}")
            del self._orders[0]  # Where the disk is full it stays, and is tried again.

    def _left_by_earlier_ones(self, cursors: Cursors, states: tuple[str, ...] | None) -> list[tuple[str, str]]:
        """Of the runs that were started last, those that a sink has not got whole, as far as is known. A run that goes
        on says so itself."""
        unconfirmed, found = cursors.unconfirmed(), []
        for run in self._store.runs()[:RESUMED_RUNS_MAX]:
            if run.run_id in self._chosen or (states is not None and run.state not in states):
                continue
            with contextlib.suppress(*DISK_ERRORS), contextlib.closing(JournalReader(run.path)) as reader:
                last_row = reader.last_row()
                found += [
                    (run.run_id, name) for name, cursor in cursors.of_run(run.run_id).items()
                    if name in registry.known() and (cursor.row < last_row or (run.run_id, name) in unconfirmed)
                ]  # fmt: skip
        return found

    def _measure_lags(self) -> None:
        """For sinks that are stuck and cannot say how far behind they are."""
        with self._lock:
            behind = [runner for runner in self._runners.values() if runner.is_behind]
        for run_id in {runner.run_id for runner in behind}:
            own = [runner for runner in behind if runner.run_id == run_id]
            try:
                with contextlib.closing(JournalReader(self._store.path(run_id))) as reader:
                    for runner in own:
                        runner.measure_lag(reader)
            except DISK_ERRORS:  # Its journal was removed, say, as its runner will find out. Other runs go on.
                for runner in own:
                    runner.health.lag_events = runner.health.lag_seconds = None

    def _publish(self) -> None:
        """One SinkHealth per sink name: that of the run heard of last, with the counts of all."""
        by_name: dict[str, dict[str, SinkHealth]] = {}
        late_first = sorted(self._runners.items(), key=lambda item: item[0][0] in self._chosen)
        for (run_id, name), runner in late_first:
            by_name.setdefault(name, {})[run_id] = runner.health
        for name, by_run in by_name.items():
            (first, *more) = by_run.values()
            before = self._retired.counts.get(name)
            self._telemetry.sinks[name] = joined(by_run, before) if more or before else first
