"""One run as the charts see it: bounded columns under canonical names, and what is known of the run as a whole.

Given: records with the rows they became, in order. Hands on: a RunData. Never: does I/O, or keeps every row.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar import aliases, wire
from sidecar.charts.pins import Pin, Pins
from sidecar.charts.series import Grid, Point, Total, Track
from sidecar.journal_reader import Record
from sidecar.rows import Projector, Row
from sidecar.snapshot import RunSnapshot

TRACKS_MAX = 160
TOTALS_MAX = 5_000
TEXTS_MAX = 24
PAUSES_MAX = 1024
INTERVALS_MAX = 20_000
DERIVED_OWNER = -1
OWNER_MAX = 1 << 40
EVALUATIONS = ("val/", "eval/")
EVALUATED_SHOWN = 3
ID_ENDING_CHARS_MIN = 6
SETTINGS = ("hyperparams/", "model/", "config/")
"""Settings that a script logs as metrics."""

TRACKED = frozenset({
    "train/loss", "val/loss", "train/accuracy", "val/accuracy", "eval/mean_acc", "train/learning_rate",
    "train/grad_norm", "train/tokens_per_second", "train/samples_per_second", "train/mfu_percent",
    "train/mfu_causal_percent", "train/mfu_reported", "train/num_input_tokens_seen", "system/cpu_percent",
    "system/memory_used_gb", "system/ram_used_gb", "gpu/utilization_percent", "gpu/memory_used_gb",
    "gpu/power_watts", "performance/batch_time_ms",
})  # fmt: skip
TRACKED_ENDS = ("_acc", "/coverage_percent", "/coverage", "/loss", "/tokens_seen", "/samples_seen")
TRACKED_STARTS = ("dataset/", "eval/", "val/")
TOKENS = "train/num_input_tokens_seen"
GPU_MEANS = {"_utilization": "gpu/utilization_percent", "_memory_used_gb": "gpu/memory_used_gb",
             "_power_watts": "gpu/power_watts"}


class StepInterval(NamedTuple):
    """From the end of one step of a rank to the end of a later one."""

    rank: int
    after: int
    step: int
    seconds: float
    pause: float
    """Of these, in phases that the rank itself declared."""


class RunData(msgspec.Struct):
    run_id: str
    project: str = ""
    name: str | None = None
    stage: str | None = None
    """Short form; None when the run was given none."""
    group: str | None = None
    state: str = ""
    source: str = ""
    """The file it was read from."""
    config: dict[str, Any] = {}
    """Flattened: "model.n_layer"."""
    facts: dict[str, Any] = {}
    started_ns: int = 0
    rows_total: int = 0
    removed_rows: int = 0
    """How many of the oldest rows the journal's bound has removed."""
    removed_step: int | None = None
    """The last step among them."""
    damaged_rows: int = 0
    """Rows of the journal that cannot be read, of up to 128 events each."""
    exported_only: bool = False
    """Read from an export without computed rows: what the sidecar measured is not in it."""
    hosts: list[str] = []
    environment: dict[str, Any] = {}
    snapshot: RunSnapshot | None = None
    tracks: dict[str, Any] = {}
    """Canonical name -> Track."""
    totals: dict[str, Any] = {}
    """Canonical name -> Total, for every metric."""
    sent_as: dict[str, str] = {}
    """Canonical name -> the name it was sent under, where they differ."""
    pins: list[Pin] = []
    texts: list[tuple[int | None, str, str]] = []
    grid: Any = None

    id_ending: str = ""
    """What tells it from another run of the same name that is shown with it; empty when there is none."""

    @property
    def label(self) -> str:
        return f"{self.name or self.run_id} ({self.id_ending})" if self.id_ending else str(self.name or self.run_id)

    def track(self, *names: str) -> "Track | None":
        """The first of these that has a finite value."""
        return next((t for name in names if (t := self.tracks.get(name)) is not None and t.count), None)

    def total(self, *names: str) -> "Total | None":
        return next((t for name in names if (t := self.totals.get(name)) is not None and t.count), None)

    def setting(self, which: str) -> float | None:
        """depth, width, batch_size or learning_rate, from the configuration, the model facts, or what was logged."""
        logged = {name.replace("/", "."): total.last
                  for name, total in self.totals.items() if name.startswith(SETTINGS)}
        value = aliases.setting(which, self.config, self.facts, logged)
        if value is None and which == "learning_rate" and (total := self.total("train/learning_rate")):
            return float(total.high)
        return value


def tell_apart(runs: Sequence[RunData]) -> None:
    """Of runs that share a name, the label gets the end of the id: as much as it takes, and not too little to see."""
    by_name: dict[str, set[str]] = {}
    for run in runs:
        by_name.setdefault(run.name or run.run_id, set()).add(run.run_id)
    for run in runs:
        ids = by_name[run.name or run.run_id]
        lengths = range(ID_ENDING_CHARS_MIN, max(map(len, ids)) + 1)
        chars = next((n for n in lengths if len({run_id[-n:] for run_id in ids}) == len(ids)), 0)
        run.id_ending = run.run_id[-chars:] if len(ids) > 1 else ""


