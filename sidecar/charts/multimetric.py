"""Chart: several benchmarks at once, MMLU x ARC-Easy x GSM8K, size HumanEval, colour stage.

Given: runs. Hands on: one point per evaluation that has all three. Never: takes a missing benchmark for 0.

Where no run has the document's three, the accuracies that were logged take their place, and the chart says so.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import Painter, in_stages, layout3d, plain, short, sizes, spread_out, stage_title, who

TASKS = {"eval/mmlu_acc": "MMLU", "eval/arc_easy_acc": "ARC-Easy", "eval/gsm8k_acc": "GSM8K",
         "eval/humaneval_acc": "HumanEval"}
GENERAL = {"eval/mean_acc": "Mean", "val/accuracy": "Validation"}
EVALUATIONS_MAX = 200


class Evaluation(msgspec.Struct, frozen=True):
    """Accuracies at one step, in the order of ``MultiMetric.tasks``."""

    run: str
    stage: str
    step: float
    x: float
    y: float
    z: float
    size: float | None
    colour_value: float | None = None


class MultiMetric(msgspec.Struct):
    tasks: dict[str, str]
    """Metric -> title of what is on x, y, z, and (if there is a fourth) size."""
    groups: dict[str, list[Evaluation]]
    colours: dict[str, str]
    colour_layout: dict[str, Any]
    continuous: bool
    missing: list[Missing]


def multimetric_data(runs: Sequence[RunData], options: Options | None = None) -> MultiMetric:
    painter = Painter(runs, options.color_by if options else None)
    tasks = TASKS if _have(runs, list(TASKS)[:3]) else _others(runs)
    out = MultiMetric(tasks, {}, {}, painter.layout(), painter.continuous, [])
    for stage, members in in_stages(runs).items():
        for run in members:
            out.missing += [
                Missing(f"{title} accuracy", who(run), f'run.log({{"{name}": share}}, step=step) at each evaluation')
                for name, title in TASKS.items() if run.track(name) is None
            ]
            if _have([run], list(tasks)[:3]):
                legend, out.colours[legend] = painter.group(run)
                out.groups.setdefault(legend, []).extend(_evaluations(run, stage, list(tasks), painter))
    return out


def _have(runs: Sequence[RunData], names: Sequence[str]) -> bool:
    return len(names) == 3 and any(all(run.track(name) for name in names) for run in runs)


def _others(runs: Sequence[RunData]) -> dict[str, str]:
    """The accuracies that most runs have, single benchmarks first; the document's own when there are not three."""
    seen = Counter(name for run in runs for name in run.tracks
                   if name.startswith("eval/") and name.endswith("_acc") and name not in GENERAL and run.track(name))
    single = {name: name[5:-4] for name, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))}
    general = {name: title for name, title in GENERAL.items() if any(run.track(name) for run in runs)}
    chosen = dict(list((single | general).items())[:4])
    return chosen if _have(runs, list(chosen)[:3]) else TASKS


def _evaluations(run: RunData, stage: str, names: Sequence[str], painter: Painter) -> list[Evaluation]:
    """At each step where one of the three was measured and all three are known."""
    tracks = [run.tracks[name] for name in names[:3]]
    fourth = run.track(names[3]) if len(names) > 3 else None
    orders = sorted({point.order for track in tracks for point in track.points()})
    ends = {max(known.step for track in tracks if (known := track.at(order))): order for order in orders}
    out = []
    for step, order in spread_out(sorted(ends.items()), EVALUATIONS_MAX):
        known = [track.at(order) for track in tracks]
        if None in known:
            continue
        later = fourth.at(max(order, _same_step(fourth, step, order))) if fourth else None
        out.append(Evaluation(run.label, stage, step, known[0].value, known[1].value, known[2].value,
                              later.value if later else None, painter.value(run, order)))
    return out


def _same_step(track: Any, step: float, order: int) -> int:
    """The fourth may be logged a row later, at the same step."""
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
    titles = [plain(title) for title in data.tasks.values()]
    size = dict(zip(map(id, every), sizes([e.size for e in every], 6, 26), strict=True))
    traces = []
    for legend, evaluations in data.groups.items():
        values = [e.colour_value for e in evaluations]
        paint: dict[str, Any] = {"color": values, "coloraxis": "coloraxis"}
        if not data.continuous:
            paint = {"color": data.colours[legend]}
        traces.append({
            "type": "scatter3d", "mode": "markers", "name": legend, "x": [e.x for e in evaluations],
            "y": [e.y for e in evaluations], "z": [e.z for e in evaluations],
            "text": [_hover(e, titles) for e in evaluations], "hovertemplate": "%{text}<extra></extra>",
            "marker": paint | {"size": [size[id(e)] for e in evaluations], "sizemode": "diameter", "opacity": 0.85,
                       "line": {"width": 1, "color": "#ffffff"}},
        })  # fmt: skip
    layout = layout3d(*(f"{title} accuracy" for title in titles[:3]), **data.colour_layout)
    if data.tasks != TASKS:
        layout["meta"] = {"note": f"No run has MMLU, ARC-Easy and GSM8K: drawn with {', '.join(titles)} instead."}
    return {"data": traces, "layout": layout}


def _hover(e: Evaluation, titles: Sequence[str]) -> str:
    values = [f"{title} {short(value)}" for title, value in zip(titles, (e.x, e.y, e.z, e.size), strict=False)]
    return f"<b>{plain(e.run)}</b> · {stage_title(e.stage)}<br>step {e.step:,.0f}<br>{'<br>'.join(values)}"
