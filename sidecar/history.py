"""The shape of every metric over a whole run, in bounded memory.

Given: rows, in any order, from one writer. Hands on: series with a limited number of points, by step, tokens or time.
Never: does I/O, reads a clock, or loses an extreme: each bucket keeps its lowest and highest value, so that a single
spike in a million steps stays visible.

A series is a list of buckets. When it is full, neighbours are merged pairwise and each new bucket takes twice as
many values; the cost of a value is therefore constant. Rows are buffered and taken in batches, which is ten times as
fast as one by one. Readers may call from other threads.
"""

import math
import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from sidecar.columns import Batch, Column, RowLike
from sidecar.series import Series, state_of

Axis = Literal["step", "tokens", "time"]
AXES: tuple[Axis, ...] = ("step", "tokens", "time")

SERIES_MAX = 10_000
BUCKETS_MAX = 2_048
BUCKETS_MIN = 64
BUCKETS_TOTAL = 500_000  # 28 MB at 57 bytes a bucket; 84 MB were measured at the limit of 10,000 series.
BATCH_ROWS = 2_048
POINTS_MAX = 5_000
UNKNOWN = math.nan


class History:
    """All series of one run."""

    def __init__(
        self, *, series_max: int = SERIES_MAX, buckets_max: int = BUCKETS_MAX, buckets_total: int = BUCKETS_TOTAL
    ) -> None:
        self._series: dict[str, Series] = {}
        self._series_max, self._buckets_max, self._buckets_total = series_max, buckets_max, buckets_total
        self._pending: list[RowLike] = []
        self._lock = threading.Lock()
        self._step, self._tokens = UNKNOWN, UNKNOWN
        self.values_dropped_total = 0
        """Values dropped because there were too many series already."""

    def add(self, row: RowLike) -> None:
        """Take one row. Values that are not numbers are skipped."""
        self.extend((row,))

    def extend(self, rows: Sequence[RowLike]) -> None:
        """Take rows in their order."""
        with self._lock:
            self._pending += rows
            if len(self._pending) >= BATCH_ROWS:
                self._drain()

    def names(self) -> list[str]:
        """Metrics that have at least one number, sorted."""
        with self._lock:
            self._drain()
            return sorted(self._series)

    def query(self, names: Sequence[str], points: int = 500, x: Axis = "step") -> dict[str, Any]:
        """Thin the named series to a common axis of at most ``points`` places.

        Returns {"x": [...], "series": {name: {"values", "min", "max", "states"}}}; all lists are as long as x.
        ``values`` is the mean of the finite values at that place, null where there is none. Where a run went back and
        did steps again, it is the mean of the last time; the extremes are those of all times. ``states`` is null or,
        per place, null | "nan" | "inf" | "-inf". Unknown names are left out. Raises ValueError for an unknown axis.
        """
        if x not in AXES:
            raise ValueError(f"unknown axis {x!r}; one of {', '.join(AXES)}")
        with self._lock:
            self._drain()
            chosen = {name: self._series[name].copy() for name in names if name in self._series}
        places = _places((getattr(series, x) for series in chosen.values()), max(1, min(points, POINTS_MAX)))
        return {
            "x": [_integral(place) if x != "time" else place for place in places.shown],
            "series": {name: _thin(series, getattr(series, x), places) for name, series in chosen.items()},
        }

    def dump(self) -> bytes:
        """Everything, to be restored by load()."""
        with self._lock:
            self._drain()
            packed = {name: series.pack() for name, series in self._series.items()}
            return msgspec.msgpack.encode([self._step, self._tokens, self.values_dropped_total, packed])

    @classmethod
    def load(cls, data: bytes, **limits: int) -> "History":
        """Raises ValueError, TypeError or IndexError for anything that dump() did not make."""
        history = cls(**limits)
        history._step, history._tokens, history.values_dropped_total, packed = msgspec.msgpack.decode(data)
        history._series = {name: Series.unpack(series) for name, series in packed.items()}
        return history

    def _drain(self) -> None:
        """Fold the buffered rows."""
        rows, self._pending = self._pending, []
        batch = Batch(rows, self._step, self._tokens)
        self._step, self._tokens = batch.step, batch.seen
        series_before = len(self._series)
        for name, column in batch.columns():
            self._take(name, column)
        if len(self._series) != series_before:
            capacity = self._capacity()
            for series in self._series.values():
                series.shrink(capacity)

    def _take(self, name: str, column: Column) -> None:
        values, group = column
        series = self._series.get(name)
        if series is None:
            if len(self._series) >= self._series_max:
                self.values_dropped_total += len(values)
                return
            series = self._series[name] = Series(group.lowest)
        elif group.lowest < series.owner:
            series.owner = group.lowest
        choice = group.choose(series.owner)
        if choice.own is not None:
            series.extend(choice.own(values), choice.places, self._capacity())
        if choice.others is not None:
            series.spread(choice.other_steps, choice.others(values))

    def _capacity(self) -> int:
        share = self._buckets_total // max(1, len(self._series))
        return max(min(BUCKETS_MIN, self._buckets_max), min(self._buckets_max, share))


