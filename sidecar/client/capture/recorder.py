"""Rows as wandb makes them: when calls merge into one row, which step it gets, and what is late.

Given: ``log(data, step, commit)`` calls. Hands on: one Log event for each row that real wandb would store, under its
``_step``; rows that real wandb would drop, marked late; histograms and texts as events of their own.
Never: raises where real wandb does not (it does for a wrong type of data, key, step or value).

The rules, checked against wandb 0.31 by tests/capture: a row stays open until it is committed or a higher step comes.
``commit`` defaults to True without a step and to False with one. A step below the current one is dropped there and
kept here as late. A name with a step metric and step_sync brings that metric's last value into its row.
"""

import atexit
import operator
import os
import threading
import weakref
from collections.abc import Mapping
from time import monotonic_ns, time_ns
from typing import Any

from sidecar import wire
from sidecar.client import values
from sidecar.client.capture import media
from sidecar.client.capture.definitions import Definitions, paths
from sidecar.client.capture.plain import SIMPLE, Bins, plain
from sidecar.client.run import Run

INTERNAL = frozenset(("_step", "_runtime", "_timestamp"))
INT64_MAX = 2**63 - 1
NUMBERS_AND_WORDS = SIMPLE - {type(None)}
OTHER: set[type] = {object}
TEXTS = frozenset((str,))
SUMMARY_PERIOD_NS = 1_000_000_000  # How often minima, means and the like are reported while rows arrive.

_follower: "Recorder | None" = None
_live: "weakref.WeakSet[Recorder]" = weakref.WeakSet()


