"""Chart: stages side by side, a table of each and their loss curves on an equal axis of tokens.

Given: runs. Hands on: rows of the table, curves from token 0 of each stage. Never: mixes tokens and steps on one axis.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.series import thin
from sidecar.charts.style import (
    Painter,
    accuracy_of,
    begins_late,
    duration,
    in_stages,
    layout2d,
    mfu_of,
    missing,
    plain,
    short,
    stage_title,
)

POINTS_MAX = 10_000


class StageRow(msgspec.Struct):
    """One stage in numbers; None: unknown."""

    stage: str
    runs: int
    steps: float | None
    tokens: float | None
    seconds: float | None
    loss_first: float | None
    loss_last: float | None
    loss_best: float | None
    val_loss_best: float | None
    accuracy_best: float | None
    tokens_per_second: float | None
    mfu_percent: float | None


class Curve(msgspec.Struct):
    run: str
    stage: str
    legend: str
    colour: str
    x: list[float]
    loss: list[float | None]
    steps: list[float]


class Stages(msgspec.Struct):
    rows: list[StageRow]
    curves: list[Curve]
    by_tokens: bool
    """False: some run counts no tokens, so the axis is steps for all."""
    missing: list[Missing]


def stages_data(runs: Sequence[RunData], options: Options | None = None) -> Stages:
    painter = Painter(runs, options.color_by if options else None)
    lacking = begins_late(runs)
    lacking += [missing(run, "tokens") for run in runs if run.total("train/num_input_tokens_seen") is None]
    drawn = [run for run in runs if run.track("train/loss", "val/loss")]
    lacking += [missing(run, "train/loss") for run in runs if run not in drawn]
    by_tokens = bool(drawn) and all(run.total("train/num_input_tokens_seen") for run in drawn)
    share = max(64, POINTS_MAX // max(1, len(drawn)))
    rows, curves = [], []
    for stage, members in in_stages(runs).items():
        rows.append(_row(stage, members))
        curves += [_curve(run, stage, painter, by_tokens, share) for run in members if run in drawn]
    return Stages(rows, curves, by_tokens, lacking)


def _row(stage: str, runs: Sequence[RunData]) -> StageRow:
    loss = min((t.low for run in runs if (t := run.total("train/loss"))), default=None)
    val = min((t.low for run in runs if (t := run.total("val/loss"))), default=None)
    accuracies = [p.value for run in runs if (t := accuracy_of(run)) for p in t.points()]
    mfus = [t.points()[len(t.points()) // 2].value * f for run in runs for t, f in [mfu_of(run)] if t]
    rates = [t.mean for run in runs if (t := run.total("train/tokens_per_second")) and t.mean is not None]
    first, last = (next((t for run in order if (t := run.total("train/loss"))), None) for order in (runs, runs[::-1]))
    tokens = [t.high for run in runs if (t := run.total("train/num_input_tokens_seen"))]
    steps = [t.last_step for run in runs if (t := run.total("train/loss", "val/loss"))]
    seconds = [s.elapsed_seconds for run in runs if (s := run.snapshot) and s.elapsed_seconds is not None]
    return StageRow(
        stage, len(runs), sum(steps) if steps else None, sum(tokens) if tokens else None,
        sum(seconds) if seconds else None,
        first.first if first else None, last.last if last else None, loss, val, max(accuracies, default=None),
        sum(rates) / len(rates) if rates else None, sum(mfus) / len(mfus) if mfus else None,
    )


def _curve(run: RunData, stage: str, painter: Painter, by_tokens: bool, share: int) -> Curve:
    track = run.track("train/loss", "val/loss")
    points = thin(track.points() if track else [], share)
    legend, colour = painter.line(run)
    x = [float(p.tokens or 0) if by_tokens else p.step for p in points]
    start = x[0] if by_tokens and x else 0.0
    return Curve(run.label, stage, legend, colour, [v - start for v in x], [round(p.value, 6) for p in points],
                 [p.step for p in points])


COLUMNS = ("stage", "runs", "steps", "tokens", "time", "first loss", "last loss", "best loss", "best val loss",
           "best accuracy", "tokens/s", "MFU %")


def stages_table(data: Stages) -> tuple[tuple[str, ...], list[list[str]]]:
    """(column titles, rows of text) for a page or a terminal."""
    rows = []
    for r in data.rows:
        values = (r.loss_first, r.loss_last, r.loss_best, r.val_loss_best, r.accuracy_best,
                  r.tokens_per_second, r.mfu_percent)
        rows.append([stage_title(r.stage), str(r.runs), short(r.steps), short(r.tokens), duration(r.seconds),
                     *(short(v) for v in values)])
    return COLUMNS, rows


@chart(
    "stages",
    title="Stages side by side",
    about="The loss of every run on one axis that starts at each stage's first token, so that stages of different "
    "length and batch size can be compared; the numbers are in the table.",
    prepare=stages_data,
)
def stages_figure(data: Stages) -> Figure | None:
    if not data.curves:
        return None
    traces: list[dict[str, Any]] = []
    seen: set[str] = set()
    for curve in data.curves:
        traces.append({
            "type": "scatter", "mode": "lines", "name": curve.legend, "legendgroup": curve.legend,
            "showlegend": curve.legend not in seen, "x": curve.x, "y": curve.loss, "customdata": curve.steps,
            "line": {"color": curve.colour, "width": 1.6}, "opacity": 0.9,
            "hovertemplate": f"<b>{plain(curve.run)}</b> · {stage_title(curve.stage)}<br>step %{{customdata:,.0f}}<br>"
            f"%{{x:.4s}} {'tokens' if data.by_tokens else 'steps'}<br>loss %{{y:.4f}}<extra></extra>",
            "meta": {"stage": plain(curve.stage), "run": plain(curve.run)},
        })  # fmt: skip
        seen.add(curve.legend)
    title = "Tokens since the stage began" if data.by_tokens else "Step"
    return {"data": traces, "layout": layout2d(title, "Loss")}
