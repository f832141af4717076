"""Chart: dataset trajectories, step x coverage x loss, one line per dataset.

Given: runs. Hands on: lines. Never: shows the loss of the whole step as that of a dataset without saying so.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import (
    PALETTE,
    Painter,
    begins_late,
    evenly_spaced,
    in_stages,
    layout3d,
    missing,
    plain,
    short,
    stage_title,
)

POINTS_MAX = 400
LINES_MAX = 48
ENDINGS = ("/coverage_percent", "/coverage")


class DatasetPoint(msgspec.Struct, frozen=True):
    step: float
    coverage_percent: float
    loss: float
    colour_value: float | None = None


class DatasetLine(msgspec.Struct):
    dataset: str
    run: str
    stage: str
    own_loss: bool
    """Was a loss of this dataset logged, or is it the step's?"""
    points: list[DatasetPoint]


class Datasets(msgspec.Struct):
    lines: list[DatasetLine]
    colour_layout: dict[str, Any]
    continuous: bool
    missing: list[Missing]


def datasets_data(runs: Sequence[RunData], options: Options | None = None) -> Datasets:
    painter = Painter(runs, options.color_by if options else None)
    out = Datasets([], painter.layout(), painter.continuous, begins_late(runs))
    for stage, members in in_stages(runs).items():
        for run in members:
            names = {_dataset(name): name for name in run.tracks if name.endswith(ENDINGS) and _dataset(name)}
            if not names:
                out.missing.append(missing(run, "dataset coverage"))
            for dataset, name in sorted(names.items()):
                points, own = _points(run, dataset, name, painter)
                if points:
                    out.lines.append(DatasetLine(dataset, run.label, stage, own, points))
                else:
                    out.missing.append(missing(run, "train/loss"))
    return out


def _dataset(name: str) -> str:
    return name[len("dataset/"):].rpartition("/")[0] if name.startswith("dataset/") else ""


def _points(run: RunData, dataset: str, name: str, painter: Painter) -> tuple[list[DatasetPoint], bool]:
    own = run.track(f"dataset/{dataset}/loss", f"train/loss/{dataset}")
    losses = own or run.track("train/loss")
    coverage = run.track(name)
    if losses is None or coverage is None:
        return [], False
    points = []
    for point in evenly_spaced(coverage.points(), POINTS_MAX):
        loss = losses.at(point.order)
        if loss is not None:
            value = painter.value(run, point.order)
            points.append(DatasetPoint(point.step, round(point.value, 4), round(loss.value, 6), value))
    return points, own is not None


@chart(
    "datasets",
    title="Dataset trajectories",
    about="How far each dataset was read (100 % is one whole pass) and what the loss was at that moment. A dataset "
    "with a loss of its own (dataset/NAME/loss) is drawn with that one.",
    prepare=datasets_data,
)
def datasets_figure(data: Datasets) -> Figure | None:
    if not data.lines:
        return None
    names = list(dict.fromkeys(line.dataset for line in data.lines))
    several = len({line.run for line in data.lines}) > 1
    traces = []
    for line in data.lines[:LINES_MAX]:
        colour = PALETTE[names.index(line.dataset) % len(PALETTE)]
        paint: dict[str, Any] = {"color": colour}
        if data.continuous:
            paint = {"color": [p.colour_value for p in line.points], "coloraxis": "coloraxis"}
        loss = "loss" if line.own_loss else "loss of the whole step"
        head = f"<b>{plain(line.dataset)}</b> · {plain(line.run)} · {stage_title(line.stage)}"
        label = plain(line.dataset) + (f" · {plain(line.run)}" if several else "")
        traces.append({
            "type": "scatter3d", "mode": "lines", "name": label,
            "x": [p.step for p in line.points], "y": [p.coverage_percent for p in line.points],
            "z": [p.loss for p in line.points], "line": paint | {"width": 5},
            "text": [f"{head}<br>step {p.step:,.0f}<br>coverage {p.coverage_percent:.1f} %<br>{loss} {short(p.loss)}"
                     for p in line.points],
            "hovertemplate": "%{text}<extra></extra>",
            "meta": {"dataset": plain(line.dataset), "stage": plain(line.stage)},
        })  # fmt: skip
    return {"data": traces, "layout": layout3d("Training step", "Coverage (%)", "Loss", **data.colour_layout)}