class Collector:
    """Folds one run into a RunData."""

    def __init__(self, run_id: str, also: Iterable[str] = ()) -> None:
        self.run = RunData(run_id, grid=Grid(), tracks={}, totals={}, pins=[], texts=[], sent_as={})
        self._also = frozenset(also)
        self._order = 0
        self._step = 0.0
        self._tokens: float | None = None
        self._timers: dict[int, _StepTimer] = {}
        self._slots: dict[str, _Slot] = {}
        self._pauses: dict[int, float] = {}
        self._intervals: deque[StepInterval] = deque()
        self._pins = Pins()
        self._captured = False
        self._stage: str | None = None

    def feed(self, record: Record, rows: list[Row], *, captured: bool) -> None:
        self._captured = captured
        event = record.event
        if isinstance(event, wire.Step):
            self._timer(record).step(self, event, event.step)
        elif isinstance(event, wire.Log):
            self._evaluated(record, event)
            if captured:
                self._captured_step(record, event)
        elif isinstance(event, wire.PhaseEntered):
            self._timer(record).enter()
        elif isinstance(event, wire.PhaseExited):
            self._timer(record).leave(event.seconds, self._pauses)
            if event.name == "evaluation" and event.step is not None:
                self.pin("evaluation", event.step, record.rank, event.time_ns, f"evaluation, {event.seconds:.1f} s")
        elif isinstance(event, wire.Checkpoint) and event.step is not None:
            self.pin("checkpoint", event.step, record.rank, event.time_ns, f"checkpoint {event.name}".strip())
        elif isinstance(event, wire.Gap):
            self.pin("lost", int(self._step), event.rank, event.time_ns, f"{event.count} events lost: {event.reason}")
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        """One row, whoever made it."""
        self._order += 1
        kind = row.kind
        if kind == "text":
            if len(self.run.texts) >= TEXTS_MAX:
                self.run.texts.pop(0)
            self.run.texts.extend((row.step, name, str(text)) for name, text in row.metrics.items())
            return
        if kind in ("histogram", "checkpoint"):
            return
        captured = self._captured and kind in ("log", "late")
        step = aliases.step_of(row.metrics) if captured or row.step is None else row.step
        if step is None:
            step = row.step
        place = self._step if step is None else float(step)
        if kind not in ("hardware", "late") and step is not None:
            self._step = place
        owner = DERIVED_OWNER if kind in ("derived", "hardware") else row.rank
        metrics = _gpu_means(row.metrics) if kind == "hardware" else row.metrics
        slots, when = self._slots, int(row.time * 1e6)
        for name, value in metrics.items():
            if value.__class__ is not float:
                if value.__class__ is not int:
                    if name in aliases.STAGE_KEYS and isinstance(value, str):
                        self._stage = value
                    continue
                value = _float(value)
            slot = slots.get(name)
            if slot is None:
                slot = slots[name] = self._slot(name)
            if owner <= slot.owner and not (slot.alias and slot.known in metrics):
                self._value(slot, value, owner, place, row.time, when)

    def _evaluated(self, record: Record, event: wire.Log) -> None:
        """A row with validation or benchmark numbers is an evaluation, whether or not a phase was declared."""
        names = [name for name in event.metrics if aliases.canonical(name).startswith(EVALUATIONS)]
        if names:
            step = aliases.step_of(event.metrics)
            step = event.step if step is None else step
            more = f" and {len(names) - EVALUATED_SHOWN} more" if len(names) > EVALUATED_SHOWN else ""
            text = ", ".join(f"{name} {event.metrics[name]:.4g}" for name in names[:EVALUATED_SHOWN]
                             if isinstance(event.metrics[name], float | int))
            self.pin("evaluation", int(self._step) if step is None else step, record.rank, event.time_ns, text + more)

    def _captured_step(self, record: Record, event: wire.Log) -> None:
        """A captured script has no step events: its rows with a training loss are its steps."""
        step = aliases.step_of(event.metrics)
        step = event.step if step is None else step
        if step is not None and not event.late and any(aliases.canonical(n) == "train/loss" for n in event.metrics):
            self._timer(record).step(self, event, step)

    def add_interval(self, interval: "StepInterval") -> None:
        """Kept for a while: another rank may still tell that it paused there."""
        self._intervals.append(interval)
        if len(self._intervals) > INTERVALS_MAX:
            self._place(self._intervals.popleft())

    def _place(self, interval: "StepInterval") -> None:
        steps = range(interval.after, interval.step)
        pause = interval.pause or sum(self._pauses.get(after, 0.0) for after in steps[-8:])
        seconds = (interval.seconds - (pause if pause < interval.seconds else 0.0)) / (interval.step - interval.after)
        if seconds > 0:
            self.run.grid.add(interval.rank, interval.step, seconds)

    def pin(self, kind: str, step: int, rank: int, time_ns: int, text: str) -> None:
        self._pins.add(kind, step, rank, time_ns, text)

    def finish(self, projector: Projector, snapshot: RunSnapshot) -> RunData:
        while self._intervals:
            self._place(self._intervals.popleft())
        info, run = projector.info(), self.run
        run.project, run.name, run.group, run.started_ns = info.project, info.name, info.group, info.started_ns
        run.hosts = info.hosts
        run.config, run.facts = aliases.flat(info.config), aliases.flat(info.model_facts)
        words = [info.stage, *(run.config.get(key) for key in aliases.STAGE_KEYS), self._stage]
        run.stage = next((stage for word in words if (stage := aliases.stage_of(word))), None)
        run.snapshot, run.state, run.rows_total = snapshot, snapshot.state, self._order
        run.environment = {"client": info.client, "world_size": info.world_size, "hosts": ", ".join(info.hosts)}
        for alert in snapshot.alerts:
            if alert.step is not None:
                self.pin("alert", alert.step, -1, alert.time_ns, alert.message or alert.name)
        run.pins = self._pins.sorted()
        return run

    def _value(self, slot: "_Slot", value: float, owner: int, step: float, time: float, when: int) -> None:
        """``time``: seconds; ``when``: the same in whole microseconds."""
        if slot.known == TOKENS:
            self._tokens = value
        track = slot.track
        if owner < slot.owner:  # The lowest rank that sends a metric is shown; what was computed, before all.
            slot.owner = owner
            if track is not None and track.cut(step):
                slot.total = self.run.totals[slot.known] = Total()
        slot.total.add(value, step)
        if track is not None:
            track.add(Point(when, step, self._tokens, time, value))

    def _slot(self, name: str) -> "_Slot":
        """Where the values of a name go. Names beyond the limit share one slot that is never read."""
        known, run = aliases.canonical(name), self.run
        if known != name:
            run.sent_as.setdefault(known, name)
            if known in self._slots:
                twin = self._slots[known]
            else:
                twin = self._slots[known] = self._slot(known)
            return _Slot(known, True, twin.total, twin.track)
        total = run.totals.get(name)
        if total is None:
            total = Total()
            if len(run.totals) < TOTALS_MAX:
                run.totals[name] = total
        track = run.tracks.get(name)
        if track is None and self._wanted(name) and len(run.tracks) < TRACKS_MAX:
            track = run.tracks[name] = Track()
        return _Slot(name, False, total, track)

    def _wanted(self, name: str) -> bool:
        return (name in TRACKED or name in self._also
                or (name.startswith(TRACKED_STARTS) and name.endswith(TRACKED_ENDS)))

    def _timer(self, record: Record) -> "_StepTimer":
        clock = self._timers.get(record.rank)
        if clock is None or clock.session != record.session:
            if clock is not None and record.rank >= 0:
                text = f"rank {record.rank} restarted"
                self.pin("restart", int(self._step), record.rank, record.event.time_ns, text)
            clock = self._timers[record.rank] = _StepTimer(record.rank, record.session)
        return clock


