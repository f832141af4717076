"""Colours, axes and words that all charts share.

Given: runs and what to colour by. Hands on: plain plotly pieces. Never: interprets a name as markup: every text
that came from a trainer passes through ``plain`` first.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from sidecar import aliases
from sidecar.charts.data import RunData
from sidecar.charts.registry import Missing

STAGE_COLOURS = {
    "pretrain": "#e5484d",
    "midtrain": "#12a594",
    "sft": "#3e7bfa",
    "rl": "#30a46c",
    "dpo": "#7cc47f",
    "ppo": "#1f7a4d",
}
"""Pretraining red, midtraining teal, SFT blue, RL green; DPO and PPO are shades of that green."""
NO_STAGE = "#8a94a3"
STAGE_TITLES = {"pretrain": "pretraining", "midtrain": "midtraining", "sft": "SFT", "rl": "RL", "dpo": "DPO",
                "ppo": "PPO"}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7a4fd0", "#b8a400", "#8c564b", "#17a2b8")
"""Told apart by most people who see colours differently (after Okabe and Ito)."""
SCALE = ((0.0, "#46307a"), (0.25, "#3b6fb0"), (0.5, "#1fa187"), (0.75, "#8bc34a"), (1.0, "#ffd23f"))
TEXT_MAX = 80

HOW = {
    "accuracy": 'run.log({"val/accuracy": share}, step=step) at each evaluation, or eval/TASK_acc per benchmark',
    "train/loss": "run.step(step, loss=loss)",
    "tokens/s": "run.step(step, tokens=n): the sidecar computes the rate",
    "MFU": "sidecar.init(model=model), or model_facts={flops_per_token, peak_flops}, and run.step(step, tokens=n)",
    "tokens": "run.step(step, tokens=n)",
    "depth": 'sidecar.init(config={"n_layer": 12})',
    "width": 'sidecar.init(config={"n_embd": 768})',
    "batch_size": 'sidecar.init(config={"batch_size": 32})',
    "learning_rate": "run.step(step, learning_rate=lr), or the configuration's learning_rate",
    "stage": 'sidecar.init(stage="pretrain"), midtrain, sft, dpo, ppo or rl',
    "dataset coverage": 'run.dataset("NAME", samples=n) and sidecar.init(config={"dataset_sizes": {"NAME": total}})',
    "GPU": "the sidecar reads GPUs by itself where there is an NVIDIA driver: `sidecar doctor` says what is wrong",
    "hardware": "let a sidecar run beside the training: `sidecar run -- COMMAND`",
    "removed": "the journal is bounded (journal_bytes_max): raise the bound, or keep an export or a sink",
    "export": "export again with `sidecar export RUN --derived`, or read the journal itself",
}
ACCURACY = ("val/accuracy", "eval/mean_acc", "train/accuracy")


def plain(text: Any, chars_max: int = TEXT_MAX) -> str:
    """Plotly reads a little HTML in labels: hand it text only, short and printable."""
    word = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return html.escape(word if len(word) <= chars_max else word[: chars_max - 1] + "…", quote=False)


def stage_key(run: RunData) -> str:
    return run.stage or ""


def stage_title(stage: str | None) -> str:
    return STAGE_TITLES.get(stage or "", plain(stage) if stage else "no stage")


def stage_colour(stage: str | None) -> str:
    if not stage:
        return NO_STAGE
    known = STAGE_COLOURS.get(stage)
    return known or PALETTE[sum(map(ord, stage)) % len(PALETTE)]


def stage_order(stage: str | None) -> tuple[int, str]:
    if stage in aliases.STAGES:
        return aliases.STAGES.index(stage), ""
    return (len(aliases.STAGES), stage) if stage else (-1, "")


def in_stages(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs by stage, in the order of the pipeline; within a stage in order of start."""
    found: dict[str, list[RunData]] = {}
    for run in sorted(runs, key=lambda run: (stage_order(run.stage), run.started_ns)):
        found.setdefault(stage_key(run), []).append(run)
    return found


