"""Runs side by side: final and best values, what was configured otherwise, where they part.

Given: runs, the first of them the baseline. Hands on: a Comparison; figures of their curves laid over one another.
Never: reads anything, or decides whether a difference is bad: ``gate`` does.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar import metrics
from sidecar.charts.data import RunData
from sidecar.charts.divergence import AXES, Divergence, divergence, place
from sidecar.charts.registry import Figure
from sidecar.charts.series import thin
from sidecar.charts.style import PALETTE, late_text, layout2d, plain

HIGHER_IS_BETTER = frozenset({"acc", "accuracy", "mfu", "reward", "rewards", "goodput", "core", "score", "utilization"})
LOWER_IS_BETTER = frozenset({"loss", "nll", "perplexity", "ppl", "bpb", "eta", "ms", "seconds", "time", "rejected",
                             "energy"})
"""Words of a metric's name."""
HIGHER_PHRASES, LOWER_PHRASES = ("per_second", "pass@"), ("bits_per_byte",)
MAIN = ("train/loss", "val/loss", "val/accuracy", "eval/mean_acc", "train/perplexity", "train/grad_norm",
        "train/tokens_per_second", "train/samples_per_second", "train/mfu_percent", "train/num_input_tokens_seen",
        "train/learning_rate")
OVERLAID = ("train/loss", "val/loss", "val/accuracy", "train/grad_norm", "train/tokens_per_second",
            "train/learning_rate")
POINTS_MAX = 1_500
DIFFERENCES_MAX = 60
SMALL = ("train/learning_rate",)
"""Read better as 3e-4 than as 300 millionths."""


class Value(msgspec.Struct, frozen=True):
    """A metric in one run; None: the run has none."""

    final: float | None = None
    best: float | None = None
    best_step: float | None = None
    mean: float | None = None
    bad_total: int = 0
    """How many values were not finite."""


class MetricRow(msgspec.Struct, frozen=True):
    metric: str
    unit: str
    better: str | None
    """lower | higher | None: neither."""
    values: list[Value]


class RunHead(msgspec.Struct, frozen=True):
    run_id: str
    name: str | None
    project: str
    stage: str | None
    state: str
    steps: float | None
    goodput_ratio: float | None
    removed: str | None = None
    """What the journal's bound has removed; None: nothing."""
    label: str = ""
    """The name, and where another of these runs has the same one, the end of the id."""


class Comparison(msgspec.Struct):
    axis: str
    runs: list[RunHead]
    """The first is the baseline."""
    rows: list[MetricRow]
    settings: dict[str, list[Any]]
    """Only those that differ; None: not set."""
    divergences: list[Divergence]
    """One for each run but the first."""


def compare(runs: Sequence[RunData], axis: str = "step") -> Comparison:
    """Raises ValueError for an unknown axis or fewer than two runs."""
    if axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}; one of {', '.join(AXES)}")
    if len(runs) < 2:
        raise ValueError("comparing takes two runs or more")
    heads = [_head(run) for run in runs]
    parted = [divergence(runs[0], run, axis) for run in runs[1:]]
    return Comparison(axis, heads, _rows(runs), _settings(runs), parted)


def better(name: str) -> str | None:
    """Which way a metric improves, by the words of its name: "lower", "higher", or None where they do not tell."""
    low = name.lower()
    words = set(re.split(r"[^a-z]+", low))
    if words & HIGHER_IS_BETTER or any(phrase in low for phrase in HIGHER_PHRASES):
        return "higher"
    if words & LOWER_IS_BETTER or any(phrase in low for phrase in LOWER_PHRASES):
        return "lower"
    return None


def value_of(run: RunData, name: str) -> Value:
    total = run.totals.get(name)
    if total is None:
        return Value()
    if not total.count:
        return Value(final=total.last, bad_total=total.bad)
    up = better(name) == "higher"
    best, at = (total.high, total.high_step) if up else (total.low, total.low_step)
    known = better(name) is not None
    return Value(total.last, best if known else None, at if known else None, total.mean, total.bad)


