"""Chart: the training trajectory, step x loss x accuracy, stages one after another.

Given: runs. Hands on: one trace per stage, evaluations as larger markers, links between stages.
Never: invents an accuracy: between evaluations the last one is carried forward and marked as such.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.series import Point, thin
from sidecar.charts.style import (
    Painter,
    accuracy_name,
    accuracy_of,
    begins_late,
    in_pipelines,
    in_stages,
    layout2d,
    layout3d,
    missing,
    plain,
    short,
    stage_colour,
    stage_title,
)

POINTS_MAX = 12_000
"""Over all runs of the chart: about 2 MB of page."""
EVALUATED, CARRIED = 6.5, 2.2
"""Marker sizes in pixels."""


class TrajectoryPoint(msgspec.Struct, frozen=True):
    x: float
    """Step, after the steps of the stages before."""
    loss: float
    accuracy: float | None
    evaluated: bool
    """Was the accuracy measured here, or carried forward?"""
    own_step: float
    colour_value: float | None = None


class Path(msgspec.Struct):
    """One run's way."""

    run: str
    stage: str
    legend: str
    colour: str
    points: list[TrajectoryPoint]
    accuracy: str | None = None
    """The metric that stands for accuracy."""


class Trajectory(msgspec.Struct):
    paths: list[Path]
    links: list[tuple[str, TrajectoryPoint, TrajectoryPoint]]
    """(stage that begins, end of the stage before, begin of this one)."""
    has_accuracy: bool
    colour_layout: dict[str, Any]
    continuous: bool
    missing: list[Missing]