def in_pipelines(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Runs that belong together: of one project, and of one group where they were given one."""
    found: dict[tuple[str, str], list[RunData]] = {}
    for run in runs:
        found.setdefault((run.project, run.group or ""), []).append(run)
    return list(found.values())


def who(run: RunData) -> str:
    return f"{run.label} ({STAGE_TITLES.get(run.stage or '', run.stage or 'no stage')})"


def missing(run: RunData, what: str, name: str | None = None) -> Missing:
    """``what``: a key of HOW; ``name``: how the missing thing is called, if otherwise."""
    needs_derived = run.exported_only and what in ("tokens/s", "MFU", "dataset coverage", "hardware", "GPU")
    return Missing(name or what, who(run), HOW["export"] if needs_derived else HOW[what])


def begins_late(runs: Sequence[RunData]) -> list[Missing]:
    """Runs whose oldest rows the journal's bound has removed: their curves begin later than they did."""
    return [missing(run, "removed", late_text(run)) for run in runs if run.removed_rows]


def late_text(run: RunData) -> str:
    """What is gone, and where the rest begins."""
    if run.removed_step is None:
        return f"the first {run.removed_rows:,} rows"
    return f"everything up to step {run.removed_step:,} ({run.removed_rows:,} rows)"


def accuracy_of(run: RunData) -> Any:
    """The run's accuracy track."""
    name = accuracy_name(run)
    return run.tracks[name] if name else None


def accuracy_name(run: RunData) -> str | None:
    """Which metric stands for accuracy: validation, else the mean over tasks, else any benchmark, else training."""
    tasks = sorted(name for name in run.tracks if name.startswith("eval/") and name.endswith("_acc"))
    return next((name for name in (*ACCURACY[:2], *tasks, ACCURACY[2]) if run.track(name)), None)


def mfu_of(run: RunData) -> tuple[Any, float]:
    """The MFU track and what makes its values percent: scripts that claim one say 0.4 or 40."""
    track = run.track("train/mfu_percent")
    if track is not None:
        return track, 1.0
    track = run.track("train/mfu_reported")
    if track is None:
        return None, 1.0
    return track, 100.0 if run.totals["train/mfu_reported"].high <= 1.0 else 1.0


class Painter:
    """What colour a run or a point has: its stage's, or that of a configuration value or metric."""

    def __init__(self, runs: Sequence[RunData], key: str | None) -> None:
        self.key = key
        self.metric = aliases.canonical(key) if key else None
        values = [self._setting(run) for run in runs] if key else []
        numbers = [v for v in values if type(v) in (int, float)]
        self.is_metric = key is not None and not any(v is not None for v in values)
        self.known = key is None or not self.is_metric or any(run.track(self.metric or "") for run in runs)
        self.continuous = key is not None and self.known and (self.is_metric or len(numbers) == len(
            [v for v in values if v is not None]))
        self.title = plain(key) if key else "stage"
        self._values = [v for run in runs if (v := self.value(run)) is not None and v - v == 0]
        self._categories = sorted({str(v) for v in values if v is not None}) if not self.continuous else []

    def group(self, run: RunData) -> tuple[str, str]:
        """(legend name, colour)."""
        if self.key is None or self.continuous or not self.known:
            return stage_title(run.stage), stage_colour(run.stage)
        value = self._setting(run)
        if value is None:
            return f"no {self.title}", NO_STAGE
        return f"{self.title} = {plain(value, 40)}", PALETTE[self._categories.index(str(value)) % len(PALETTE)]

    def line(self, run: RunData) -> tuple[str, str]:
        """(legend name, colour) of a flat line, which has one colour along all of its way."""
        value = self.value(run)
        if value is None or value - value != 0:
            return self.group(run) if not self.continuous else (f"no {self.title}", NO_STAGE)
        low, high = min(self._values), max(self._values)
        return f"{self.title} = {short(value)}", on_scale((value - low) / (high - low) if high > low else 0.5)

    def value(self, run: RunData, order: int | None = None) -> float | None:
        """For a continuous scale: the run's setting, or the metric as last seen by then."""
        if not self.continuous:
            return None
        if not self.is_metric:
            found = self._setting(run)
            return float(found) if type(found) in (int, float) else None
        track = run.track(self.metric or "")
        if track is None:
            return None
        point = track.points()[-1] if order is None else track.at(order)
        return point.value if point else None

    def layout(self) -> dict[str, Any]:
        if not self.continuous:
            return {}
        bar = {"title": {"text": self.title}, "thickness": 12, "len": 0.6, "outlinewidth": 0,
               "tickformat": ".3~g"}
        return {"coloraxis": {"colorscale": SCALE, "colorbar": bar}}

    def _setting(self, run: RunData) -> Any:
        for name in (self.key, f"config.{self.key}"):
            for place in (run.config, run.facts):
                if name in place and not isinstance(place[name], (list, dict)):
                    return place[name]
        own = {"run": run.label, "name": run.label, "stage": run.stage, "project": run.project, "group": run.group}
        if self.key in own:
            return own[self.key]
        for place in (run.config, run.facts):
            for name, value in place.items():
                if name.rpartition(".")[2] == self.key and not isinstance(value, (list, dict)):
                    return value
        return None


def on_scale(share: float) -> str:
    """The colour at a place (0 to 1) of SCALE."""
    after = next(i for i, (stop, _) in enumerate(SCALE[1:], 1) if share <= stop or i == len(SCALE) - 1)
    (low, start), (high, end) = SCALE[after - 1], SCALE[after]
    part = (share - low) / (high - low)
    parts = (round(int(start[i : i + 2], 16) * (1 - part) + int(end[i : i + 2], 16) * part) for i in (1, 3, 5))
    return "#" + "".join(f"{one:02x}" for one in parts)


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "showspikes": False, **more}


