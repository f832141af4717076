"""A batch of rows transposed: a column of numbers for each metric, with the ranks and the places of its values.

Given: rows in order, and the place at which the previous batch ended. Hands on: columns. Never: keeps a row.

Most rows share few shapes (sets of metrics). Which rows make the line of a chart, in which order and at which places,
is therefore computed once for each shape and not once for each metric.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from sidecar.series import Places
from sidecar.wire import Metrics

TOKENS_SEEN = "train/num_input_tokens_seen"
DERIVED_LEVEL = -1
"""The level of rows that the sidecar computed: below every rank."""
NUMBERS = frozenset((float, int))


class RowLike(Protocol):
    """The fields of sidecar.rows.Row that are read here."""

    rank: int
    step: int | None
    time: float
    kind: str
    metrics: Metrics


Pick = Callable[[Sequence[float]], Sequence[float]]


class Choice(NamedTuple):
    """Which of a column's values belong to the owner, in order, and which to other ranks, by step."""

    own: Pick | None
    places: Places
    others: Pick | None
    other_steps: list[float]


class Column(NamedTuple):
    """One metric's numbers in a batch."""

    values: Sequence[float]
    group: "Group"


class Group:
    """The rows of one shape, or of all shapes that share some metrics."""

    def __init__(self, batch: "Batch", rows: list[int]) -> None:
        self._batch, self._rows = batch, rows
        self.lowest = min(map(batch.levels.__getitem__, rows))
        self._choices: dict[int, Choice] = {}

    def choose(self, owner: int) -> Choice:
        """``owner``: the level whose values make the line. Where these are derived, no rank adds to them."""
        choice = self._choices.get(owner)
        if choice is None:
            choice = self._choices[owner] = self._make_choice(owner)
        return choice

    def without(self, kept: list[int]) -> "Group":
        """The same with only some of the rows, for a column that has no number in the others."""
        return Group(self._batch, [self._rows[i] for i in kept])

    def _make_choice(self, owner: int) -> Choice:
        batch, rows = self._batch, self._rows
        levels = _taken(batch.levels, rows)
        own = [i for i, level in enumerate(levels) if level == owner]
        own.sort(key=rows.__getitem__)
        chosen = [rows[i] for i in own]
        places = Places(*(array("d", _taken(axis, chosen)) for axis in (batch.steps, batch.tokens, batch.times)))
        others: list[int] = []
        steps = _taken(batch.steps, rows)
        if owner != DERIVED_LEVEL and len(own) < len(rows):
            # Without rows from before the first step: their step is unknown.
            others = [i for i, level in enumerate(levels) if level != owner and steps[i] == steps[i]]
            others.sort(key=steps.__getitem__)
        return Choice(_picker(own), places, _picker(others), [steps[i] for i in others])


class Batch:
    """Rows by shape. ``step`` and ``seen`` are the place of the last row."""

    def __init__(self, rows: Sequence[RowLike], step: float, tokens: float) -> None:
        self.times = [row.time for row in rows]
        self.levels = [DERIVED_LEVEL if row.kind == "derived" else row.rank for row in rows]
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self.tokens: list[float] = []
        shapes, note = self._shapes, self.tokens.append
        for index, row in enumerate(rows):
            metrics = row.metrics
            names = tuple(metrics)
            shape = shapes.get(names)
            if shape is None:
                shape = shapes[names] = _Shape(names)
            if shape.has_tokens:
                seen = metrics[TOKENS_SEEN]
                if (seen.__class__ is float or seen.__class__ is int) and math.isfinite(place := number(seen)):
                    tokens = place
            note(tokens)
            shape.rows.append(index)
            shape.values.append(metrics.values())
        self.steps = _carried([row.step for row in rows], step)
        self.step, self.seen = (self.steps[-1], tokens) if rows else (step, tokens)

    def columns(self) -> Iterator[tuple[str, Column]]:
        """Every metric with at least one number."""
        parts: dict[str, list[tuple[_Shape, tuple[Any, ...]]]] = {}
        for names, shape in self._shapes.items():
            for name, values in zip(names, zip(*shape.values, strict=True), strict=True):
                parts.setdefault(name, []).append((shape, values))
        groups: dict[tuple[int, ...], Group] = {}
        for name, found in parts.items():
            key = tuple(id(shape) for shape, _ in found)
            group = groups.get(key)
            if group is None:
                rows = found[0][0].rows if len(found) == 1 else [*chain.from_iterable(shape.rows for shape, _ in found)]
                group = groups[key] = Group(self, rows)
            column = _column(found[0][1] if len(found) == 1 else (*chain.from_iterable(v for _, v in found),), group)
            if column.values:
                yield name, column


class _Shape:
    """Rows of a batch that have the same metrics."""

    __slots__ = ("has_tokens", "rows", "values")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.has_tokens = TOKENS_SEEN in names
        self.rows: list[int] = []
        self.values: list[Iterable[Any]] = []


def _column(values: tuple[Any, ...], group: Group) -> Column:
    """Keep what is a float or an int; an int too large for a float becomes an infinity."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return Column(values, group)
    if kinds <= NUMBERS:
        try:
            return Column(array("d", values).tolist(), group)
        except OverflowError:
            return Column([*map(number, values)], group)
    kept = [i for i, value in enumerate(values) if value.__class__ is float or value.__class__ is int]
    return Column([number(values[i]) for i in kept], group.without(kept) if kept else group)


def _carried(steps: list[int | None], before: float) -> list[float]:
    """A row without a step takes the step of the row before it."""
    if None not in steps:
        return [*map(float, steps)]  # type: ignore[arg-type]
    carried = []
    for step in steps:
        before = before if step is None else float(step)
        carried.append(before)
    return carried


def number(value: float) -> float:
    """As a float; an int that is too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _taken(column: Sequence[Any], chosen: list[int]) -> Sequence[Any]:
    pick = _picker(chosen)
    return pick(column) if pick is not None else ()


def _picker(chosen: list[int]) -> Pick | None:
    """A function that takes these items out of a sequence. None: nothing is chosen."""
    if not chosen:
        return None
    first, end = chosen[0], chosen[-1] + 1
    if end - first == len(chosen) and chosen == [*range(first, end)]:
        return itemgetter(slice(first, end))
    return itemgetter(*chosen)
