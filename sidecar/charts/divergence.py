"""Where two runs part for good, and what was different about them.

Given: two runs on one axis. Hands on: the first place of lasting divergence, and the differing facts, ranked.
Never: calls noise a divergence: the noise is learnt from the two runs themselves.

The difference of the two losses is smoothed over ``WINDOW`` bins. Its noise is taken from its own first differences
(median absolute deviation, robust to the divergence itself). They have parted where the smoothed difference is above
the threshold and stays so to the end; the onset is where it last was near zero before that.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.series import Point

BINS = 400
WINDOW = 12
NOISE_TIMES = 6.0
FLOOR_RATIO = 0.01
"""Less than 1 % of the loss is no divergence, however certain."""
BINS_MIN = 8
FACTS_MAX = 20
AXES = ("step", "tokens", "time")
UNITS = {"step": "step", "tokens": "token", "time": "second"}

WEIGHTS = {
    "learning_rate": 3.0, "lr": 3.0, "matrix_lr": 3.0, "warmup": 2.5, "batch": 2.5, "grad_accum": 2.5, "optimizer": 2.5,
    "dtype": 2.2, "precision": 2.2, "weight_decay": 2.0, "beta": 2.0, "clip": 2.0, "dataset": 2.0, "data": 2.0,
    "layer": 2.0, "n_embd": 2.0, "hidden": 2.0, "depth": 2.0, "dim": 2.0, "seq_len": 2.0, "world_size": 1.8,
    "seed": 1.5, "device": 1.2, "client": 0.8, "host": 0.5, "name": 0.1, "path": 0.1, "dir": 0.1,
}  # fmt: skip
"""How likely a difference in a setting of that name explains a different loss. A judgement, not a measurement."""
WATCHED = {"train/learning_rate": 0.02, "train/grad_norm": 0.25, "train/tokens_per_second": 0.1,
           "train/mfu_percent": 0.1}
"""Metrics whose own parting is a fact too, and by what share they must differ."""


class Fact(msgspec.Struct, frozen=True):
    """Something that differs between two runs."""

    name: str
    kind: str
    """setting | model | environment | data | metric"""
    values: tuple[Any, Any]
    score: float
    since: float | None = None
    """For a metric: where on the axis it parted."""


class Divergence(msgspec.Struct):
    """Of one run from the baseline."""

    run: str
    at: float | None
    """Where on the axis; None: they never part for good."""
    axis: str
    reason: str
    """One sentence."""
    decided: bool = True
    """False: there is too little of the two runs on a common axis."""
    facts: list[Fact] = []


def place(point: Point, axis: str, start: float) -> float | None:
    """Where a point is on the axis: step, tokens, or seconds since the run's first point."""
    if axis == "step":
        return point.step
    return point.tokens if axis == "tokens" else point.time - start


def divergence(base: RunData, other: RunData, axis: str = "step") -> Divergence:
    found = _losses(base, other, axis)
    facts = differing_facts(base, other)
    out = Divergence(other.label, None, axis, "", True, facts)
    bad = _first_bad(base, other)
    if bad is not None and axis == "step":
        out.at, out.reason = bad, f"the loss is not finite at step {bad:,.0f}, that of the first run always is"
    elif found is None:
        out.decided, out.reason = False, f"too little of both runs on a common axis of {axis}"
    else:
        grid, ours, theirs = found
        out.at, out.reason = _parting(grid, ours, theirs, axis)
    if out.at is not None:
        out.facts = _rank(base, other, axis, out.at, facts)
    return out


def _losses(base: RunData, other: RunData, axis: str) -> tuple[list[float], list[float], list[float]] | None:
    pairs = [(base.track(name), other.track(name)) for name in ("train/loss", "val/loss")]
    tracks = next(((a, b) for a, b in pairs if a is not None and b is not None), None)
    if tracks is None:
        return None
    return _common(tracks[0].means(), tracks[1].means(), axis)


def _common(
    ours: Sequence[Point], theirs: Sequence[Point], axis: str
) -> tuple[list[float], list[float], list[float]] | None:
    """Both on one grid over the stretch they share."""
    a, b = (_line(points, axis) for points in (ours, theirs))
    if len(a) < BINS_MIN or len(b) < BINS_MIN:
        return None
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    size = min(BINS, len(a), len(b))
    if high <= low or size < BINS_MIN:
        return None
    grid = [low + (high - low) * i / (size - 1) for i in range(size)]
    return grid, _at(a, grid), _at(b, grid)


def _line(points: Sequence[Point], axis: str) -> list[tuple[float, float]]:
    """Ascending; what a run did twice (a rework) counts as it was done last."""
    start = points[0].time if points else 0.0
    placed = {x: point.value for point in points if (x := place(point, axis, start)) is not None}
    return sorted(placed.items())


