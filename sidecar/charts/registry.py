"""The table of charts. Adding one is one decorated function and, for a built-in one, a line in BUILTIN.

Given: nothing. Hands on: ``CHARTS``, filled by ``@chart`` when a chart's module is imported.
Never: imports a chart before somebody asks for the table.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import msgspec

from sidecar.charts.data import RunData

Figure = dict[str, Any]
"""A plotly figure as plain data: {"data": [traces], "layout": {...}}."""

BUILTIN = ("trajectory", "stages", "hyperparameters", "landscape", "multimetric", "datasets", "resources", "film")
"""Modules of sidecar.charts, in the order of the page."""


class Missing(msgspec.Struct, frozen=True):
    """Something that could not be drawn."""

    what: str
    """The metric or setting that is missing."""
    who: str
    """Which run, and its stage."""
    how: str
    """How to send it."""


class Options(msgspec.Struct, frozen=True):
    color_by: str | None = None
    """A configuration key or a metric; None: by stage."""


class Chart(NamedTuple):
    name: str
    title: str
    about: str
    prepare: Callable[[Sequence[RunData], Options], Any]
    """Returns anything with ``missing: list[Missing]``."""
    figure: Callable[[Any], "Figure | None"]
    """None: there is nothing to draw."""


CHARTS: dict[str, Chart] = {}


def chart(
    name: str, *, title: str, about: str, prepare: Callable[[Sequence[RunData], Options], Any]
) -> Callable[[Callable[[Any], "Figure | None"]], Callable[[Any], "Figure | None"]]:
    """Register the decorated figure function under ``name``. A second one of that name replaces the first."""

    def register(figure: Callable[[Any], "Figure | None"]) -> Callable[[Any], "Figure | None"]:
        CHARTS[name] = Chart(name, title, about, prepare, figure)
        return figure

    return register


def charts() -> list[Chart]:
    """All of them, the built-in ones first and in the order of the page."""
    for module in BUILTIN:
        import_module(f"sidecar.charts.{module}")
    rest = [name for name in CHARTS if name not in BUILTIN]
    return [CHARTS[name] for name in (*BUILTIN, *rest)]
