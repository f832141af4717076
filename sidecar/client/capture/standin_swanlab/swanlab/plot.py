"""Charts are accepted and not drawn."""

from typing import Any

from .media import ECharts


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return ECharts
