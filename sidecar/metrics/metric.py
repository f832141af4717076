"""What a line of the catalogue says.

Given: nothing. Hands on: the types Metric and Family, and ``table`` to write many metrics as short rows.
Never: holds a value.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """One metric under its canonical name."""

    name: str
    unit: str
    """"" for plain numbers."""
    kind: str
    """gauge | counter | text | histogram"""
    source: str
    """trainer: sent by the training process; derived: computed by the sidecar; hardware: read by the sidecar."""
    help: str
    prometheus: str | None = None
    """Its own family; None: under training_metric{name}."""
    scale: float = 1.0
    """What a value is multiplied by to get to the base unit of Prometheus (percent: 0.01)."""


class Family(NamedTuple):
    """One Prometheus metric family."""

    name: str
    kind: str
    """gauge | counter | histogram | info"""
    unit: str
    labels: tuple[str, ...]
    help: str
    read: str
    """Where its value is: a path into RunSnapshot (``run.``) or Telemetry (``sidecar.``)."""


def table(kind: str, source: str, *rows: tuple[str, ...]) -> tuple[Metric, ...]:
    """Rows of (name, unit, help[, Prometheus name[, scale]])."""
    made = []
    for name, unit, text, *exported in rows:
        scale = float(exported[1]) if len(exported) > 1 else 1.0
        made.append(Metric(name, unit, kind, source, text, exported[0] if exported else None, scale))
    return tuple(made)
