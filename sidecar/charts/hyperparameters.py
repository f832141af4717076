"""Chart: hyperparameter space, depth x model dimension x batch size, colour best accuracy, size learning rate.

Given: runs. Hands on: one point per run. Never: drops a run in silence: what it lacks is named.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import (
    SCALE,
    Painter,
    accuracy_of,
    axis,
    layout3d,
    missing,
    plain,
    short,
    sizes,
    stage_colour,
    stage_title,
    ticks,
)

NAMES = {"depth": "depth (n_layer, depth, num_hidden_layers ...)", "width": "model dimension (n_embd, hidden_size ...)",
         "batch_size": "batch size", "learning_rate": "learning rate"}


class Candidate(msgspec.Struct, frozen=True):
    run: str
    stage: str | None
    depth: float
    width: float
    batch_size: float
    learning_rate: float | None
    best_accuracy: float | None
    colour: str
    colour_value: float | None
    category: str


class Hyperparameters(msgspec.Struct):
    candidates: list[Candidate]
    by: str
    """What the colour says: "Best accuracy", or the key of --color-by."""
    continuous: bool
    missing: list[Missing]


def hyperparameters_data(runs: Sequence[RunData], options: Options | None = None) -> Hyperparameters:
    key = options.color_by if options else None
    painter = Painter(runs, key)
    found: list[Candidate] = []
    lacking: list[Missing] = []
    for run in runs:
        values = {which: run.setting(which) for which in NAMES}
        track = accuracy_of(run)
        best = max((p.value for p in track.points()), default=None) if track else None
        lacking += [missing(run, which, NAMES[which]) for which, value in values.items() if value is None]
        if best is None:
            lacking.append(missing(run, "accuracy", "best accuracy"))
        if None in (values["depth"], values["width"], values["batch_size"]):
            continue
        shown = painter.value(run) if key and painter.continuous else best
        category, colour = painter.group(run) if key else ("", stage_colour(run.stage))
        found.append(Candidate(run.label, run.stage, values["depth"] or 0, values["width"] or 0,
                               values["batch_size"] or 0, values["learning_rate"], best, colour, shown, category))
    by = painter.title if key and painter.known else "Best accuracy"
    return Hyperparameters(found, by, not key or painter.continuous or not painter.known, lacking)


@chart(
    "hyperparameters",
    title="Hyperparameter space",
    about="Each run by depth, model dimension and batch size. Colour is the best accuracy it reached, size its "
    "learning rate; grey has no accuracy.",
    prepare=hyperparameters_data,
)
def hyperparameters_figure(data: Hyperparameters) -> Figure | None:
    if not data.candidates:
        return None
    size = sizes([c.learning_rate for c in data.candidates], 9, 30, log=True)
    traces: list[dict[str, Any]] = []
    if data.continuous:
        known = [(c, s) for c, s in zip(data.candidates, size, strict=True) if c.colour_value is not None]
        rest = [(c, s) for c, s in zip(data.candidates, size, strict=True) if c.colour_value is None]
        bar = {"title": {"text": data.by}, "thickness": 12, "len": 0.6, "outlinewidth": 0, "tickformat": ".3~g"}
        colours = [c.colour_value for c, _ in known]
        scale = {"color": colours, "colorscale": SCALE, "showscale": True, "colorbar": bar, **_limits(colours)}
        if known:
            traces.append(_trace("runs", known, scale))
        if rest:
            traces.append(_trace(f"no {data.by[0].lower()}{data.by[1:]}", rest, {"color": "#8a94a3"}))
    else:
        for name in dict.fromkeys(c.category for c in data.candidates):
            part = [(c, s) for c, s in zip(data.candidates, size, strict=True) if c.category == name]
            traces.append(_trace(name, part, {"color": part[0][0].colour}))
    layout = layout3d(
        axis("Model depth", **ticks([c.depth for c in data.candidates])),
        axis("Model dimension", **ticks([c.width for c in data.candidates])),
        axis("Batch size", **ticks([c.batch_size for c in data.candidates])), showlegend=len(traces) > 1,
    )  # fmt: skip
    return {"data": traces, "layout": layout}


def _limits(values: Sequence[float | None]) -> dict[str, float]:
    """A scale around one value would be drawn without a width."""
    known = [v for v in values if v is not None]
    if known and max(known) - min(known) < 1e-6 * max(map(abs, known), default=0.0) + 1e-12:
        pad = 0.05 * abs(known[0]) or 0.5
        return {"cmin": known[0] - pad, "cmax": known[0] + pad}
    return {}


def _trace(name: str, part: Sequence[tuple[Candidate, float]], colour: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter3d", "mode": "markers", "name": name,
        "x": [c.depth for c, _ in part], "y": [c.width for c, _ in part], "z": [c.batch_size for c, _ in part],
        "text": [_hover(c) for c, _ in part], "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": [s for _, s in part], "sizemode": "diameter", "opacity": 0.9,
                   "line": {"width": 1, "color": "#ffffff"}, **colour},
    }  # fmt: skip


def _hover(c: Candidate) -> str:
    return (f"<b>{plain(c.run)}</b> · {stage_title(c.stage)}<br>depth {short(c.depth)}<br>dimension {short(c.width)}"
            f"<br>batch size {short(c.batch_size)}<br>learning rate {short(c.learning_rate)}"
            f"<br>best accuracy {short(c.best_accuracy)}")
