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
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

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

_NAN, _INF, _NEGATIVE_INF = 1, 2, 4
_STATES = ((_NAN, "nan"), (_INF, "inf"), (_NEGATIVE_INF, "-inf"))


class RowLike(Protocol):
    """What History reads of a sidecar.rows.Row."""

    rank: int
    step: int | None
    time: float
    kind: str
    metrics: Metrics


class _Summary:
    """Values of one bucket: extremes and sum of the finite ones, and which others were there."""

    __slots__ = ("count", "flags", "high", "low", "total")

    def __init__(self, values: Sequence[float]) -> None:
        self.total, self.count, self.flags = sum(values), len(values), 0
        if self.total - self.total == 0:  # All finite: the usual case, at the speed of built-ins.
            self.low, self.high = min(values), max(values)
            return
        self.low, self.high, self.total, self.count = math.inf, -math.inf, 0.0, 0
        for value in values:
            if value - value == 0:  # False for NaN and both infinities.
                self.low, self.high = min(self.low, value), max(self.high, value)
                self.total += value
                self.count += 1
            else:
                self.flags |= _flag(value)


def _flag(value: float) -> int:
    if value != value:
        return _NAN
    return _INF if value > 0 else _NEGATIVE_INF


def _state(flags: int) -> str | None:
    return next((name for flag, name in _STATES if flags & flag), None)


