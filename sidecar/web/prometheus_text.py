"""Samples as the text that Prometheus reads, in both of its formats.

Given: samples, and the floors that keep counters from going down. Hands on: bytes.
Never: invents a family (its type and help are the catalogue's), or formats the labels of a series twice.

Sample lines are alike in both formats; only the lines that introduce a family differ. A series' name with its labels
is made once and remembered: of a thousand lines, each second, nothing but the numbers changes.
"""

import math
from functools import lru_cache

from sidecar.metrics import FAMILIES
from sidecar.web.samples import Buckets, Sample

Floor = dict[str, float]
"""The highest value of each counter so far."""

LABEL_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
HELP_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})


class MetricsText:
    """One state of everything that is exported."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, sample: Sample | Buckets, floor: Floor) -> None:
        lines = self._families.get(sample.name)
        if lines is None:
            lines = self._families[sample.name] = []
        if sample.__class__ is Buckets:
            _add_buckets(lines, sample)
            return
        name, labels, value = sample  # type: ignore[misc]
        series = _series(name, tuple(labels.items()))
        if FAMILIES[name].kind == "counter":
            # A counter never goes down while this process lives: a rewind of the run is rework, not less work.
            floor[series] = value = max(value, floor.get(series, value))
        lines.append(f"{series} {number(value)}\n")

    def render(self, *, openmetrics: bool) -> bytes:
        parts: list[str] = []
        for name in sorted(self._families):
            parts.append(_metadata(name, openmetrics))
            parts += self._families[name]
        if openmetrics:
            parts.append("# EOF\n")
        return "".join(parts).encode()


def _add_buckets(lines: list[str], buckets: Buckets) -> None:
    name, labels, cumulative, total = buckets
    for bound, count in cumulative:
        lines.append(f"{_series(f'{name}_bucket', (*labels.items(), ('le', bound)))} {number(count)}\n")
    lines.append(f"{_series(f'{name}_count', tuple(labels.items()))} {number(cumulative[-1][1])}\n")
    lines.append(f"{_series(f'{name}_sum', tuple(labels.items()))} {number(total)}\n")


@lru_cache(maxsize=20_000)
def _series(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return name
    inside = ",".join(f'{label}="{value.translate(LABEL_ESCAPES)}"' for label, value in sorted(labels))
    return f"{name}{{{inside}}}"


@lru_cache(maxsize=1_000)
def _metadata(name: str, openmetrics: bool) -> str:
    """HELP and TYPE. In OpenMetrics a family goes without the suffix that its samples have."""
    family = FAMILIES[name]  # A name that is not in the catalogue is a bug in the sidecar; tests look for it.
    kind, text = family.kind, family.help.translate(HELP_ESCAPES)
    if openmetrics:
        suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
        name, text = name.removesuffix(suffix), text.replace('"', '\\"')
    elif kind == "info":
        kind = "gauge"
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def number(value: float) -> str:
    """As both formats write it."""
    value = float(value)
    if value - value == 0:
        return repr(value)
    return "NaN" if value != value else "+Inf" if value == math.inf else "-Inf"
