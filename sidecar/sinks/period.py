"""Fewer rows for outlets that do not need every step: each N-th step is kept, nothing is averaged. Pure.

Given: rows, in order. Hands on: as many rows; those that are left out have no metrics.
Never: changes a value, or drops what is not periodic (validation, logs, texts, an evaluation's time).

Hardware is read on a clock, not by step: of its readings the first after a published step is kept, and beside each
value its min, mean and max over the readings since the one before (names end in _min, _mean, _max).
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from sidecar.rows import Row, RunInfo

PRESETS = {"pretrain": 100, "midtrain": 10, "sft": 50}
"""Steps between two publications by stage, as nanochat-style scripts have them."""
OTHER_STAGES = 10
"""The same for every other stage."""
CONFIGURED = "configured"
"""In ``init(sinks=...)``: whatever the sidecar itself was told to use."""

Period = int | Literal["preset"]

PERIODIC = ("step", "derived")
RIDING = ("phase", "dataset")
"""They come with a step's row, before it and under its number, or on their own; then they are not periodic."""


def period_of(asked: Period | None, sink: str, run: RunInfo) -> int:
    """Steps between two publications. What the sidecar was told (``--sink-period``) beats what the run asks for by
    ``init(sinks=["wandb:10"])``; neither: every step. None: a local outlet, which only its own word makes rarer."""
    found = {name: steps for name, steps in map(split, run.sinks or ()) if steps}
    if asked is None:
        return found.get(sink, 1)
    if asked == "preset":
        own = run.config.get("log_train_freq")
        other = own if type(own) is int and own > 0 else OTHER_STAGES
        return PRESETS.get(run.stage or "", other)
    if asked > 1:
        return asked
    return found.get(sink) or found.get(CONFIGURED) or 1


def split(word: str) -> tuple[str, int | None]:
    """"wandb:10" as ("wandb", 10); no period, or one that is no number of steps, is None."""
    name, _, steps = word.strip().lower().partition(":")
    return name, int(steps) if steps.isascii() and steps.isdigit() and int(steps) > 0 else None


class StepSampler:
    """Leaves steps out; remembers the readings that were left out for their minimum, mean and maximum."""

    def __init__(self) -> None:
        self._due = True
        self._readings: dict[str, tuple[float, float, int, float]] = {}

    def feed(self, rows: Sequence[Row], period_steps: int) -> list[Row]:
        """``rows`` holds whole records: what rides on a step is there together with it."""
        if period_steps <= 1:
            return list(rows)
        steps = {(row.rank, row.seq) for row in rows if row.kind == "step"}
        return [self._row(row, row.kind in RIDING and (row.rank, row.seq) in steps, period_steps) for row in rows]

    def _row(self, row: Row, riding: bool, period_steps: int) -> Row:
        if row.kind == "hardware":
            return self._hardware(row)
        if row.step is None or not (riding or row.kind in PERIODIC):
            return row
        if row.step % period_steps:
            return _without(row)
        self._due = True
        return row

    def _hardware(self, row: Row) -> Row:
        for name, value in row.metrics.items():
            if isinstance(value, int | float):
                self._add(name, float(value))
        if not self._due:
            return _without(row)
        metrics: dict[str, Any] = dict(row.metrics)
        for name, (low, total, count, high) in self._readings.items():
            metrics |= {f"{name}_min": low, f"{name}_mean": total / count, f"{name}_max": high}
        self._due, self._readings = False, {}
        return msgspec.structs.replace(row, metrics=metrics)

    def _add(self, name: str, value: float) -> None:
        low, total, count, high = self._readings.get(name, (value, 0.0, 0, value))
        self._readings[name] = (min(low, value), total + value, count + 1, max(high, value))


def _without(row: Row) -> Row:
    return msgspec.structs.replace(row, metrics={})
