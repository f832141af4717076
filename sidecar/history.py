"""The shape of every metric over a whole run, in bounded memory.

Given: rows, in any order, from one writer. Hands on: series of at most so many points, by step, tokens or time.
Never: does I/O, reads a clock, or loses an extreme: however far a series is thinned, each bucket keeps its lowest
and highest value, so a single spike in a million steps is still there.

A series is a list of buckets. When it is full, neighbours are merged pairwise and each new bucket takes twice as
many values; the cost of a value is therefore constant. Rows are buffered and folded in batches, because that is
ten times cheaper than one by one. Readers may call from other threads.
"""

import math
import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from sidecar.series import Place, Series, Summary, state_of
from sidecar.wire import Metrics

Axis = Literal["step", "tokens", "time"]
AXES: tuple[Axis, ...] = ("step", "tokens", "time")

SERIES_MAX = 10_000
BUCKETS_MAX = 2_048
BUCKETS_MIN = 64
BUCKETS_TOTAL = 500_000  # 28 MB at 57 bytes a bucket; 84 MB were measured at the limit of 10,000 series.
BATCH_ROWS = 512
POINTS_MAX = 5_000
TOKENS_SEEN = "train/num_input_tokens_seen"
DERIVED_LEVEL = -1
UNKNOWN = math.nan


class RowLike(Protocol):
    """What History reads of a sidecar.rows.Row."""

    rank: int
    step: int | None
    time: float
    kind: str
    metrics: Metrics


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
        """Values of names beyond the limit on series."""

    def add(self, row: RowLike) -> None:
        """Take one row. Values that are not numbers are passed over."""
        with self._lock:
            self._pending.append(row)
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
        ``values`` is the mean of the finite values at that place, null where there is none; ``states`` is null or,
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
        """Fold the buffered rows: whole columns at a time, because rows of one shape come in long runs."""
        rows, self._pending = self._pending, []
        shapes: dict[tuple[str, ...], _Shape] = {}
        for row in rows:
            if row.step is not None:
                self._step = float(row.step)
            seen = row.metrics.get(TOKENS_SEEN)
            if seen.__class__ is float or seen.__class__ is int:
                self._tokens = _float(seen)
            names = tuple(row.metrics)
            shape = shapes.get(names)
            if shape is None:
                shape = shapes[names] = _Shape()
            shape.levels.append(DERIVED_LEVEL if row.kind == "derived" else row.rank)
            shape.places.append((self._step, self._tokens, row.time))
            shape.values.append(tuple(row.metrics.values()))
        columns: dict[str, list[_Column]] = {}
        for names, shape in shapes.items():
            for name, values in zip(names, zip(*shape.values, strict=True), strict=True):
                columns.setdefault(name, []).append(_column(values, shape))
        series_before = len(self._series)
        for name, found in columns.items():
            self._take(name, found[0] if len(found) == 1 else _joined(found))
        if len(self._series) != series_before:
            capacity = self._capacity()
            for series in self._series.values():
                series.shrink(capacity)

    def _take(self, name: str, column: "_Column") -> None:
        values, levels, places = column
        if not values:
            return
        lowest = min(levels)
        series = self._series.get(name)
        if series is None:
            if len(self._series) >= self._series_max:
                self.values_dropped_total += len(values)
                return
            series = self._series[name] = Series(lowest)
        owner = series.owner = min(series.owner, lowest)
        if lowest == owner == max(levels):
            series.extend(values, places, self._capacity())
            return
        own = [index for index, level in enumerate(levels) if level == owner]
        series.extend([values[i] for i in own], [places[i] for i in own], self._capacity())
        if owner != DERIVED_LEVEL:
            bands: dict[float, list[float]] = {}
            for value, level, place in zip(values, levels, places, strict=True):
                if level != owner:
                    bands.setdefault(place[0], []).append(value)
            for step, widths in bands.items():
                if len(widths) == 1 and (value := widths[0]) - value == 0:
                    series.spread(step, value, value, 0)
                else:
                    summary = Summary(widths)
                    series.spread(step, summary.low, summary.high, summary.flags)

    def _capacity(self) -> int:
        share = self._buckets_total // max(1, len(self._series))
        return max(min(BUCKETS_MIN, self._buckets_max), min(self._buckets_max, share))


class _Shape:
    """Rows of a batch that have the same metrics."""

    __slots__ = ("levels", "places", "values")

    def __init__(self) -> None:
        self.levels: list[int] = []
        self.places: list[Place] = []
        self.values: list[tuple[Any, ...]] = []


_Column = tuple[list[float], list[int], list[Place]]
"""One metric's values in a batch, with the level and the place of each."""


def _column(values: tuple[Any, ...], shape: _Shape) -> _Column:
    """Keep what is a float or an int; an int too large for a float becomes an infinity."""
    if set(map(type, values)) == {float}:
        return list(values), shape.levels, shape.places
    kept = [i for i, value in enumerate(values) if value.__class__ is float or value.__class__ is int]
    return [_float(values[i]) for i in kept], [shape.levels[i] for i in kept], [shape.places[i] for i in kept]


def _joined(columns: list[_Column]) -> _Column:
    """Columns of several shapes as one, in order of time."""
    cells = [cell for column in columns for cell in zip(*column, strict=True)]
    cells.sort(key=lambda cell: cell[2][2])
    return [cell[0] for cell in cells], [cell[1] for cell in cells], [cell[2] for cell in cells]


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class _Places:
    """Where values go on the common axis: to exact places when these are few, else to cells of equal width."""

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
        for place in distinct:  # Ascending, so the newest x of a cell is the one shown: the last point is exact.
            at = places._cells.setdefault(places._cell(place, points), len(places.shown))
            if at == len(places.shown):
                places.shown.append(place)
            places.shown[at] = place
            places._exact[place] = at
        return places

    def _cell(self, place: float, points: int) -> int:
        return min(int((place - self._low) / self._width), points - 1)


def _places(columns: "Iterable[array[float]]", points: int) -> _Places:
    different = {column.tobytes(): column for column in columns}  # What is logged together has the same places.
    distinct = sorted({place for column in different.values() for place in column if place == place})
    if len(distinct) <= points or distinct[0] == distinct[-1]:
        return _Places(distinct, 0.0, 0.0)
    return _Places.cells(distinct, points)


def _thin(series: Series, column: "array[float]", places: _Places) -> dict[str, Any]:
    size = len(places.shown)
    low, high, total, count = [math.inf] * size, [-math.inf] * size, [0.0] * size, [0] * size
    flags = [0] * size
    for at, lowest, highest, sum_, values, flag in zip(
        map(places.at, column), series.low, series.high, series.total, series.count, series.flags, strict=True
    ):
        if at is None:  # A place that is not known, e.g. the tokens before the first derived row.
            continue
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