def ticks(values: Sequence[float]) -> dict[str, Any]:
    """Settings are few and whole: only those that occur are marked. Many: plotly decides."""
    distinct = sorted(set(values))
    return {"tickvals": distinct, "ticktext": [short(v) for v in distinct]} if len(distinct) <= 8 else {}


def layout3d(x: Any, y: Any, z: Any, **more: Any) -> dict[str, Any]:
    """A scene with titled axes; colours of text, grid and ground are the page's."""
    axes = [a if isinstance(a, dict) else axis(a) for a in (x, y, z)]
    scene = {
        "xaxis": axes[0], "yaxis": axes[1], "zaxis": axes[2], "aspectmode": "manual",
        "aspectratio": {"x": 1.6, "y": 1.3, "z": 0.9},
        "camera": {"eye": {"x": 1.55, "y": -1.8, "z": 0.82}, "center": {"x": 0.02, "y": 0, "z": -0.2}},
    }
    scene |= more.pop("scene", {})
    return {"scene": scene, "margin": {"l": 0, "r": 0, "t": 8, "b": 0}, "legend": LEGEND, **more}


LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "itemsizing": "constant"}


def layout2d(x: str, y: str, **more: Any) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": x}, "zeroline": False},
        "yaxis": {"title": {"text": y}, "zeroline": False, "automargin": True},
        "margin": {"l": 64, "r": 16, "t": 8, "b": 52}, "legend": LEGEND, "hovermode": "closest", **more,
    }


def sizes(values: Sequence[float | None], low: float = 8, high: float = 26, *, log: bool = False) -> list[float]:
    """Marker diameters in pixels; what is unknown gets the smallest."""
    known = [_level(v, log) for v in values if v is not None]
    bottom, top = (min(known), max(known)) if known else (0.0, 0.0)
    spread = top - bottom
    middle = (low + high) / 2
    share = (high - low) / spread if spread else 0.0
    return [low if v is None else middle if spread == 0 else round(low + share * (_level(v, log) - bottom), 2)
            for v in values]


def _level(value: float, log: bool) -> float:
    return math.log10(value) if log and value > 0 else (-12.0 if log else value)


def short(value: float | None, unit: str = "") -> str:
    """A number for people: 4 digits, thousands as k, M, G; with a unit as "989 TFLOP/s"."""
    if value is None:
        return "–"
    gap = " " if unit else ""
    if value - value != 0:
        return ("NaN" if value != value else "∞" if value > 0 else "-∞") + gap + unit
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit * 0.99995:  # 999,999 is 1M, not 1000k.
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{gap}{letter}{unit}"
    return f"{value:.4g}{gap}{unit}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def evenly_spaced(points: Sequence[Any], points_max: int) -> list[Any]:
    """At most so many, evenly, the last one always among them."""
    if len(points) <= points_max:
        return list(points)
    stride = (len(points) - 1) / (points_max - 1)
    return [points[round(i * stride)] for i in range(points_max)]