class _Series:
    """Buckets of one metric, oldest first. Columns instead of objects: 57 bytes a bucket."""

    __slots__ = ("band", "count", "filled", "flags", "high", "low", "owner", "step", "stride", "time", "tokens",
                 "total")

    def __init__(self, owner: int) -> None:
        self.owner = owner
        """The lowest rank that reports this metric, or DERIVED_LEVEL: whose values make the line."""
        self.stride = 1
        self.filled = 0
        """Values in the newest bucket; a bucket is closed when it holds ``stride``."""
        self.step, self.tokens, self.time = array("d"), array("d"), array("d")
        self.low, self.high, self.total = array("d"), array("d"), array("d")
        self.count, self.flags = array("Q"), array("B")
        self.band: list[float] = []
        """Other ranks' values for steps that the owner has not reported yet."""

    def extend(self, values: list[float], places: list[tuple[float, float, float]], capacity: int) -> None:
        taken = 0
        while taken < len(values):
            if self.count and self.filled < self.stride:
                upto = min(len(values), taken + self.stride - self.filled)
                self._merge(len(self.count) - 1, _Summary(values[taken:upto]))
                self.filled += upto - taken
                self.step[-1], self.tokens[-1], self.time[-1] = places[upto - 1]
            elif len(self.count) >= capacity:
                self._halve()
                continue
            else:
                upto = min(len(values), taken + (capacity - len(self.count)) * self.stride)
                self._append(values[taken:upto], places[taken:upto])
            taken = upto
        if self.band:
            self._merge_band(len(self.count) - 1, self.band)
            self.band = []

    def shrink(self, capacity: int) -> None:
        """Make room for others: merge until there are at most ``capacity`` buckets."""
        while len(self.count) > capacity:
            self._halve()

    def _append(self, values: list[float], places: list[tuple[float, float, float]]) -> None:
        """New buckets, whole columns at a time: one by one costs five times as much."""
        stride, size = self.stride, len(values)
        if stride == 1 and (total := sum(values)) - total == 0:
            for column in (self.low, self.high, self.total):
                column.extend(values)
            self.count.extend([1] * size)
            self.flags.extend(bytes(size))
            ends = places
        else:
            for start in range(0, size, stride):
                summary = _Summary(values[start : start + stride])
                self.low.append(summary.low)
                self.high.append(summary.high)
                self.total.append(summary.total)
                self.count.append(summary.count)
                self.flags.append(summary.flags)
            ends = places[stride - 1 :: stride]
            if size % stride:
                ends.append(places[-1])
        for column, axis in ((self.step, 0), (self.tokens, 1), (self.time, 2)):
            column.extend([place[axis] for place in ends])
        self.filled = size % stride or stride

    def spread(self, value: float, step: float) -> None:
        """Another rank's value widens the band at its step; it never makes a point."""
        if not self.count or not step <= self.step[-1]:
            self.band.append(value)
            if len(self.band) > BATCH_ROWS:
                self.band = [min(self.band), max(self.band)]
        else:
            at = min(bisect_left(self.step, step), len(self.step) - 1)
            if value - value == 0:
                self.low[at], self.high[at] = min(self.low[at], value), max(self.high[at], value)
            else:
                self.flags[at] |= _flag(value)

    def _merge(self, at: int, summary: _Summary) -> None:
        self.low[at] = min(self.low[at], summary.low)
        self.high[at] = max(self.high[at], summary.high)
        self.total[at] += summary.total
        self.count[at] += summary.count
        self.flags[at] |= summary.flags

    def _merge_band(self, at: int, values: Sequence[float]) -> None:
        summary = _Summary(values)
        self.low[at] = min(self.low[at], summary.low)
        self.high[at] = max(self.high[at], summary.high)
        self.flags[at] |= summary.flags

    def _halve(self) -> None:
        last = len(self.count) - 1
        for to, left in enumerate(range(0, last + 1, 2)):
            right = min(left + 1, last)
            for column in (self.step, self.tokens, self.time):
                column[to] = column[right]
            self.low[to] = min(self.low[left], self.low[right])
            self.high[to] = max(self.high[left], self.high[right])
            self.flags[to] = self.flags[left] | self.flags[right]
            self.total[to] = self.total[left] + (self.total[right] if right != left else 0.0)
            self.count[to] = self.count[left] + (self.count[right] if right != left else 0)
        for column in self._columns():
            del column[last // 2 + 1:]
        self.filled = self.filled + self.stride if last % 2 else self.filled
        self.stride *= 2

    def _columns(self) -> "tuple[array[Any], ...]":
        return (self.step, self.tokens, self.time, self.low, self.high, self.total, self.count, self.flags)

    def copy(self) -> "_Series":
        twin = _Series(self.owner)
        for name in ("step", "tokens", "time", "low", "high", "total", "count", "flags"):
            setattr(twin, name, getattr(self, name)[:])
        if self.band and twin.count:
            twin._merge_band(len(twin.count) - 1, self.band)
        return twin


class History:
    """All series of one run."""

    def __init__(self, *, series_max: int = SERIES_MAX, buckets_max: int = BUCKETS_MAX,
                 buckets_total: int = BUCKETS_TOTAL) -> None:
        self._series: dict[str, _Series] = {}
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

    def _drain(self) -> None:
        """Fold the buffered rows: gather columns first, so that the inner loops run over plain lists."""
        rows, self._pending = self._pending, []
        columns: dict[int, dict[str, tuple[list[Any], list[tuple[float, float, float]]]]] = {}
        for row in rows:
            level = DERIVED_LEVEL if row.kind == "derived" else row.rank
            if row.step is not None:
                self._step = float(row.step)
            seen = row.metrics.get(TOKENS_SEEN)
            if seen.__class__ is float or seen.__class__ is int:
                self._tokens = _float(seen)
            place = (self._step, self._tokens, row.time)
            level_columns = columns.setdefault(level, {})
            for name, value in row.metrics.items():
                column = level_columns.get(name)
                if column is None:
                    column = level_columns[name] = ([], [])
                column[0].append(value)
                column[1].append(place)
        series_before = len(self._series)
        for level in sorted(columns):
            for name, (values, places_of) in columns[level].items():
                self._take(level, name, *_numbers(values, places_of))
        if len(self._series) != series_before:
            capacity = self._capacity()
            for series in self._series.values():
                series.shrink(capacity)

    def _take(self, level: int, name: str, values: list[float], places: list[tuple[float, float, float]]) -> None:
        if not values:
            return
        series = self._series.get(name)
        if series is None:
            if len(self._series) >= self._series_max:
                self.values_dropped_total += len(values)
                return
            series = self._series[name] = _Series(level)
        series.owner = min(series.owner, level)
        if level == series.owner:
            series.extend(values, places, self._capacity())
        elif series.owner != DERIVED_LEVEL:
            for value, place in zip(values, places, strict=True):
                series.spread(value, place[0])

    def _capacity(self) -> int:
        share = self._buckets_total // max(1, len(self._series))
        return max(min(BUCKETS_MIN, self._buckets_max), min(self._buckets_max, share))


def _numbers(
    values: list[Any], places: list[tuple[float, float, float]]
) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Keep what is a float or an int; an int too large for a float becomes an infinity."""
    if all(value.__class__ is float for value in values):
        return values, places
    kept = [(_float(value), place) for value, place in zip(values, places, strict=True)
            if value.__class__ is float or value.__class__ is int]
    return [value for value, _ in kept], [place for _, place in kept]


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


def _thin(series: _Series, column: "array[float]", places: _Places) -> dict[str, Any]:
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
        "states": [_state(f) for f in flags] if any(flags) else None,
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
