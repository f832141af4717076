"""Chart: several benchmarks at once, MMLU x ARC-Easy x GSM8K, size HumanEval, colour stage.

Given: runs. Hands on: one point per evaluation for which all three are known. Never: takes a missing benchmark for 0.

A benchmark that only an earlier stage of the same pipeline measured is carried forward, and marked as such. Where no
pipeline has these three, the accuracies that were logged take their place, and the chart says so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import (
    Painter,
    evenly_spaced,
    in_pipelines,
    in_stages,
    layout3d,
    plain,
    short,
    sizes,
    stage_title,
    who,
)

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
    carried: dict[str, str] = {}
    """Metric -> the stage it was measured in, where that was an earlier one."""


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
    pipelines = [[run for stage in in_stages(group).values() for run in stage] for group in in_pipelines(runs)]
    tasks = TASKS if _have(pipelines, list(TASKS)[:3]) else _others(runs, pipelines)
    out = MultiMetric(tasks, {}, {}, painter.layout(), painter.continuous, [])
    for members in pipelines:
        known: Known = {}  # Where a stage has several runs, nobody knows whose model went on: nothing is carried.
        for run in members:
            for name in {**TASKS, **tasks}:
                if run.track(name) is None and name not in known and name in TASKS:
                    how = f'run.log({{"{name}": share}}, step=step) at each evaluation'
                    out.missing.append(Missing(f"{TASKS[name]} accuracy", who(run), how))
            found = _evaluations(run, list(tasks), painter, known)
            if found:
                legend, out.colours[legend] = painter.group(run)
                out.groups.setdefault(legend, []).extend(found)
            for name in {**TASKS, **tasks} if len({one.stage for one in members}) == len(members) else ():
                if (track := run.track(name)) is not None:
                    known[name] = (track.points()[-1].value, stage_title(run.stage))
    return out


Known = dict[str, tuple[float, str]]
"""Metric -> (its last value in an earlier stage, that stage)."""


def _have(pipelines: Sequence[Sequence[RunData]], names: Sequence[str]) -> bool:
    return len(names) == 3 and any(all(any(run.track(name) for run in members) for name in names)
                                   for members in pipelines)


def _others(runs: Sequence[RunData], pipelines: Sequence[Sequence[RunData]]) -> dict[str, str]:
    """The accuracies that most runs have, single benchmarks first; ``TASKS`` when there are not three."""
    seen = Counter(name for run in runs for name in run.tracks
                   if name.startswith("eval/") and name.endswith("_acc") and name not in GENERAL and run.track(name))
    single = {name: name[5:-4] for name, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))}
    general = {name: title for name, title in GENERAL.items() if any(run.track(name) for run in runs)}
    chosen = dict(list((single | general).items())[:4])
    return chosen if _have(pipelines, list(chosen)[:3]) else TASKS


def _evaluations(run: RunData, names: Sequence[str], painter: Painter, known: Known) -> list[Evaluation]:
    """At each step where one of the three was measured and all three are known."""
    tracks = {name: run.track(name) for name in names[:3]}
    fourth = run.track(names[3]) if len(names) > 3 else None
    orders = sorted({point.order for track in tracks.values() if track for point in track.points()})
    ends: dict[float, int] = {}
    for order in orders:
        ends[max(p.step for track in tracks.values() if track and (p := track.at(order)))] = order
    out = []
    for step, order in evenly_spaced(sorted(ends.items()), EVALUATIONS_MAX):
        values: list[float] = []
        carried: dict[str, str] = {}
        for name, track in tracks.items():
            own = track.at(order) if track else None
            if own is not None:
                values.append(own.value)
            elif name in known:
                values.append(known[name][0])
                carried[name] = known[name][1]
        if len(values) < 3:
            continue
        x, y, z = values
        later = fourth.at(max(order, _same_step(fourth, step, order))) if fourth else None
        size = later.value if later else known[names[3]][0] if len(names) > 3 and names[3] in known else None
        out.append(Evaluation(run.label, run.stage or "", step, x, y, z, size, painter.value(run, order), carried))
    return out


def _same_step(track: Any, step: float, order: int) -> int:
    """The fourth may be logged a row later, at the same step."""
    return max((p.order for p in track.points() if p.step == step), default=order)


@chart(
    "multimetric",
    title="Benchmarks together",
    about="Every evaluation by MMLU, ARC-Easy and GSM8K accuracy; the larger the point, the better HumanEval. "
    "Hollow points carry a benchmark forward that only an earlier stage measured.",
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
            "text": [_hover(e, data.tasks) for e in evaluations], "hovertemplate": "%{text}<extra></extra>",
            "marker": paint | {"size": [size[id(e)] for e in evaluations], "sizemode": "diameter", "opacity": 0.85,
                       "symbol": ["circle-open" if e.carried else "circle" for e in evaluations],
                       "line": {"width": 1, "color": "#ffffff"}},
        })  # fmt: skip
    layout = layout3d(*(f"{title} accuracy" for title in titles[:3]), **data.colour_layout)
    if data.tasks != TASKS:
        layout["meta"] = {"note": f"No pipeline has MMLU, ARC-Easy and GSM8K: drawn with {', '.join(titles)} instead."}
    return {"data": traces, "layout": layout}


def _hover(e: Evaluation, tasks: Mapping[str, str]) -> str:
    values = []
    for (name, title), value in zip(tasks.items(), (e.x, e.y, e.z, e.size), strict=False):
        since = f" (carried forward from {e.carried[name]})" if name in e.carried else ""
        values.append(f"{plain(title)} {short(value)}{since}")
    return f"<b>{plain(e.run)}</b> · {stage_title(e.stage)}<br>step {e.step:,.0f}<br>{'<br>'.join(values)}"
