"""Chart: several benchmarks at once, MMLU x ARC-Easy x GSM8K, size HumanEval, colour stage.

Given: runs. Hands on: one point per evaluation that has all three. Never: takes a missing benchmark for 0.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import Painter, in_stages, layout3d, plain, short, sizes, spread_out, stage_title, who

TASKS = {"eval/mmlu_acc": "MMLU", "eval/arc_easy_acc": "ARC-Easy", "eval/gsm8k_acc": "GSM8K",
         "eval/humaneval_acc": "HumanEval"}
X, Y, Z, SIZE = TASKS
EVALUATIONS_MAX = 200


class Evaluation(msgspec.Struct, frozen=True):
    run: str
    stage: str
    step: float
    mmlu: float
    arc_easy: float
    gsm8k: float
    humaneval: float | None
    colour_value: float | None = None


class MultiMetric(msgspec.Struct):
    groups: dict[str, list[Evaluation]]
    colours: dict[str, str]
    colour_layout: dict[str, Any]
    continuous: bool
    missing: list[Missing]


def multimetric_data(runs: Sequence[RunData], options: Options | None = None) -> MultiMetric:
    painter = Painter(runs, options.color_by if options else None)
    out = MultiMetric({}, {}, painter.layout(), painter.continuous, [])
    for stage, members in in_stages(runs).items():
        for run in members:
            lacking = [title for name, title in TASKS.items() if run.track(name) is None]
            out.missing += [
                Missing(f"{title} accuracy", who(run), f'run.log({{"{name}": share}}, step=step) at each evaluation')
                for name, title in TASKS.items() if title in lacking
            ]
            if not {TASKS[X], TASKS[Y], TASKS[Z]} & set(lacking):
                legend, out.colours[legend] = painter.group(run)
                out.groups.setdefault(legend, []).extend(_evaluations(run, stage, painter))
    return out


def _evaluations(run: RunData, stage: str, painter: Painter) -> list[Evaluation]:
    """At each step where one of the three was measured and all three are known."""
    tracks = [run.tracks[name] for name in (X, Y, Z)]
    human = run.track(SIZE)
    orders = sorted({point.order for track in tracks for point in track.points()})
    ends = {max(known.step for track in tracks if (known := track.at(order))): order for order in orders}
    out = []
    for step, order in spread_out(sorted(ends.items()), EVALUATIONS_MAX):
        known = [track.at(order) for track in tracks]
        if None in known:
            continue
        later = human.at(max(order, _same_step(human, step, order))) if human else None
        out.append(Evaluation(run.label, stage, step, known[0].value, known[1].value, known[2].value,
                              later.value if later else None, painter.value(run, order)))
    return out


def _same_step(track: Any, step: float, order: int) -> int:
    """HumanEval may be logged a row later, at the same step."""
    return max((p.order for p in track.points() if p.step == step), default=order)


@chart(
    "multimetric",
    title="Benchmarks together",
    about="Every evaluation by MMLU, ARC-Easy and GSM8K accuracy; the larger the point, the better HumanEval.",
    prepare=multimetric_data,
)
def multimetric_figure(data: MultiMetric) -> Figure | None:
    every = [e for evaluations in data.groups.values() for e in evaluations]
    if not every:
        return None
    size = dict(zip(map(id, every), sizes([e.humaneval for e in every], 6, 26), strict=True))
    traces = []
    for legend, evaluations in data.groups.items():
        values = [e.colour_value for e in evaluations]
        paint: dict[str, Any] = {"color": values, "coloraxis": "coloraxis"}
        if not data.continuous:
            paint = {"color": data.colours[legend]}
        traces.append({
            "type": "scatter3d", "mode": "markers", "name": legend, "x": [e.mmlu for e in evaluations],
            "y": [e.arc_easy for e in evaluations], "z": [e.gsm8k for e in evaluations],
            "text": [_hover(e) for e in evaluations], "hovertemplate": "%{text}<extra></extra>",
            "marker": paint | {"size": [size[id(e)] for e in evaluations], "sizemode": "diameter", "opacity": 0.85,
                       "line": {"width": 1, "color": "#ffffff"}},
        })  # fmt: skip
    layout = layout3d("MMLU accuracy", "ARC-Easy accuracy", "GSM8K accuracy", **data.colour_layout)
    return {"data": traces, "layout": layout}


def _hover(e: Evaluation) -> str:
    return (f"<b>{plain(e.run)}</b> · {stage_title(e.stage)}<br>step {e.step:,.0f}<br>MMLU {e.mmlu:.4f}"
            f"<br>ARC-Easy {e.arc_easy:.4f}<br>GSM8K {e.gsm8k:.4f}<br>HumanEval {short(e.humaneval)}")