class _Places:
    """Maps places to points of the common axis: one point for each place if they are few, else cells of equal width."""

    def __init__(self, shown: list[float], low: float, width: float) -> None:
        self.shown = shown
        self._low, self._width = low, width
        self._cells: dict[int, int] = {}
        self._exact = {place: at for at, place in enumerate(shown)} if width == 0 else {}
        self.at = self._exact.get
        """Index of a place, None for an unknown one."""

    @classmethod
    def cells(cls, distinct: list[float], points: int) -> "_Places":
        low, high = distinct[0], distinct[-1]
        places = cls([], low, (high - low) / points)
        for place in distinct:  # Ascending, so a cell shows its highest x, and the last point is exact.
            at = places._cells.setdefault(places._cell(place, points), len(places.shown))
            if at == len(places.shown):
                places.shown.append(place)
            places.shown[at] = place
            places._exact[place] = at
        return places

    def _cell(self, place: float, points: int) -> int:
        return min(int((place - self._low) / self._width), points - 1)


def _places(columns: "Iterable[array[float]]", points: int) -> _Places:
    different = {column.tobytes(): column for column in columns}  # Metrics that are logged together share their places.
    distinct = sorted({place for column in different.values() for place in column if place == place})
    if len(distinct) <= points or distinct[0] == distinct[-1]:
        return _Places(distinct, 0.0, 0.0)
    return _Places.cells(distinct, points)


def _thin(series: Series, column: "array[float]", places: _Places) -> dict[str, Any]:
    size = len(places.shown)
    low, high, total, count = [math.inf] * size, [-math.inf] * size, [0.0] * size, [0] * size
    flags, passes = [0] * size, [0] * size
    current, before = 0, 0
    for at, lowest, highest, sum_, values, flag in zip(
        map(places.at, column), series.low, series.high, series.total, series.count, series.flags, strict=True
    ):
        if at is None:  # The place is unknown, e.g. tokens before the first derived row.
            continue
        if at < before:
            current += 1
        before = at
        if passes[at] != current:
            passes[at], total[at], count[at] = current, 0.0, 0
        if lowest < low[at]:
            low[at] = lowest
        if highest > high[at]:
            high[at] = highest
        total[at] += sum_
        count[at] += values
        flags[at] |= flag
    return {
        "values": [_mean(total[i], count[i], low[i], high[i]) for i in range(size)],
        "min": [low[i] if low[i] <= high[i] else None for i in range(size)],
        "max": [high[i] if low[i] <= high[i] else None for i in range(size)],
        "states": [state_of(f) for f in flags] if any(flags) else None,
    }


def _mean(total: float, count: int, low: float, high: float) -> float | None:
    if not count:
        return None
    mean = total / count
    if mean - mean != 0:  # The sum overflowed; the extremes did not.
        mean = low / 2 + high / 2
    return min(max(mean, low), high)


def _integral(place: float) -> int | float:
    return int(place) if place.is_integer() else place
