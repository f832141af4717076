"""Runners that are over: their runs have ended and were delivered. A sidecar that serves for months has thousands.

Given: the runners of all runs. Hands on: which of them to let go, the sums of what those did, which are wanted again.
Never: gives up a runner that fails or waits, or lets a count go back.
"""

from collections.abc import Container, Mapping

from sidecar.sinks.health import joined
from sidecar.sinks.runner import SinkRunner
from sidecar.telemetry import SinkHealth

Key = tuple[str, str]
"""A run's id and a sink's name."""

KEPT_MAX = 16
"""Of those that are over, so many are kept, the newest: `/status` shows how they ended."""


class Retired:
    def __init__(self) -> None:
        self.counts: dict[str, SinkHealth] = {}
        """By sink: the sums of the runners that were let go."""
        self._wanted: dict[Key, bool] = {}
        """Those let go; True when their run has news."""

    def due(self, runners: Mapping[Key, SinkRunner], runs: Container[str]) -> list[Key]:
        """Which of these runners to let go. ``runs``: of which processes were heard; others are asked about by id."""
        over = [key for key, runner in runners.items() if key[0] in runs and _is_over(runner)]
        return over[: max(0, len(over) - KEPT_MAX)]

    def add(self, key: Key, health: SinkHealth) -> None:
        name = key[1]
        self.counts[name] = joined({"": health}, self.counts.get(name))
        self._wanted[key] = False

    def notify(self, key: Key) -> None:
        """Its run has news."""
        if key in self._wanted:
            self._wanted[key] = True

    def is_wanted(self, key: Key) -> bool:
        return self._wanted.get(key, False)

    def started(self, key: Key) -> None:
        self._wanted.pop(key, None)


def _is_over(runner: SinkRunner) -> bool:
    return runner.ended and runner.health.state in ("ok", "offline") and not runner.has_news