class _Slot:
    """Where the values of one name go."""

    __slots__ = ("alias", "known", "owner", "total", "track")

    def __init__(self, known: str, alias: bool, total: Total, track: Track | None) -> None:
        self.known, self.alias, self.total, self.track = known, alias, total, track
        self.owner = OWNER_MAX
        """The lowest rank that has sent it; -1 for what the sidecar computed."""


class _StepTimer:
    """Step times of one process: step end to step end, declared pauses taken out."""

    __slots__ = ("depth", "last_ns", "last_step", "pause", "rank", "session")

    def __init__(self, rank: int, session: int) -> None:
        self.rank, self.session = rank, session
        self.last_ns: int | None = None
        self.last_step = 0
        self.pause = 0.0
        self.depth = 0

    def step(self, collector: Collector, event: wire.Event, step: int) -> None:
        if self.last_ns is not None:
            if step > self.last_step:
                elapsed = (event.mono_ns - self.last_ns) / 1e9
                collector.add_interval(StepInterval(self.rank, self.last_step, step, elapsed, self.pause))
            elif step < self.last_step:
                collector.pin("rework", step, self.rank, event.time_ns, f"back from step {self.last_step} to {step}")
        self.last_ns, self.last_step, self.pause = event.mono_ns, step, 0.0

    def enter(self) -> None:
        self.depth += 1

    def leave(self, seconds: float, pauses: dict[int, float]) -> None:
        """``pauses``: by the step after which they were; when one rank evaluates, the others wait undeclared."""
        self.depth = max(0, self.depth - 1)
        if self.depth == 0 and seconds == seconds and seconds > 0:
            self.pause += seconds
            pauses[self.last_step] = max(pauses.get(self.last_step, 0.0), self.pause)
            if len(pauses) > PAUSES_MAX:
                del pauses[next(iter(pauses))]


def _gpu_means(metrics: dict[str, Any]) -> dict[str, Any]:
    """The row with the mean over its GPUs beside each one's own readings."""
    sums: dict[str, list[float]] = {}
    for name, value in metrics.items():
        if name.startswith("system/gpu_"):
            index, _, rest = name[11:].partition("_")
            mean = GPU_MEANS.get(f"_{rest}")
            if mean is not None and index.isdigit() and type(value) in (int, float):
                sums.setdefault(mean, []).append(value)
    return {**metrics, **{name: sum(values) / len(values) for name, values in sums.items()}} if sums else metrics


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
