"""Figures to where others can see them: W&B as plotly panels, weave as ops. Only when asked, and only when allowed.

Given: an app's figures, the allow words of the configuration. Hands on: what was sent.
Never: sends without the word ``artifacts``: a figure holds names of runs, data sets and settings as text.
"""

import os
import tempfile
from collections.abc import Callable, Collection
from typing import Any

from sidecar import config
from sidecar.charts.app import VisualizationApp
from sidecar.charts.registry import charts
from sidecar.errors import Exit, UserError
from sidecar.sinks import privacy, wandb_account, wandb_settings
from sidecar.sinks.base import Unavailable

WORD = "artifacts"


class _Figure:
    """What wandb.Plotly needs of a figure, for where plotly for Python is not installed."""

    def __init__(self, figure: dict[str, Any]) -> None:
        self._figure = figure

    def to_plotly_json(self) -> dict[str, Any]:
        return self._figure


_Figure.__module__, _Figure.__qualname__, _Figure.__name__ = "plotly.graph_objs._figure", "Figure", "Figure"


def publish(
    app: VisualizationApp, allow: Collection[str], *, project: str, entity: str | None = None, mode: str | None = None,
    directory: str | None = None,
) -> list[str]:
    """One W&B run of type "pictures" with a plotly panel per chart; their names.

    ``mode``: online, offline or disabled; default: what WANDB_MODE says, else online with a key and offline without.
    Nothing else goes: the run has the settings of the W&B sink, which reads no code, host or user. Raises UserError.
    """
    check_allowed(allow)
    folder = directory or tempfile.mkdtemp(prefix="sidecar-pictures-")
    choice = wandb_account.choose_mode({"mode": mode} if mode else {}, os.environ)
    try:
        wandb = wandb_settings.load()
        settings = wandb_settings.settings(wandb, {}, choice.mode, folder, lambda: None)
        run = wandb.init(project=project, entity=entity, job_type="pictures", name="pictures", dir=folder,
                         settings=settings)
        try:
            panels = {f"pictures/{name}": wandb.Plotly(_Figure(_light(figure)))
                      for name, figure in app.figures.items()}
            run.log(panels)
        finally:
            run.finish()
    except Exception as error:  # noqa: BLE001 - wandb raises many kinds; a person waits for one line.
        reason = str(error) if isinstance(error, Unavailable) else wandb_settings.explain(error, folder)
        raise UserError(f"the pictures were not published: {reason}", "--wandb-mode offline keeps them here",
                        Exit.FAILED) from None
    return sorted(panels)


def check_allowed(allow: Collection[str]) -> None:
    words = {privacy.ALIASES.get(word, word) for word in allow}
    if WORD not in words:
        raise UserError("publishing pictures is not allowed: they hold names as text",
                        f"allow it with --allow {WORD}, or SIDECAR_ALLOW={WORD}")


def weave_ops(allow: Collection[str] | None = None) -> dict[str, Callable[..., Any]]:
    """Each chart's figure function as a weave op, by name; nothing where weave is not installed.

    ``weave.init(project)`` is the caller's to do; from then on each call of an op sends its data and its figure, so
    the word must be among ``allow`` (default: those of the configuration). Raises UserError.
    """
    check_allowed(config.read({}, os.environ, None).config.allow if allow is None else allow)
    try:
        import weave  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return {}
    return {chart.name: weave.op(name=f"{chart.name}_figure")(chart.figure) for chart in charts()}


def _light(figure: dict[str, Any]) -> dict[str, Any]:
    """Without what only our own page reads (the film's full table)."""
    layout = {key: value for key, value in figure["layout"].items() if key != "meta"}
    return {"data": figure["data"], "layout": layout}
