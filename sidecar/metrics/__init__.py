"""The catalogue: every metric by name, unit, type, source and meaning. Outlets are driven by it.

Given: nothing. Hands on: ``METRICS`` (names of the API, W&B and TensorBoard), ``FAMILIES`` (Prometheus), ``ALIASES``.
Never: computes a value or imports anything heavy. ``python -m sidecar.metrics`` prints docs/metrics.md.

There is a table of metrics for each source (trainer.py, derived.py, hardware.py) and one of Prometheus families
(families.py). W&B, TensorBoard and the API share one name. A name may hold placeholders in braces:
``system/gpu_{gpu}_utilization``. Prometheus names are in base units.
"""

import re
from functools import lru_cache

from sidecar.metrics import derived, hardware, trainer
from sidecar.metrics.families import FAMILIES
from sidecar.metrics.metric import Family, Metric
from sidecar.metrics.names import ALIASES, CORE_NAMES, SCRIPT_NAMES

__all__ = [
    "ALIASES", "CORE_NAMES", "FAMILIES", "GROUPS", "METRICS", "SCRIPT_NAMES", "Family", "Metric", "find",
    "is_derived_family", "own_family_names", "unit_of",
]  # fmt: skip

GROUPS: dict[str, tuple[Metric, ...]] = {
    "Training": trainer.TRAINING + derived.TRAINING,
    "Validation and evaluation": trainer.VALIDATION,
    "Preferences, rewards and samples": trainer.PREFERENCES,
    "Progress": derived.PROGRESS,
    "Performance": derived.PERFORMANCE,
    "System": hardware.GAUGES + hardware.COUNTERS + trainer.ALLOCATOR,
    "Model internals": trainer.INTERNALS,
    "Data": trainer.DATA + derived.DATA,
    "Configuration, continuous training, the rest": trainer.CONFIGURATION,
}
"""All metrics by topic, in the order of docs/metrics.md."""

METRICS: dict[str, Metric] = {metric.name: metric for group in GROUPS.values() for metric in group}


def find(name: str) -> Metric | None:
    """The catalogue's entry for a name as it is logged: itself, an alias, or an instance of a pattern."""
    known = METRICS.get(name)
    if known is not None:
        return known
    if name in ALIASES:
        return METRICS[ALIASES[name]]
    for pattern, metric in _patterns():
        if pattern.fullmatch(name):
            return metric
    return None


@lru_cache(maxsize=20_000)
def unit_of(name: str) -> str | None:
    """The unit, None for what the catalogue does not know and for plain numbers."""
    metric = find(name)
    return metric.unit or None if metric is not None else None


def own_family_names() -> frozenset[str]:
    """Logged metrics with a family of their own: they need not appear under training_metric again."""
    return frozenset(m.name for m in METRICS.values() if m.prometheus is not None and "{" not in m.name)


@lru_cache(maxsize=20_000)
def is_derived_family(name: str) -> bool:
    """Whether what the sidecar computes under this name has a Prometheus family of its own."""
    metric = find(name)
    return metric is not None and metric.source == "derived" and metric.prometheus is not None


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern[str], Metric]]:
    """The longest literal text first: data/language_{x}_percent before data/language_{x}."""
    named = [metric for metric in METRICS.values() if "{" in metric.name]
    named.sort(key=lambda metric: -len(re.sub(r"{[a-z]+}", "", metric.name)))
    return [(re.compile(re.sub(r"\\{[a-z]+\\}", ".+", re.escape(metric.name))), metric) for metric in named]
