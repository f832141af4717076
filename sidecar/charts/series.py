"""Columns that stay small: any number of values in, a bounded number of points out, every extreme kept.

Given: values in the order they were read. Hands on: points (order, step, tokens, time, value), exact ones.
Never: holds more than ``BUCKETS_MAX`` buckets of four points, averages, or lets a single bad value vanish.
"""

import math
from bisect import bisect_right
from typing import NamedTuple

BUCKETS_MAX = 512
"""Four points each (first, lowest, highest, last): 2,048 points are more than a chart is pixels wide."""


class Point(NamedTuple):
    order: int
    """Microseconds on the emitting process' clock: what puts values of different rows in order. Rows of several ranks
    are read in batches, so the order of reading would not."""
    step: float
    tokens: float | None
    time: float
    """Wall clock, seconds since the epoch."""
    value: float


class _Bucket:
    __slots__ = ("count", "first", "high", "index", "last", "low", "total")

    def __init__(self, index: int, point: Point) -> None:
        self.index, self.first, self.low, self.high, self.last = index, point, point, point, point
        self.count, self.total = 1, point.value

    def take(self, point: Point) -> None:
        if point.value < self.low.value:
            self.low = point
        elif point.value > self.high.value:
            self.high = point
        self.last = point
        self.count += 1
        self.total += point.value

    def join(self, later: "_Bucket") -> None:
        if later.low.value < self.low.value:
            self.low = later.low
        if later.high.value > self.high.value:
            self.high = later.high
        self.last = later.last
        self.count += later.count
        self.total += later.total

    def points(self) -> list[Point]:
        return sorted({self.first, self.low, self.high, self.last})