class Recorder:
    """The rows of one captured run. ``log`` may be called from any thread."""

    def __init__(self, run: Run, first_step: int = 0) -> None:
        self.run = run
        self.step = first_step
        """The step of the next row, real wandb's ``run.step``."""
        self.definitions = Definitions()
        self.finished = False
        self._row: dict[str, Any] | None = None
        self._row_ns = 0
        self._separate_names: set[str] = set()
        self._nested = False
        self._summary_due_ns = 0
        self._tensorboard_row: dict[str, Any] = {}
        self._lock = threading.RLock()
        _live.add(self)

    def log(self, data: Any, step: Any = None, commit: Any = None) -> None:
        """Raises TypeError or ValueError exactly where ``wandb.Run.log`` does, before anything is changed."""
        row: Mapping[str, Any]
        kinds = set(map(type, data.values())) if type(data) is dict else OTHER
        if kinds <= NUMBERS_AND_WORDS and _is_plain(data, kinds):
            row, separate, nested = data, None, False
        else:
            row, separate, nested = _taken(data)
        if self._tensorboard_row:
            self.close_tensorboard_row()
        if step is not None:
            step = _step(step) if self is not _follower else None
        if commit is not None:
            commit = bool(operator.index(commit))
        with self._lock:
            if step is None:
                if commit is None:
                    commit = True
            elif step < self.step:
                self._late(row, separate, step, nested)
                return
            elif step > self.step:
                if self._row is not None:
                    self._close()
                self.step = step
            if separate:
                self._emit_separately(separate, self.step)
                self._separate_names.update(name.partition(".")[0] for name, _ in separate)
            if self._row is not None:
                if nested or self._nested:
                    merge(self._row, row)
                    self._nested = True
                else:
                    self._row.update(row)
            elif commit and separate is None and not nested and not self.definitions.active:
                if self.definitions.explicit:
                    self.definitions.remember(row)
                    self._report_summary()
                else:
                    self.definitions.summary.update(row)  # The usual call: one row, straight into the ring.
                if row is data:
                    self.run._emitter.emit(wire.Log(time_ns(), monotonic_ns(), self._at(), row))
                else:
                    self._write(row, time_ns())
                self.step += 1
                return
            else:
                self._row = merge({}, row) if nested else dict(row)
                self._nested = nested
            self._row_ns = time_ns()
            if commit:
                self.run._hold(None)  # The row has changed since the copy was made.
                self._close()
                self.step += 1
            else:
                self._hold()

    def add_tensorboard_values(self, metrics: Mapping[str, Any], global_step: int | None) -> None:
        """Values that a TensorBoard writer took. Those of one step make one row, with the step as ``global_step``."""
        with self._lock:
            row = self._tensorboard_row
            if row and (row.get("global_step") != global_step or not row.keys().isdisjoint(metrics)):
                self.close_tensorboard_row()
            self._tensorboard_row.update(metrics)
            if global_step is not None:
                self._tensorboard_row["global_step"] = global_step

    def close_tensorboard_row(self) -> None:
        with self._lock:
            row, self._tensorboard_row = self._tensorboard_row, {}
            if row:
                self.log(row)

    def flush(self) -> None:
        """Close the open row, as finish and the end of the process do."""
        with self._lock:
            self.close_tensorboard_row()
            if self._row is not None:
                self._close()
                self.step += 1

    def open_row_for(self, name: str) -> int:
        """Open a row for a value that the caller emits itself as an event of this name; returns the row's step."""
        with self._lock:
            self._row = {} if self._row is None else self._row
            self._row_ns = time_ns()
            self._separate_names.add(name)
            return min(self.step, wire.STEP_MAX)

    def summarise(self, changes: Mapping[str, Any]) -> None:
        """The script set values of its summary. Raises TypeError for what wandb's encoder refuses."""
        found: dict[str, Any] = {}
        for name, value in changes.items():
            kept = media.special(value)
            if kept is None:
                value = plain(value)
                kept = [value] if isinstance(value, Bins) else None
            if kept is None:
                found[str(name)] = value
            elif isinstance(kept[0], Bins):
                found[str(name)] = {"_type": "histogram", "values": kept[0].counts, "bins": kept[0].edges}
            else:
                self.count("media_not_kept")
        with self._lock:
            self.definitions.put(found)
            self._report_summary()

    def forget(self, name: str) -> None:
        """The script deletes a name from its summary."""
        with self._lock:
            self.definitions.drop(name)
            self._report_summary()

    def rename(self, **changes: Any) -> None:
        """The script changed ``name``, ``notes`` or ``tags`` of the run after init."""
        self.run._emit(wire.RunChanged(time_ns(), monotonic_ns(), **changes))

    def text(self, name: str, text: str) -> None:
        self.run.text(name, text, step=min(self.step, wire.STEP_MAX))

    def count(self, reason: str) -> None:
        """Count something that is not kept; /status shows it under ``rejected``."""
        values.count(self.run.rejected, reason)

    def finish(self, exit_code: int | None = None) -> None:
        """Idempotent."""
        if self.finished:
            return
        self.flush()
        self.finished = True
        _live.discard(self)
        if self.definitions.changed:
            self._report_summary()
        if exit_code:
            self.run.finish("failed", reason=f"exit code {exit_code}")
        else:
            self.run.finish()

    def _late(self, row: Mapping[str, Any], separate: Any, step: int, nested: bool) -> None:
        """A row below the current step: real wandb drops it with a warning; here it is kept and marked late."""
        at = step if step >= 0 else None
        if at is None:
            self.count("negative_step")
        if separate:
            self._emit_separately(separate, at)
        row = {name: value for name, value in (flat(row) if nested else row).items() if name not in INTERNAL}
        self.run._emit(wire.Log(time_ns(), monotonic_ns(), at, dict(row), True))

    def _close(self) -> None:
        row, self._row = self._row, None
        assert row is not None
        if not self.definitions.active and self.run._emitter.settle():
            self.definitions.remember(row, nested=self._nested)  # The copy in the ring is the event.
            self._nested = False
            self._separate_names.clear()
            if self.definitions.changed:
                self._report_summary()
            return
        self.run._hold(None)
        self.definitions.complete(row, self._separate_names)
        self._separate_names.clear()
        self._write(flat(row) if self._nested else row, self._row_ns)
        self._nested = False
        if self.definitions.changed and monotonic_ns() >= self._summary_due_ns:
            self._report_summary()

    def _report_summary(self) -> None:
        """Report the summary values that do not follow from the rows: what the script set, minima, means and the like.
        """
        self._summary_due_ns = monotonic_ns() + SUMMARY_PERIOD_NS
        values_now, again = self.definitions.unreported()
        if values_now or again:
            self.run._emit(wire.RunChanged(time_ns(), monotonic_ns(), summary=values_now, summary_follows=again))

    def _hold(self) -> None:
        """Keep a copy of the open row in the ring, so that it survives a kill."""
        row = flat(self._row or {}) if self._nested else self._row
        if 0 <= self.step <= wire.STEP_MAX and row:
            kept = {name: value for name, value in row.items() if name not in INTERNAL} if "_timestamp" in row else row
            self.run._hold(wire.Log(self._row_ns, monotonic_ns(), self.step, kept))

    def _write(self, row: Mapping[str, Any], now_ns: int) -> None:
        if "_timestamp" in row:
            row = dict(row)
            now_ns = _nanoseconds(row.pop("_timestamp"), now_ns)
        self.run._emitter.emit(wire.Log(now_ns, monotonic_ns(), self._at(), row))  # type: ignore[arg-type]

    def _at(self) -> int | None:
        """The step as the wire carries it."""
        return self.step if 0 <= self.step <= wire.STEP_MAX else None

    def _emit_separately(self, separate: list[tuple[str, Any]], step: int | None) -> None:
        for name, value in separate:
            name = values.label(name)
            if isinstance(value, Bins):
                event: wire.Event = wire.Histogram(time_ns(), monotonic_ns(), step, name, value.edges, value.counts)
            elif isinstance(value, str):
                event = wire.Text(time_ns(), monotonic_ns(), step, name, value)
            else:
                self.count("media_not_kept")
                continue
            self.run._emit(event)


