"""All charts of a project in one call, under the name that existing visualisation scripts use for it.

Given: a project, or runs. Hands on: a VisualizationApp: its figures as data, its page as HTML.
Never: sends anything anywhere. ``sidecar.charts.publish`` does, when asked and allowed.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sidecar.atomic_file import open_atomic
from sidecar.charts import page
from sidecar.charts.data import RunData
from sidecar.charts.hyperparameters import hyperparameters_data
from sidecar.charts.landscape import landscape_data
from sidecar.charts.load import load_runs
from sidecar.charts.multimetric import multimetric_data
from sidecar.charts.registry import Chart, Figure, Options, charts
from sidecar.charts.style import Painter
from sidecar.charts.trajectory import trajectory_data

prepare_training_trajectory = trajectory_data
prepare_hyperparameter_space = hyperparameters_data
prepare_performance_landscape = landscape_data
prepare_multi_metric = multimetric_data


class Drawn(msgspec.Struct):
    """One chart with its data: ``figure`` is None when there was nothing to draw; ``missing`` says what for."""

    chart: Any
    data: Any
    figure: Figure | None


class VisualizationApp:
    """Every chart of some runs."""

    def __init__(self, title: str, runs: Sequence[RunData], options: Options | None = None) -> None:
        self.title, self.runs, self.options = title, list(runs), options or Options()
        self.notes = _notes(self.runs, self.options)
        self.drawn = [_draw(chart, self.runs, self.options) for chart in charts()]

    @property
    def figures(self) -> dict[str, Figure]:
        """By name of chart; only those that have something to show."""
        return {drawn.chart.name: drawn.figure for drawn in self.drawn if drawn.figure is not None}

    def html(self) -> str:
        """One self-contained page."""
        return page.build(self.title, self.runs, self.drawn, self.notes)

    def write(self, path: Path) -> Path:
        """Raises OSError."""
        with open_atomic(path) as out:
            out.write(self.html().encode("utf-8", "replace"))
        return path

    def _repr_html_(self) -> str:
        return page.frame(self.html())


def _notes(runs: Sequence[RunData], options: Options) -> list[str]:
    """What was asked for and cannot be done."""
    key = options.color_by
    if key is None or Painter(runs, key).known:
        return []
    return [f"No run has a setting or a metric {key!r}: coloured by stage."]


def _draw(chart: Chart, runs: Sequence[RunData], options: Options) -> Drawn:
    data = chart.prepare(runs, options)
    return Drawn(chart, data, chart.figure(data))


def create_complete_visualization_app(
    project: str, *, directory: Path | str | None = None, runs: Iterable[str] = (), color_by: str | None = None,
    output: Path | str | None = None,
) -> VisualizationApp:
    """All charts of a project from the data directory (default: the usual one), written to ``output`` if given.

    Raises UserError (exit code 3) for an unknown project, with the known ones and what to check.
    """
    from sidecar import config

    where = Path(directory) if directory is not None else config.read({}, os.environ, None).config.data_directory
    also = (color_by,) if color_by else ()
    loaded = load_runs(where, projects=(project,), runs=runs, also=also)
    app = VisualizationApp(project, loaded, Options(color_by))
    if output is not None:
        app.write(Path(output))
    return app