def _middle(bucket: _Bucket) -> Point:
    first, last = bucket.first, bucket.last
    tokens = None if first.tokens is None or last.tokens is None else (first.tokens + last.tokens) / 2
    time, value = (first.time + last.time) / 2, bucket.total / bucket.count
    return Point((first.order + last.order) // 2, (first.step + last.step) / 2, tokens, time, value)


class Track:
    """One metric of one run. Values that are not finite are kept apart, with their steps."""

    __slots__ = ("_buckets", "_buckets_max", "_sorted", "bad", "bad_total", "count", "width")

    def __init__(self, buckets_max: int = BUCKETS_MAX) -> None:
        self.count = 0
        self.width = 1
        """Steps a bucket spans."""
        self.bad: list[tuple[int, float, str]] = []
        """(order, step, "nan" | "inf" | "-inf") of the first values that were not finite."""
        self.bad_total = 0
        self._buckets: list[_Bucket] = []
        self._buckets_max = buckets_max
        self._sorted: list[Point] | None = None

    def add(self, point: Point) -> None:
        value = point.value
        if value - value != 0:  # NaN or infinite.
            self.bad_total += 1
            if len(self.bad) < 64:
                kind = "nan" if value != value else "inf" if value > 0 else "-inf"
                self.bad.append((point.order, point.step, kind))
            return
        self.count += 1
        self._sorted = None
        index = int(point.step) // self.width
        if self._buckets and self._buckets[-1].index == index:
            self._buckets[-1].take(point)
            return
        self._buckets.append(_Bucket(index, point))
        while len(self._buckets) > self._buckets_max:
            self._halve()

    def cut(self, step: float) -> bool:
        """Forget what was added from ``step`` on: a better source begins there. Is nothing left?"""
        self._buckets = [bucket for bucket in self._buckets if bucket.last.step < step]
        self._sorted = None
        return not self._buckets

    def _halve(self) -> None:
        """Buckets of twice as many steps. A run that keeps going back merges neighbours all the same."""
        self.width *= 2
        merged: list[_Bucket] = []
        for bucket in self._buckets:
            bucket.index //= 2
            if merged and merged[-1].index == bucket.index:
                merged[-1].join(bucket)
            else:
                merged.append(bucket)
        if len(merged) > self._buckets_max * 3 // 4:
            for left, right in zip(merged[::2], merged[1::2], strict=False):
                left.join(right)
            merged = merged[::2]
        self._buckets = merged

    def points(self) -> list[Point]:
        """Oldest first; do not change the list."""
        if self._sorted is None:
            self._sorted = [point for bucket in self._buckets for point in bucket.points()]
        return self._sorted

    def means(self) -> list[Point]:
        """One point a bucket: the mean of all its values, in its middle. For comparing: extremes would mislead."""
        return [_middle(bucket) for bucket in self._buckets]

    def at(self, order: int) -> Point | None:
        """The last one that had been read by then: what "carried forward" means."""
        points = self.points()
        place = bisect_right(points, order, key=lambda point: point.order)
        return points[place - 1] if place else None


class Total:
    """What is kept of every metric, tracked or not."""

    __slots__ = ("bad", "count", "first", "high", "high_step", "last", "last_step", "low", "low_step", "sum")

    def __init__(self) -> None:
        self.count, self.bad, self.sum = 0, 0, 0.0
        self.first = self.last = math.nan
        self.low, self.high = math.inf, -math.inf
        self.low_step = self.high_step = self.last_step = 0.0

    def add(self, value: float, step: float) -> None:
        self.last, self.last_step = value, step
        if value - value != 0:
            self.bad += 1
            return
        if not self.count:
            self.first = value
        self.count += 1
        self.sum += value
        if value < self.low:
            self.low, self.low_step = value, step
        if value > self.high:
            self.high, self.high_step = value, step

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None


class Cell:
    """Durations of the steps that a rank, or a few neighbouring ones, did within one bucket."""

    __slots__ = ("count", "high", "high_rank", "high_step", "low", "total")

    def __init__(self, rank: int, step: int, seconds: float) -> None:
        self.count, self.total, self.low, self.high = 1, seconds, seconds, seconds
        self.high_step, self.high_rank = step, rank

    def take(self, rank: int, step: int, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        if seconds < self.low:
            self.low = seconds
        if seconds > self.high:
            self.high, self.high_step, self.high_rank = seconds, step, rank

    def join(self, other: "Cell") -> None:
        self.count += other.count
        self.total += other.total
        self.low = min(self.low, other.low)
        if other.high > self.high:
            self.high, self.high_step, self.high_rank = other.high, other.high_step, other.high_rank


class Grid:
    """Step time by rank and step, buckets common to all ranks. Bounded by cells and by rows, however many ranks there
    are: neighbouring ranks share a row, neighbouring steps a bucket, and each cell keeps its extremes."""

    def __init__(self, cells_max: int = 40_000, rows_max: int = 128) -> None:
        self.width = 1
        """Steps a bucket spans."""
        self.rank_width = 1
        """Ranks a row spans."""
        self._cells_max, self._rows_max = cells_max, rows_max
        self._buckets: dict[int, dict[int, Cell]] = {}
        self._rows: set[int] = set()
        self._cells = 0

    def add(self, rank: int, step: int, seconds: float) -> None:
        bucket = self._buckets.setdefault(step // self.width, {})
        row = rank // self.rank_width
        cell = bucket.get(row)
        if cell is not None:
            cell.take(rank, step, seconds)
            return
        bucket[row] = Cell(rank, step, seconds)
        self._rows.add(row)
        self._cells += 1
        while len(self._rows) > self._rows_max:
            self._halve(1, 2)
        while self._cells > self._cells_max and len(self._buckets) > 1:
            self._halve(2, 1)

    def _halve(self, steps: int, ranks: int) -> None:
        self.width *= steps
        self.rank_width *= ranks
        old, self._buckets, self._cells = self._buckets, {}, 0
        self._rows = {row // ranks for row in self._rows}
        for index, cells in old.items():
            bucket = self._buckets.setdefault(index // steps, {})
            for row, cell in cells.items():
                known = bucket.get(row // ranks)
                if known is None:
                    bucket[row // ranks] = cell
                    self._cells += 1
                else:
                    known.join(cell)

    def ranks(self) -> list[int]:
        """The first rank of each row, ascending."""
        return [row * self.rank_width for row in sorted(self._rows)]

    def columns(self) -> list[tuple[int, dict[int, Cell]]]:
        """(first step of the bucket, cells by their row's first rank), ascending."""
        return [(index * self.width, {row * self.rank_width: cell for row, cell in self._buckets[index].items()})
                for index in sorted(self._buckets)]


def thin(points: list[Point], points_max: int) -> list[Point]:
    """At most so many: of each stretch the first, the lowest, the highest and the last."""
    if len(points) <= points_max:
        return points
    stretches = max(1, points_max // 4)
    out: list[Point] = []
    for i in range(stretches):
        part = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        if part:
            kept = {part[0], min(part, key=_value), max(part, key=_value), part[-1]}
            out += sorted(kept)
    return out


def _value(point: Point) -> float:
    return point.value
