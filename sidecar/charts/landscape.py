"""Chart: the performance landscape, MFU % x tokens/s x accuracy, colour stage.

Given: runs. Hands on: moments of each run as small points, the run as a whole as a large one.
Never: takes a claimed MFU for a computed one without saying so.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import (
    Painter,
    accuracy_name,
    accuracy_of,
    evenly_spaced,
    in_stages,
    layout3d,
    mfu_of,
    missing,
    plain,
    short,
    stage_title,
)

MOMENTS_MAX = 240


class Moment(msgspec.Struct, frozen=True):
    run: str
    stage: str
    mfu_percent: float
    tokens_per_second: float
    accuracy: float
    step: float
    whole: bool
    """The run as a whole: its median speed and its last accuracy."""
    claimed: bool
    accuracy_name: str
    colour_value: float | None = None


class Landscape(msgspec.Struct):
    groups: dict[str, list[Moment]]
    colours: dict[str, str]
    colour_layout: dict[str, Any]
    continuous: bool
    missing: list[Missing]


def landscape_data(runs: Sequence[RunData], options: Options | None = None) -> Landscape:
    painter = Painter(runs, options.color_by if options else None)
    out = Landscape({}, {}, painter.layout(), painter.continuous, [])
    for stage, members in in_stages(runs).items():
        for run in members:
            moments = _moments(run, stage, painter, out.missing)
            if moments:
                legend, out.colours[legend] = painter.group(run)
                out.groups.setdefault(legend, []).extend(moments)
    return out


def _moments(run: RunData, stage: str, painter: Painter, lacking: list[Missing]) -> list[Moment]:
    (mfu, factor), rate, accuracy = mfu_of(run), run.track("train/tokens_per_second"), accuracy_of(run)
    for found, what in ((mfu, "MFU"), (rate, "tokens/s"), (accuracy, "accuracy")):
        if found is None:
            lacking.append(missing(run, what))
    if mfu is None or rate is None or accuracy is None:
        return []
    claimed = "train/mfu_percent" not in run.tracks
    moments, measured = [], accuracy_name(run) or ""
    for point in evenly_spaced(rate.points(), MOMENTS_MAX):
        at, known = mfu.at(point.order), accuracy.at(point.order)
        if at is not None and known is not None:
            moments.append(Moment(run.label, stage, at.value * factor, point.value, known.value, point.step, False,
                                  claimed, measured, painter.value(run, point.order)))
    last = accuracy.points()[-1]
    moments.append(Moment(run.label, stage, median(p.value for p in mfu.points()) * factor,
                          median(p.value for p in rate.points()), last.value, last.step, True, claimed, measured,
                          painter.value(run)))
    return moments


@chart(
    "landscape",
    title="Performance landscape",
    about="Speed against result: model FLOPs utilisation, tokens per second and accuracy. Small points are moments of "
    "a run, the large diamond is the run as a whole (median speed, last accuracy).",
    prepare=landscape_data,
)
def landscape_figure(data: Landscape) -> Figure | None:
    traces = [_trace(data, legend, moments) for legend, moments in data.groups.items() if moments]
    if not traces:
        return None
    return {"data": traces, "layout": layout3d("MFU (%)", "Tokens per second", "Accuracy", **data.colour_layout)}


def _trace(data: Landscape, legend: str, moments: list[Moment]) -> dict[str, Any]:
    values = [m.colour_value for m in moments]
    paint: dict[str, Any] = {"color": values, "coloraxis": "coloraxis"}
    if not data.continuous:
        paint = {"color": data.colours[legend]}
    return {
        "type": "scatter3d", "mode": "markers", "name": legend,
        "x": [round(m.mfu_percent, 5) for m in moments], "y": [round(m.tokens_per_second, 3) for m in moments],
        "z": [round(m.accuracy, 6) for m in moments], "text": [_hover(m) for m in moments],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": [12 if m.whole else 3.2 for m in moments], "opacity": 0.85, "line": {"width": 0},
                   "symbol": ["diamond" if m.whole else "circle" for m in moments], **paint},
        "meta": {"stage": plain(moments[0].stage), "runs": [plain(m.run) for m in moments if m.whole]},
    }  # fmt: skip


def _hover(m: Moment) -> str:
    where = "whole run" if m.whole else f"step {m.step:,.0f}"
    said = " (claimed by the script)" if m.claimed else ""
    return (f"<b>{plain(m.run)}</b> · {stage_title(m.stage)}<br>{where}<br>MFU {m.mfu_percent:.2f} %{said}"
            f"<br>{short(m.tokens_per_second)} tokens/s<br>accuracy {m.accuracy:.4f} ({plain(m.accuracy_name)})")
