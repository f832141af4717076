"""Chart: resource use against performance, GPU utilisation x memory x tokens/s; the host's where there is no GPU.

Given: runs. Hands on: readings joined with the speed of that moment. Never: shows the host's numbers as a GPU's.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.charts.data import RunData
from sidecar.charts.registry import Figure, Missing, Options, chart
from sidecar.charts.style import Painter, evenly_spaced, in_stages, layout3d, missing, plain, short, stage_title

READINGS_MAX = 400
GPU = ("gpu/utilization_percent", "gpu/memory_used_gb")
HOST = ("system/cpu_percent", ("system/memory_used_gb", "system/ram_used_gb"))


class Reading(msgspec.Struct, frozen=True):
    run: str
    stage: str
    step: float
    utilization_percent: float
    memory_gb: float
    tokens_per_second: float
    power_watts: float | None
    colour_value: float | None = None


class Resources(msgspec.Struct):
    device: str
    """gpu | host"""
    groups: dict[str, list[Reading]]
    colours: dict[str, str]
    colour_layout: dict[str, Any]
    continuous: bool
    missing: list[Missing]


def resources_data(runs: Sequence[RunData], options: Options | None = None) -> Resources:
    painter = Painter(runs, options.color_by if options else None)
    device = "gpu" if any(run.track(GPU[0]) for run in runs) else "host"
    out = Resources(device, {}, {}, painter.layout(), painter.continuous, [])
    for stage, members in in_stages(runs).items():
        for run in members:
            if run.track(GPU[0]) is None:
                out.missing.append(missing(run, "GPU", "GPU utilisation and memory"))
            readings = _readings(run, stage, device, painter, out.missing)
            if readings:
                legend, out.colours[legend] = painter.group(run)
                out.groups.setdefault(legend, []).extend(readings)
    return out


def _readings(run: RunData, stage: str, device: str, painter: Painter, lacking: list[Missing]) -> list[Reading]:
    busy = run.track(GPU[0]) if device == "gpu" else run.track(HOST[0])
    memory = run.track(GPU[1]) if device == "gpu" else run.track(*HOST[1])
    rate, power = run.track("train/tokens_per_second", "train/samples_per_second"), run.track("gpu/power_watts")
    if rate is None:
        lacking.append(missing(run, "tokens/s"))
    if (busy is None or memory is None) and device == "host":
        lacking.append(missing(run, "hardware", "readings of the host"))
    if busy is None or memory is None or rate is None:
        return []
    out = []
    for point in evenly_spaced(busy.points(), READINGS_MAX):
        used, speed = memory.at(point.order), rate.at(point.order)
        if used is not None and speed is not None:
            watts = power.at(point.order) if power else None
            out.append(Reading(run.label, stage, point.step, point.value, used.value, speed.value,
                               watts.value if watts else None, painter.value(run, point.order)))
    return out


@chart(
    "resources",
    title="Resources against performance",
    about="What the machine gave and what came out: utilisation, memory in use and tokens per second, as the mean over "
    "the GPUs at each reading. Without a GPU the axes are the host's.",
    prepare=resources_data,
)
def resources_figure(data: Resources) -> Figure | None:
    traces = []
    for legend, readings in data.groups.items():
        values = [r.colour_value for r in readings]
        paint: dict[str, Any] = {"color": values, "coloraxis": "coloraxis"}
        if not data.continuous:
            paint = {"color": data.colours[legend]}
        traces.append({
            "type": "scatter3d", "mode": "markers", "name": legend,
            "x": [round(r.utilization_percent, 3) for r in readings], "y": [round(r.memory_gb, 4) for r in readings],
            "z": [round(r.tokens_per_second, 3) for r in readings], "text": [_hover(r, data.device) for r in readings],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": paint | {"size": 4, "opacity": 0.7, "line": {"width": 0}},
        })  # fmt: skip
    if not traces:
        return None
    words = ("GPU utilisation (%)", "GPU memory used (GB)") if data.device == "gpu" else (
        "CPU utilisation (%)", "Host memory used (GB)")
    return {"data": traces, "layout": layout3d(*words, "Tokens per second", **data.colour_layout)}


def _hover(r: Reading, device: str) -> str:
    what = "GPU" if device == "gpu" else "CPU"
    power = f"<br>{r.power_watts:.0f} W" if r.power_watts is not None else ""
    return (f"<b>{plain(r.run)}</b> · {stage_title(r.stage)}<br>step {r.step:,.0f}"
            f"<br>{what} {r.utilization_percent:.1f} %<br>memory {r.memory_gb:.2f} GB"
            f"<br>{short(r.tokens_per_second)} tokens/s{power}")
