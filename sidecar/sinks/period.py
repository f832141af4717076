"""Fewer rows for outlets that need not have all: every so many steps, chosen, never averaged. Pure.

Given: rows, in order. Hands on: as many rows; those that are left out have no metrics.
Never: changes a value, or drops what is not periodic (validation, logs, texts).

Hardware is read on a clock, not by step: of its readings the first after a published step is kept, and beside each
value its min, mean and max over the readings since the one before (names end in _min, _mean, _max).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.rows import Row

PERIODIC = ("step", "derived")


class Thinner:
    """Holds the summary of the readings that were left out."""

    def __init__(self, period_steps: int) -> None:
        self._period = period_steps
        self._due = True
        self._readings: dict[str, tuple[float, float, int, float]] = {}

    def feed(self, rows: Sequence[Row]) -> list[Row]:
        return list(rows) if self._period <= 1 else [self._row(row) for row in rows]

    def _row(self, row: Row) -> Row:
        if row.kind == "hardware":
            return self._hardware(row)
        if row.kind not in PERIODIC or row.step is None:
            return row
        if row.step % self._period:
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