def _is_plain(data: dict[Any, Any], kinds: set[type]) -> bool:
    """All names are strings that wandb does not reserve, and all integers fit into 64 bits."""
    if not TEXTS.issuperset(map(type, data)) or "_step" in data or "_runtime" in data or "_timestamp" in data:
        return False
    if int in kinds:
        for value in data.values():
            if value.__class__ is int and not -INT64_MAX <= value <= INT64_MAX:
                return False
    return "" not in data


def _taken(data: Any) -> tuple[Mapping[str, Any], list[tuple[str, Any]] | None, bool]:
    """(row, what becomes events of its own, whether the row has maps) of data that holds more than numbers and strings.
    """
    if not isinstance(data, Mapping):
        raise TypeError("wandb.log must be passed a dictionary")
    if any(not isinstance(name, str) for name in data):
        raise TypeError("Key values passed to `wandb.log` must be strings.")
    found = media.split_row(data)
    return found.row, found.separate or None, found.nested


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Later values win; maps merge with maps. A map without any value in it changes nothing."""
    for name, value in more.items():
        known = into.get(name)
        if type(value) is dict:
            if known is None or any(True for _ in paths(value)):
                into[name] = merge(known if type(known) is dict else {}, value)
        else:
            into[name] = value
    return into


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}: the path under which real wandb stores it. Empty maps leave nothing."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        if type(value) is dict:
            out.update(flat(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def _step(step: Any) -> int:
    """Anything with ``__index__`` (numpy integers, 0-d integer tensors), but no boolean; no float, no string."""
    if isinstance(step, bool):
        raise TypeError("Field wandb_internal.HistoryStep.num: Expected an int, got a boolean.")
    number = operator.index(step)
    if not -INT64_MAX - 1 <= number <= INT64_MAX:
        raise ValueError(f"Value out of range: {number}")
    return number


def _nanoseconds(timestamp: Any, now_ns: int) -> int:
    """A script may log ``_timestamp`` itself, in seconds."""
    if isinstance(timestamp, int | float) and not isinstance(timestamp, bool) and 0 <= timestamp < 2**33:
        return int(timestamp * 1e9)
    return now_ns


def follow_writers(recorder: Recorder | None) -> None:
    """For ``wandb.init(sync_tensorboard=True)``: values written to TensorBoard become rows of this run."""
    global _follower
    _follower = recorder


def follower() -> Recorder | None:
    """The run that records what TensorBoard writers write, if any."""
    return _follower if _follower is not None and not _follower.finished else None


def _flush_all() -> None:
    for recorder in list(_live):
        recorder.flush()


def _new_locks_after_fork() -> None:
    for recorder in list(_live):
        recorder._lock = threading.RLock()


os.register_at_fork(after_in_child=_new_locks_after_fork)
atexit.register(_flush_all)  # Registered after the client's own, so it runs before runs are finished.
__all__ = ["Recorder", "flat", "merge", "plain"]
