"""Rows: what every outlet receives, exactly as ``sidecar export`` prints it.

Given: journal records of one run, in order. Hands on: rows, in order, deterministically.
Never: reads a clock, does I/O, or depends on how records were batched: a late sink gets identical values.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from sidecar import wire
from sidecar.fold import Record, apply, greet, plain_step, ready_records, step_ended
from sidecar.state import RunState, exit_code_of
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
    exit_code: int | None = None
    """Of the command that ended with the run; None when no launcher has told."""
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
        exit_code=exit_code_of(state), summary=dict(state.summary),
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