def _at(line: Sequence[tuple[float, float]], grid: Sequence[float]) -> list[float]:
    """Linear between neighbours."""
    xs = [x for x, _ in line]
    out = []
    for x in grid:
        i = min(max(bisect_left(xs, x), 1), len(xs) - 1)
        (x0, y0), (x1, y1) = line[i - 1], line[i]
        share = 0.0 if x1 == x0 else min(1.0, max(0.0, (x - x0) / (x1 - x0)))
        out.append(y0 + share * (y1 - y0))
    return out


def _parting(grid: list[float], ours: list[float], theirs: list[float], axis: str) -> tuple[float | None, str]:
    difference = [b - a for a, b in zip(ours, theirs, strict=True)]
    window = max(2, min(WINDOW, len(grid) // 4))
    smooth = [_mean(difference[max(0, i - window + 1) : i + 1]) for i in range(len(difference))]
    jumps = [abs(b - a) for a, b in zip(difference, difference[1:], strict=False)]
    sigma = 1.4826 * median(jumps) / math.sqrt(2)
    level = median(abs(v) for v in ours)
    threshold = max(NOISE_TIMES * sigma / math.sqrt(window), FLOOR_RATIO * level)
    if abs(smooth[-1]) <= threshold:
        return None, f"the losses stay together within {threshold:.3g}"
    last_near = next((i for i in range(len(smooth) - 1, -1, -1) if abs(smooth[i]) <= threshold), -1)
    if len(smooth) - 1 - last_near < window:
        return None, "the losses part only at the very end: too short to call it lasting"
    onset = next((i for i in range(last_near, -1, -1) if abs(smooth[i]) <= threshold / 4), 0) if last_near >= 0 else 0
    where = grid[onset] if last_near >= 0 else grid[0]
    more = "higher" if smooth[-1] > 0 else "lower"
    start = "from the start" if last_near < 0 else f"from {UNITS[axis]} {where:,.0f} on"
    return where, f"{more} loss {start}, {abs(smooth[-1]):.3g} at the end (noise {sigma:.2g})"


def _first_bad(base: RunData, other: RunData) -> float | None:
    ours, theirs = base.tracks.get("train/loss"), other.tracks.get("train/loss")
    if theirs is None or not theirs.bad or (ours is not None and ours.bad):
        return None
    return float(theirs.bad[0][1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def differing_facts(base: RunData, other: RunData) -> list[Fact]:
    """Settings, model, environment and data mixture, the most telling first."""
    facts: list[Fact] = []
    for kind, ours, theirs in (
        ("setting", base.config, other.config), ("model", base.facts, other.facts),
        ("environment", base.environment, other.environment), ("data", _mixture(base), _mixture(other)),
    ):
        for name in ours.keys() | theirs.keys():
            pair = (ours.get(name), theirs.get(name))
            if pair[0] != pair[1] and not _alike(*pair):
                facts.append(Fact(name, kind, pair, _weight(name)))
    facts.sort(key=lambda fact: (-fact.score, fact.name))
    return facts[:FACTS_MAX * 4]


def _rank(base: RunData, other: RunData, axis: str, at: float, facts: list[Fact]) -> list[Fact]:
    """Metrics that part at or before the loss come first: they are the nearest to a cause."""
    moved = []
    for name, share in WATCHED.items():
        since = _metric_parts(base, other, name, share, axis)
        if since is not None:
            before = since[0] <= at + since[1]
            cause = 5.0 if name == "train/learning_rate" else 1.6
            moved.append(Fact(name, "metric", since[2], cause if before else 0.6, since[0]))
    return sorted([*facts, *moved], key=lambda fact: (-fact.score, fact.name))[:FACTS_MAX]


def _metric_parts(
    base: RunData, other: RunData, name: str, share: float, axis: str
) -> tuple[float, float, tuple[float, float]] | None:
    """(where, tolerance, values there): the first place from which the two differ by ``share`` at most places."""
    a, b = base.track(name), other.track(name)
    found = _common(a.means(), b.means(), axis) if a is not None and b is not None else None
    if found is None:
        return None
    grid, ours, theirs = found
    differs = [abs(x - y) > share * max(abs(x), abs(y), 1e-12) for x, y in zip(ours, theirs, strict=True)]
    first = next((i for i in range(len(differs)) if differs[i] and sum(differs[i:]) >= 0.8 * (len(differs) - i)), None)
    if first is None or len(differs) - first < 3:
        return None
    end = min(len(grid) - 1, first + 2)
    return grid[first], 0.05 * (grid[-1] - grid[0]), (round(ours[end], 9), round(theirs[end], 9))


def _mixture(run: RunData) -> dict[str, Any]:
    datasets = run.snapshot.dataset.mixture if run.snapshot else {}
    return {f"dataset {name}": round(view.ratio, 3) for name, view in datasets.items() if view.ratio is not None}


def _alike(ours: Any, theirs: Any) -> bool:
    """4 and 4.0 are no difference."""
    return all(type(v) in (int, float) for v in (ours, theirs)) and math.isclose(ours, theirs, rel_tol=1e-9)


def _weight(name: str) -> float:
    low = name.lower()
    return max((weight for word, weight in WEIGHTS.items() if word in low), default=1.0)
