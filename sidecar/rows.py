"""Rows: what every outlet receives, exactly as ``sidecar export`` prints it.

Given: journal records of one run, in order. Hands on: rows, in order, deterministically.
Never: reads a clock, does I/O, or depends on how records were batched: a late sink gets identical values.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from sidecar import wire
from sidecar.fold import Record, apply, greet, plain_step, ready_records, step_ended
from sidecar.state import RunState
from sidecar.wire import NAME_BYTES_MAX, SIDECAR_RANK, Hello, Value


class Row(msgspec.Struct):
    """One line of the export."""

    run: str
    rank: int
    seq: int
    step: int | None
    time: float
    """Wall clock of the emitting process, seconds since the epoch."""
    kind: str
    """step | log | late | text | histogram | phase | dataset | checkpoint | hardware | derived"""
    metrics: dict[str, Value]
    """Text rows: {name: text}. Histogram rows: {name: {"edges": [...], "counts": [...]}}."""


class RunInfo(msgspec.Struct):
    """What is known of a run as a whole, merged from the Hellos of its ranks."""

    run_id: str
    project: str = ""
    name: str | None = None
    stage: str | None = None
    group: str | None = None
    tags: list[str] = []
    notes: str | None = None
    entity: str | None = None
    config: dict[str, Any] = {}
    model_facts: dict[str, Any] = {}
    total_steps: int | None = None
    world_size: int = 1
    started_ns: int = 0
    launch_id: str = ""
    sinks: list[str] | None = None
    captured: str | None = None
    client: str = ""
    hosts: list[str] = []
    end: str | None = None
    """finished | failed | lost; None while it goes on."""
    node: int | None = None
    """Lowest rank of this node, where that is not 0: then another node has the run as a whole."""
    alerts: list[tuple[str, str, str, int | None]] = []
    """Warnings for people: (name, severity, text, step), each name once."""
    summary: dict[str, Any] = {}
    """One value for each name where that is not the last one logged; None: the name is in no summary."""


class Projector:
    """One run's records in, rows out; holds the run's state on the way.

    Each step row is followed, once all ranks that live have reported that step, by one row of kind ``derived``.
    Phases and dataset consumption that ride on a step come out as rows of their own before it.
    """

    def __init__(self, run_id: str, state: RunState | None = None) -> None:
        self.state = state if state is not None else RunState(run_id)

    def greet(self, hello: Hello, received_ns: int) -> None:
        greet(self.state, hello, received_ns)

    def feed(self, record: Record) -> list[Row]:
        state = self.state
        rows: list[Row] = []
        ready = plain_step(state, record)
        if ready is not None:
            if step_ended(state, ready, record.seq, record.event):
                _step(rows, state.run_id, ready.rank, record.seq, record.event)
                if state.emitted:
                    self._derived(rows, 0)
            if "name_too_long" in state.rejected:
                _drop_long_names(rows)
            return rows
        return self._feed(record, rows)

    def _feed(self, record: Record, rows: list[Row]) -> list[Row]:
        """The general case: records that waited, sessions that begin or end, everything but a plain step."""
        state = self.state
        done = 0
        for ready in ready_records(state, record):
            if len(state.emitted) > done:  # A new process's arrival completed steps of the one before.
                done = self._derived(rows, done)
            if not apply(state, ready):
                continue
            rank, seq, event = ready
            make = ROWS.get(type(event))
            if make is not None:
                make(rows, state.run_id, rank.rank, seq, event)
            if state.emitted:
                done = self._derived(rows, done)
        if len(state.emitted) > done:
            self._derived(rows, done)
        if "name_too_long" in state.rejected:
            _drop_long_names(rows)
        return rows

    def info(self) -> RunInfo:
        return run_info(self.state)

    def _derived(self, rows: list[Row], done: int) -> int:
        run_id, emitted = self.state.run_id, self.state.emitted
        for seq, step, time, metrics in emitted[done:] if done else emitted:
            rows.append(Row(run_id, SIDECAR_RANK, seq, step, time, "derived", metrics))
        return len(emitted)


def run_info(state: RunState) -> RunInfo:
    """A copy, so that what a sink was opened with does not change while it is used."""
    return RunInfo(
        state.run_id, state.project, state.name, state.stage, state.group, list(state.tags), state.notes,
        state.entity, dict(state.config), dict(state.facts), state.total_steps, state.world_size, state.started_ns,
        state.launch_id, state.sinks, state.captured, state.client, list(state.hosts),
        summary=dict(state.summary),
    )


def _drop_long_names(rows: list[Row]) -> None:
    for row in rows:
        if any(len(name.encode()) > NAME_BYTES_MAX for name in row.metrics):
            row.metrics = {name: v for name, v in row.metrics.items() if len(name.encode()) <= NAME_BYTES_MAX}


def _step(rows: list[Row], run: str, rank: int, seq: int, event: wire.Step) -> None:
    time = event.time_ns / 1e9
    if event.phases:
        metrics: dict[str, Value] = {f"phase/{name}": seconds for name, seconds in event.phases.items()}
        rows.append(Row(run, rank, seq, event.step, time, "phase", metrics))
    if event.datasets:
        rows.append(Row(run, rank, seq, event.step, time, "dataset", _datasets(event.datasets)))
    rows.append(Row(run, rank, seq, event.step, time, "step", event.metrics))


def _datasets(consumed: dict[str, tuple[int, int]]) -> dict[str, Value]:
    metrics: dict[str, Value] = {}
    for name, (samples, tokens) in consumed.items():
        metrics[f"dataset/{name}/samples"] = samples
        metrics[f"dataset/{name}/tokens"] = tokens
    return metrics


def _log(rows: list[Row], run: str, rank: int, seq: int, event: wire.Log) -> None:
    kind = "late" if event.late else "log"
    rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, kind, event.metrics))


def _text(rows: list[Row], run: str, rank: int, seq: int, event: wire.Text) -> None:
    rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, "text", {event.name: event.text}))


def _histogram(rows: list[Row], run: str, rank: int, seq: int, event: wire.Histogram) -> None:
    value: dict[str, Any] = {"edges": event.edges, "counts": event.counts}
    rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, "histogram", {event.name: value}))


def _phase(rows: list[Row], run: str, rank: int, seq: int, event: wire.PhaseExited) -> None:
    metrics: dict[str, Value] = {f"phase/{event.name}": event.seconds}
    rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, "phase", metrics))


def _consumed(rows: list[Row], run: str, rank: int, seq: int, event: wire.Consumed) -> None:
    if event.datasets:
        metrics = _datasets(event.datasets)
        rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, "dataset", metrics))


def _checkpoint(rows: list[Row], run: str, rank: int, seq: int, event: wire.Checkpoint) -> None:
    given = {"seconds": event.seconds, "bytes": event.bytes, "name": event.name or None, "path": event.path or None}
    metrics: dict[str, Value] = {f"checkpoint/{key}": value for key, value in given.items() if value is not None}
    rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, "checkpoint", metrics))


def _hardware(rows: list[Row], run: str, rank: int, seq: int, event: wire.Hardware) -> None:
    metrics: dict[str, Value] = {}
    for key, value in event.host.items():
        if "@" not in key:  # name@pid and name@mount: one of several; their sum, or the first, has the plain name.
            name, scaled = display("system/", key, value)
            metrics[name] = scaled
    for position, readings in enumerate(event.gpus):
        prefix = f"system/gpu_{readings.get('index', position)}_"
        if (part := readings.get("mig_index")) is not None:
            prefix += f"mig_{part}_"
        for key, value in readings.items():
            if type(value) in (int, float) and key not in ("index", "mig_index"):
                name, scaled = display(prefix, key, value)
                metrics[name] = scaled
        throttled = readings.get("throttle_seconds")
        if isinstance(throttled, dict):
            metrics |= {f"{prefix}throttle_{reason}_seconds": seconds for reason, seconds in throttled.items()}
    if metrics:
        rows.append(Row(run, rank, seq, event.step, event.time_ns / 1e9, "hardware", metrics))


SHOWN = {"utilization_percent": "utilization", "memory_utilization_percent": "memory_utilization"}
"""GPU readings whose published names do not have the unit."""


def display(prefix: str, key: str, value: float) -> tuple[str, float]:
    """A reading in base units under its W&B name: bytes as GB (1e9), the rest as it is."""
    if key.endswith("_bytes"):
        return f"{prefix}{key[:-6]}_gb", value / 1e9
    if prefix != "system/":
        key = SHOWN.get(key, key)
    return prefix + key, value


ROWS: dict[type, Callable[[list[Row], str, int, int, Any], None]] = {
    wire.Step: _step,
    wire.Log: _log,
    wire.Text: _text,
    wire.Histogram: _histogram,
    wire.PhaseExited: _phase,
    wire.Consumed: _consumed,
    wire.Checkpoint: _checkpoint,
    wire.Hardware: _hardware,
}


STEPS_WAITING_MAX = 128


class Merger:
    """Makes one row of each step: the lowest rank's values, overlaid with the derived ones.

    Kind ``step``; rank and seq are those of the lowest rank's row. Rows of other kinds pass through. A step without a
    derived row is handed on alone after 128 further ones, or by ``flush``.
    """

    def __init__(self, waiting: dict[int, Row] | None = None) -> None:
        self.waiting: dict[int, Row] = dict(waiting or {})
        """Rows by step whose derived row has not come. Give it to a new Merger to go on where this one stopped."""
        self._lowest: tuple[int, int] | None = None
        """The lowest rank so far, and the last step it reported."""

    def feed(self, rows: Iterable[Row]) -> list[Row]:
        out: list[Row] = []
        for row in rows:
            if row.step is None or row.kind not in ("step", "derived"):
                out.append(row)
            elif row.kind == "step":
                self._keep(row.step, row, out)
            else:
                out.append(_merge(self.waiting.pop(row.step, None), row))
        return out

    def flush(self) -> list[Row]:
        out = list(self.waiting.values())
        self.waiting.clear()
        return out

    def _keep(self, step: int, row: Row, out: list[Row]) -> None:
        if self._lowest is None or row.rank <= self._lowest[0]:
            self._lowest = row.rank, step
        elif step <= self._lowest[1]:  # The lowest rank's row is waiting, or was handed on already.
            return
        known = self.waiting.get(step)
        if known is not None and row.rank > known.rank:
            return
        if known is not None and row.rank == known.rank:  # The same process reported the step again.
            row = _with(known, {**known.metrics, **row.metrics})
        self.waiting[step] = row
        if len(self.waiting) > STEPS_WAITING_MAX:
            out.append(self.waiting.pop(next(iter(self.waiting))))


def _with(row: Row, metrics: dict[str, Value]) -> Row:
    return Row(row.run, row.rank, row.seq, row.step, row.time, row.kind, metrics)


def _merge(sent: Row | None, derived: Row) -> Row:
    if sent is None:
        return Row(derived.run, derived.rank, derived.seq, derived.step, derived.time, "step", derived.metrics)
    return _with(sent, {**sent.metrics, **derived.metrics})


def merged_rows(rows: Iterable[Row]) -> list[Row]:
    """What a Merger makes of all these rows."""
    merger = Merger()
    return [*merger.feed(rows), *merger.flush()]
