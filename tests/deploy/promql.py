"""What the deployment's queries are made of: panels, metric names, variables."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
_LABELS = re.compile(r"\{[^}]*\}")
_NAME = re.compile(r"(?<![\w:$])((?:training|sidecar|run)[a-z0-9_]*(?::[a-z0-9_]+)*)(?![\w:(])")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
_HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


class Query(NamedTuple):
    dashboard: str
    panel: str
    expr: str
    legend: str = ""


def queries() -> Iterator[Query]:
    """Every query of every panel of every dashboard."""
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", ()):
                yield Query(path.stem, panel["title"], target["expr"], target["legendFormat"])


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def variables() -> Iterator[Query]:
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                yield Query(path.stem, f"${variable['name']}", variable["definition"])


def metric_names(expr: str) -> set[str]:
    """The metrics a query reads; of a histogram its base name."""
    bare = _LABELS.sub("", _GROUPING.sub("", expr))
    names = set(_NAME.findall(bare)) - {"run"}
    return {_base(name) for name in names}


def _base(name: str) -> str:
    for part in _HISTOGRAM_PARTS:
        if name.endswith(part) and "duration" in name:
            return name.removesuffix(part)
    return name


def substituted(expr: str, interval: str) -> str:
    """As Grafana sends it with every variable at All."""
    expr = expr.replace("$__rate_interval", interval)
    return re.sub(r"\$(?:\{\w+\}|\w+)", ".*", expr)


def build_module() -> Any:
    spec = importlib.util.spec_from_file_location("build_dashboards", DEPLOY / "grafana/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
