"""What happened at a step, to be pinned to a chart: bounded by kind, so that no kind crowds out another.

Given: events as they are read. Hands on: Pins in order of step. Never: keeps more than ``KIND_MAX`` of a kind; of a
kind that comes more often, evenly spread ones stay.
"""

import msgspec

KIND_MAX = 96
NEAR_STEPS = 1
"""An evaluation's numbers are logged at its step or the one after: that is one evaluation."""


class Pin(msgspec.Struct, frozen=True):
    kind: str
    """checkpoint | evaluation | restart | rework | lost | alert | slow step"""
    step: int
    rank: int
    time: float
    text: str


class Pins:
    """Collects the pins of one run."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[int, Pin]] = {}
        self._strides: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def add(self, kind: str, step: int, rank: int, time_ns: int, text: str) -> None:
        """Once per kind and step: all ranks evaluate at the same time."""
        mine = self._kinds.setdefault(kind, {})
        near = NEAR_STEPS if kind == "evaluation" else 0
        if any(other in mine for other in range(step - near, step + near + 1)):
            return
        seen = self._seen[kind] = self._seen.get(kind, -1) + 1
        stride = self._strides.setdefault(kind, 1)
        if seen % stride:
            return
        mine[step] = Pin(kind, step, rank, time_ns / 1e9, text)
        if len(mine) > KIND_MAX:
            self._kinds[kind] = dict(list(mine.items())[::2])
            self._strides[kind] = stride * 2

    def sorted(self) -> list[Pin]:
        return sorted((pin for pins in self._kinds.values() for pin in pins.values()), key=lambda pin: pin.step)