def _head(run: RunData) -> RunHead:
    loss = run.total("train/loss", "val/loss")
    ratio = run.snapshot.goodput.ratio if run.snapshot else None
    return RunHead(run.run_id, run.name, run.project, run.stage, run.state, loss.last_step if loss else None, ratio,
                   late_text(run) if run.removed_rows else None, run.label)


def _rows(runs: Sequence[RunData]) -> list[MetricRow]:
    names = {name for run in runs for name in run.totals}
    main = [name for name in MAIN if name in names]
    tasks = sorted(name for name in names - set(main) if name.startswith(("val/", "eval/")))
    return [MetricRow(name, metrics.unit_of(name) or "", better(name), [value_of(run, name) for run in runs])
            for name in [*main, *tasks]]


def _settings(runs: Sequence[RunData]) -> dict[str, list[Any]]:
    names = sorted({name for run in runs for name in run.config})
    differing = {name: [run.config.get(name) for run in runs] for name in names}
    return {name: values for name, values in list(differing.items())
            if any(value != values[0] for value in values)}


def overlay_figures(
    runs: Sequence[RunData], axis: str = "step", parted: Sequence[Divergence] = ()
) -> dict[str, Figure]:
    """One figure per metric that any of the runs has: its curves over each other; in that of the loss a line where
    each run parts from the first for good."""
    title = {"step": "Step", "tokens": "Tokens", "time": "Hours since the start"}[axis]
    figures = {}
    for name in OVERLAID:
        traces = [trace for number, run in enumerate(runs) if (trace := _curve(run, name, axis, number)) is not None]
        if traces:
            unit = metrics.unit_of(name)
            layout = layout2d(title, f"{name} ({unit})" if unit else name, showlegend=len(runs) > 1)
            if name in SMALL:
                layout["yaxis"]["tickformat"] = ".1~e"
            if name == "train/loss":
                layout["shapes"], layout["annotations"] = _onsets(parted, axis)
            figures[name] = {"data": traces, "layout": layout}
    return figures


def _onsets(parted: Sequence[Divergence], axis: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A dotted line at each lasting divergence, in the run's colour, and its name."""
    found = [(one, number) for number, one in enumerate(parted, 1) if one.at is not None]
    lines: list[dict[str, Any]] = []
    words: list[dict[str, Any]] = []
    for one, number in found:
        colour, x = PALETTE[number % len(PALETTE)], (one.at or 0.0) / (3600.0 if axis == "time" else 1.0)
        lines.append({"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
                      "line": {"color": colour, "width": 1.5, "dash": "dot"}})
        words.append({"x": x, "xref": "x", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "top",
                      "yshift": -14 * len(words), "text": f"{plain(one.run, 24)} parts", "showarrow": False,
                      "font": {"color": colour, "size": 11}})
    return lines, words


def _curve(run: RunData, name: str, axis: str, number: int) -> dict[str, Any] | None:
    track = run.track(name)
    if track is None:
        return None
    points = thin(track.points(), POINTS_MAX)
    start, hour = points[0].time, 3600.0 if axis == "time" else 1.0
    placed = [(x / hour, p) for p in points if (x := place(p, axis, start)) is not None]
    if not placed:
        return None
    return {
        "type": "scatter", "mode": "lines" if len(placed) > 40 else "lines+markers", "name": plain(run.label),
        "x": [x for x, _ in placed], "y": [p.value for _, p in placed], "customdata": [p.step for _, p in placed],
        "line": {"color": PALETTE[number % len(PALETTE)], "width": 1.6},
        "hovertemplate": f"<b>{plain(run.label)}</b><br>step %{{customdata:,.0f}}<br>%{{y:.5g}}<extra></extra>",
        "meta": {"run": plain(run.run_id)},
    }  # fmt: skip
