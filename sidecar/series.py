"""One metric over a whole run, in bounded memory: columns of buckets, merged pairwise when they are full.

Given: values with their places (step, tokens, time), in order. Hands on: buckets with extremes, sum and count.
Never: loses an extreme, or the fact that a value was NaN or infinite.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import add, or_
from typing import Any, NamedTuple

COLUMNS = ("step", "tokens", "time", "low", "high", "total", "count", "flags")
_ONE = array("Q", (1,))
_NAN, _INF, _NEGATIVE_INF = 1, 2, 4
_STATES = ((_NAN, "nan"), (_INF, "inf"), (_NEGATIVE_INF, "-inf"))


class Places(NamedTuple):
    """Where values are on each axis, one entry a value."""

    step: "array[float]"
    tokens: "array[float]"
    time: "array[float]"


class Summary:
    """Values of one bucket: extremes and sum of the finite ones, and flags for the others."""

    __slots__ = ("count", "flags", "high", "low", "total")

    def __init__(self, values: Sequence[float]) -> None:
        self.total, self.count, self.flags = sum(values), len(values), 0
        if self.total - self.total == 0:  # All finite: the usual case, left to fast built-ins.
            self.low, self.high = min(values), max(values)
            return
        self.low, self.high, self.total, self.count = math.inf, -math.inf, 0.0, 0
        for value in values:
            if value - value == 0:  # False for NaN and both infinities.
                self.low, self.high = min(self.low, value), max(self.high, value)
                self.total += value
                self.count += 1
            else:
                self.flags |= flag_of(value)


def _band(values: Sequence[float], plain: bool) -> tuple[float, float, int]:
    """Lowest, highest and flags. ``plain``: all of them are known to be finite."""
    if plain:
        return min(values), max(values), 0
    summary = Summary(values)
    return summary.low, summary.high, summary.flags


def flag_of(value: float) -> int:
    if value != value:
        return _NAN
    return _INF if value > 0 else _NEGATIVE_INF


def state_of(flags: int) -> str | None:
    return next((name for flag, name in _STATES if flags & flag), None)


class Series:
    """Buckets of one metric, oldest first. Columns instead of objects: 57 bytes a bucket."""

    __slots__ = (
        "ahead",
        "count",
        "filled",
        "flags",
        "high",
        "low",
        "owner",
        "step",
        "stride",
        "time",
        "tokens",
        "total",
    )

    def __init__(self, owner: int) -> None:
        self.owner = owner
        """Whose values make the line: the lowest rank that reports this metric, or DERIVED_LEVEL."""
        self.stride = 1
        self.filled = 0
        """Values in the newest bucket; a bucket is closed when it holds ``stride``."""
        self.step, self.tokens, self.time = array("d"), array("d"), array("d")
        self.low, self.high, self.total = array("d"), array("d"), array("d")
        self.count, self.flags = array("Q"), array("B")
        self.ahead: tuple[float, float, int] | None = None
        """Extremes and flags of other ranks at steps that the owner has not reported yet."""

    def extend(self, values: Sequence[float], places: Places, capacity: int) -> None:
        """The owner's next values, in order, each with its place."""
        taken, size = 0, len(values)
        while taken < size:
            if self.count and self.filled < self.stride:
                upto = min(size, taken + self.stride - self.filled)
                self._merge(len(self.count) - 1, Summary(values[taken:upto]))
                self.filled += upto - taken
                self.step[-1], self.tokens[-1], self.time[-1] = (axis[upto - 1] for axis in places)
            elif len(self.count) >= capacity:
                self._halve()
                continue
            else:
                upto = min(size, taken + (capacity - len(self.count)) * self.stride)
                whole = not taken and upto == size
                self._append(values if whole else values[taken:upto],
                             places if whole else Places(*(axis[taken:upto] for axis in places)))
            taken = upto
        if self.ahead:
            self._widen(len(self.count) - 1, *self.ahead)
            self.ahead = None

    def shrink(self, capacity: int) -> None:
        """Make room for others: merge until there are at most ``capacity`` buckets."""
        while len(self.count) > capacity:
            self._halve()

    def _append(self, values: Sequence[float], places: Places) -> None:
        """New buckets, whole columns at a time, which is five times as fast as one by one."""
        stride, size = self.stride, len(values)
        if (total := sum(values)) - total != 0:
            self._append_summaries(values)
        elif stride == 1:
            column = array("d", values)
            for axis in (self.low, self.high, self.total):
                axis.extend(column)
            self.count.extend(_ONE * size)
            self.flags.frombytes(bytes(size))
        else:
            buckets = [*zip(*[iter(values)] * stride, strict=False)]
            self.count.extend(array("Q", (stride,)) * len(buckets))
            if size % stride:
                buckets.append(tuple(values[size - size % stride :]))
                self.count.append(size % stride)
            for axis, merge in ((self.low, min), (self.high, max), (self.total, sum)):
                axis.extend(map(merge, buckets))
            self.flags.frombytes(bytes(len(buckets)))
        for axis, ends in zip((self.step, self.tokens, self.time), places, strict=True):
            axis.extend(ends if stride == 1 else ends[stride - 1 :: stride])
            if size % stride:
                axis.append(ends[-1])
        self.filled = size % stride or stride

    def _append_summaries(self, values: Sequence[float]) -> None:
        for start in range(0, len(values), self.stride):
            summary = Summary(values[start : start + self.stride])
            self.low.append(summary.low)
            self.high.append(summary.high)
            self.total.append(summary.total)
            self.count.append(summary.count)
            self.flags.append(summary.flags)

    def spread(self, steps: Sequence[float], values: Sequence[float]) -> None:
        """Other ranks' values, by ascending step: they widen the band of the bucket at their step, and add no point."""
        plain = (total := sum(values)) - total == 0
        known = bisect_right(steps, self.step[-1]) if self.count else 0
        begin = 0
        while begin < known:
            at = min(bisect_left(self.step, steps[begin]), len(self.step) - 1)
            end = max(begin + 1, bisect_right(steps, self.step[at], begin, known))
            if plain and end == begin + 1:
                value = values[begin]
                if value < self.low[at]:
                    self.low[at] = value
                if value > self.high[at]:
                    self.high[at] = value
            else:
                self._widen(at, *_band(values[begin:end], plain))
            begin = end
        if known < len(steps):
            low, high, flags = _band(values[known:], plain)
            band = self.ahead or (math.inf, -math.inf, 0)
            self.ahead = (min(band[0], low), max(band[1], high), band[2] | flags)

    def _widen(self, at: int, low: float, high: float, flags: int) -> None:
        if low < self.low[at]:
            self.low[at] = low
        if high > self.high[at]:
            self.high[at] = high
        if flags:
            self.flags[at] |= flags

    def _merge(self, at: int, summary: Summary) -> None:
        self.low[at] = min(self.low[at], summary.low)
        self.high[at] = max(self.high[at], summary.high)
        self.total[at] += summary.total
        self.count[at] += summary.count
        self.flags[at] |= summary.flags

    def _halve(self) -> None:
        """Merge neighbours, whole columns at a time. An odd bucket at the end stays and takes further values."""
        odd = len(self.count) % 2
        for name in ("step", "tokens", "time"):
            column = getattr(self, name)
            setattr(self, name, column[1::2] + (column[-1:] if odd else column[:0]))
        for name, merge in (("low", min), ("high", max), ("total", add), ("count", add), ("flags", or_)):
            column = getattr(self, name)
            merged = array(column.typecode, map(merge, column[0:-1:2], column[1::2]))
            setattr(self, name, merged + (column[-1:] if odd else column[:0]))
        self.filled = self.filled if odd else self.filled + self.stride
        self.stride *= 2

    def copy(self) -> "Series":
        twin = Series(self.owner)
        for name in COLUMNS:
            setattr(twin, name, getattr(self, name)[:])
        if self.ahead and twin.count:
            twin._widen(len(twin.count) - 1, *self.ahead)
        return twin

    def pack(self) -> list[Any]:
        """Everything, as what MessagePack can carry."""
        columns = [getattr(self, name).tobytes() for name in COLUMNS]
        return [self.owner, self.stride, self.filled, self.ahead, columns]

    @classmethod
    def unpack(cls, packed: list[Any]) -> "Series":
        """Raises ValueError, TypeError or IndexError for anything that pack() did not make."""
        owner, stride, filled, ahead, columns = packed
        series = cls(owner)
        series.stride, series.filled, series.ahead = stride, filled, tuple(ahead) if ahead else None
        for name, data in zip(COLUMNS, columns, strict=True):
            getattr(series, name).frombytes(data)
        return series
