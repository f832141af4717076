"""Pictures of runs: every chart is a pure data-preparation function and a pure figure function.

Given: runs read by ``load``. Hands on: plotly figures as plain data, and pages that hold them.
Never: loads anything when imported; needs plotly for Python, an account, a server or a network.

Two sets of names: ``create_complete_visualization_app(project)`` and ``prepare_*``, which existing visualisation
scripts use; and for each chart ``NAME_data(runs)`` and ``NAME_figure(data)``.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "create_complete_visualization_app": "app", "VisualizationApp": "app", "load_runs": "load", "load_file": "load",
    "chart": "registry", "charts": "registry", "Options": "registry", "Missing": "registry",
    "RunData": "data", "STAGE_COLOURS": "style",
    "prepare_training_trajectory": "app", "prepare_hyperparameter_space": "app",
    "prepare_performance_landscape": "app", "prepare_multi_metric": "app",
    **{f"{name}_{part}": name for name in ("trajectory", "stages", "hyperparameters", "landscape", "multimetric",
                                           "datasets", "resources", "film") for part in ("data", "figure")},
}  # fmt: skip

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sidecar.charts.{home}"), name)