def trajectory_data(runs: Sequence[RunData], options: Options | None = None) -> Trajectory:
    painter = Painter(runs, options.color_by if options else None)
    lacking = begins_late(runs)
    paths: list[Path] = []
    links: list[tuple[str, TrajectoryPoint, TrajectoryPoint]] = []
    share = max(64, POINTS_MAX // max(1, len(runs)))
    for run in runs:
        if run.stage is None:
            lacking.append(missing(run, "stage"))
    for members in in_pipelines(runs):
        offset, before = 0.0, None
        for stage, stage_runs in in_stages(members).items():
            found = (_path(run, stage, offset, painter, lacking, share) for run in stage_runs)
            made = [path for path in found if path is not None]
            paths += made
            for path in made:
                if before is not None:
                    links.append((stage, before, path.points[0]))
            if made:
                before = made[-1].points[-1]
                offset = max(path.points[-1].x for path in made)
    has_accuracy = any(point.accuracy is not None for path in paths for point in path.points)
    return Trajectory(paths, links, has_accuracy, painter.layout(), painter.continuous, lacking)


def _path(run: RunData, stage: str, offset: float, painter: Painter, lacking: list[Missing], share: int) -> Path | None:
    losses, accuracy = run.track("train/loss", "val/loss"), accuracy_of(run)
    if losses is None:
        lacking.append(missing(run, "train/loss"))
    if accuracy is None:
        lacking.append(missing(run, "accuracy"))
    if losses is None:
        return None
    points = []
    for point, evaluated, value in _joined(thin(losses.points(), share), accuracy.points() if accuracy else []):
        points.append(TrajectoryPoint(offset + point.step, point.value, value, evaluated, point.step,
                                      painter.value(run, point.order)))
    legend, colour = painter.group(run) if accuracy is not None else painter.line(run)
    return Path(run.label, stage, legend, colour, points, accuracy_name(run))


def _joined(losses: Sequence[Point], evaluations: Sequence[Point]) -> list[tuple[Point, bool, float | None]]:
    """Each loss with the accuracy known by then; and at each evaluation a point of its own."""
    out: list[tuple[Point, bool, float | None]] = []
    at, value = 0, None
    for loss in losses:
        while at < len(evaluations) and evaluations[at].order <= loss.order:
            value = evaluations[at].value
            if out:
                last = out[-1][0]
                out.append((Point(evaluations[at].order, evaluations[at].step, None, 0.0, last.value), True, value))
            at += 1
        out.append((loss, False, value))
    for late in evaluations[at:]:
        out.append((Point(late.order, late.step, None, 0.0, losses[-1].value), True, late.value))
    return out


@chart(
    "trajectory",
    title="Training trajectory",
    about="Where training went: step, loss and accuracy, stage after stage. Large points are evaluations; between "
    "them the last accuracy is carried forward. The faint line on the floor is training before the first evaluation.",
    prepare=trajectory_data,
)
def trajectory_figure(data: Trajectory) -> Figure | None:
    if not data.paths:
        return None
    if not data.has_accuracy:
        return _flat(data)
    floor = min(p.accuracy for path in data.paths for p in path.points if p.accuracy is not None)
    traces = [*_stage_traces(data), *_before(data, floor), *_links(data)]
    layout = layout3d("Training step", "Loss", "Accuracy", **data.colour_layout)
    return {"data": traces, "layout": layout}


def _stage_traces(data: Trajectory) -> list[dict[str, Any]]:
    """One trace per stage (or colour category): its runs one after another, with holes between them."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in data.paths:
        groups.setdefault((path.legend, path.colour), []).append(path)
    return [trace for (legend, colour), paths in groups.items() if (trace := _trace(data, legend, colour, paths))]


def _trace(data: Trajectory, legend: str, colour: str, paths: list[Path]) -> dict[str, Any] | None:
    x: list[Any] = []
    y: list[Any] = []
    z: list[Any] = []
    size: list[float] = []
    symbol: list[str] = []
    text: list[str] = []
    values: list[Any] = []
    for path in paths:
        for p in path.points:
            if p.accuracy is None:
                continue
            x.append(p.x)
            y.append(round(p.loss, 6))
            z.append(round(p.accuracy, 6))
            size.append(EVALUATED if p.evaluated else CARRIED)
            symbol.append("diamond" if p.evaluated else "circle")
            text.append(_hover(path, p))
            values.append(p.colour_value)
        for column in (x, y, z, values):
            column.append(None)
        size.append(0)
        symbol.append("circle")
        text.append("")
    if all(value is None for value in x):
        return None
    paint: Any = {"color": values, "coloraxis": "coloraxis"} if data.continuous else {"color": colour}
    return {
        "type": "scatter3d", "mode": "lines+markers", "name": legend, "x": x, "y": y, "z": z, "text": text,
        "hovertemplate": "%{text}<extra></extra>", "line": {"width": 4, **paint},
        "marker": {"size": size, "symbol": symbol, "opacity": 0.95, "line": {"width": 0}, **paint},
        "meta": {"stage": plain(paths[0].stage), "runs": [plain(path.run) for path in paths]},
    }


def _hover(path: Path, p: TrajectoryPoint) -> str:
    kind = "evaluated here" if p.evaluated else "carried forward from the last evaluation"
    extra = f"<br>colour {short(p.colour_value)}" if p.colour_value is not None else ""
    return (f"<b>{plain(path.run)}</b> · {stage_title(path.stage)}<br>step {p.own_step:,.0f}<br>loss {short(p.loss)}"
            f"<br>accuracy {p.accuracy:.4f} ({plain(path.accuracy)}, {kind}){extra}")


def _before(data: Trajectory, floor: float) -> list[dict[str, Any]]:
    x: list[Any] = []
    y: list[Any] = []
    for path in data.paths:
        known = [p for p in path.points if p.accuracy is None]
        x += [*(p.x for p in known), None]
        y += [*(round(p.loss, 6) for p in known), None]
    if all(value is None for value in x):
        return []
    return [{
        "type": "scatter3d", "mode": "lines", "name": "not evaluated yet", "x": x, "y": y,
        "z": [None if v is None else floor for v in x], "line": {"width": 3, "color": "#9aa4b2"}, "opacity": 0.8,
        "hovertemplate": "step %{x:,.0f}<br>loss %{y:.4f}<br>accuracy not known yet<extra></extra>",
        "meta": {"role": "before the first evaluation"},
    }]  # fmt: skip


def _links(data: Trajectory) -> list[dict[str, Any]]:
    x: list[Any] = []
    y: list[Any] = []
    z: list[Any] = []
    for _, end, begin in data.links:
        high = begin.accuracy if begin.accuracy is not None else end.accuracy
        if end.accuracy is None or high is None:
            continue
        x += [end.x, begin.x, None]
        y += [round(end.loss, 6), round(begin.loss, 6), None]
        z += [end.accuracy, high, None]
    if not x:
        return []
    return [{
        "type": "scatter3d", "mode": "lines", "name": "next stage", "x": x, "y": y, "z": z, "hoverinfo": "skip",
        "line": {"width": 4, "color": "#7d8896", "dash": "dash"}, "meta": {"role": "link between stages"},
    }]  # fmt: skip


def _flat(data: Trajectory) -> Figure:
    """No run has an accuracy: step x loss is what there is."""
    traces = []
    for path in data.paths:
        traces.append({
            "type": "scatter", "mode": "lines", "name": f"{plain(path.run)} · {path.legend}",
            "x": [p.x for p in path.points], "y": [round(p.loss, 6) for p in path.points],
            "line": {"color": path.colour or stage_colour(path.stage), "width": 1.6},
            "hovertemplate": "step %{x:,.0f}<br>loss %{y:.4f}",
        })  # fmt: skip
    layout = layout2d("Training step", "Loss", meta={"note": "drawn flat: no accuracy was recorded"})
    return {"data": traces, "layout": layout}
