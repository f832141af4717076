"""What ``define_metric`` asked for, and the summary: last values, and minima, maxima and means where wanted.

Given: definitions and rows. Hands on: step metrics to add to a row; the summary.
Never: does I/O.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

OPERATIONS = frozenset(("min", "max", "mean", "last", "first", "none", "copy", "best"))


class Definition(NamedTuple):
    step_metric: str | None = None
    step_sync: bool = False
    summary: tuple[str, ...] = ()


class Definitions:
    def __init__(self) -> None:
        self.active = False
        """Something was defined: rows have to be looked at."""
        self.summary: dict[str, Any] = {}
        self.explicit: dict[str, Any] = {}
        """What the script wrote into the summary itself."""
        self._exact: dict[str, Definition] = {}
        self._globs: dict[str, Definition] = {}
        self._resolved: dict[str, Definition | None] = {}
        self._steps: dict[str, Any] = {}
        self._means: dict[str, tuple[float, int]] = {}

    def define(self, name: str, definition: Definition) -> None:
        """``name`` may end in ``*``."""
        self.active = True
        if name.endswith("*"):
            self._globs[name[:-1]] = definition
        else:
            self._exact[name] = definition
        self._resolved.clear()
        if definition.step_metric:
            self._steps.setdefault(definition.step_metric, 0)

    def complete(self, row: dict[str, Any], beside: Iterable[str] = ()) -> None:
        """Add to a row that is about to be written the step metrics it does not carry itself, then remember it.

        ``beside`` are names of the row that are kept as events of their own: histograms, texts, pictures.
        """
        if self.active:
            for name in [name for name in (*row, *beside) if not name.startswith("_")]:
                definition = self._of(name)
                if definition is None or not definition.step_sync or definition.step_metric is None:
                    continue
                if definition.step_metric not in row and definition.step_metric != name:
                    row[definition.step_metric] = self._steps[definition.step_metric]
            for name in self._steps.keys() & row.keys():
                if isinstance(row[name], int | float):
                    self._steps[name] = row[name]
        self.remember(row)

    def remember(self, row: Mapping[str, Any]) -> None:
        """Into the summary: nothing for None, for other values the last or what was asked for."""
        if not self.active and None not in row.values():
            self.summary.update(row)
            return
        for name, value in row.items():
            if value is None:
                continue
            definition = self._of(name) if self.active else None
            if definition is None or not definition.summary or "copy" in definition.summary:
                self.summary[name] = value
            elif "none" not in definition.summary:
                self._summarise(name, definition.summary, value)

    def put(self, values: Mapping[str, Any]) -> None:
        """The script writes into the summary itself."""
        self.explicit.update(values)
        self.summary.update(values)

    def _of(self, name: str) -> Definition | None:
        if name in self._exact:
            return self._exact[name]
        if name not in self._resolved:
            matching = (found for prefix, found in self._globs.items() if name.startswith(prefix))
            self._resolved[name] = next(matching, None)  # Of several, real wandb takes any: usually the first.
        return self._resolved[name]

    def _summarise(self, name: str, operations: tuple[str, ...], value: Any) -> None:
        if not isinstance(value, int | float):
            return
        known = self.summary.get(name)
        known = self.summary[name] = known if isinstance(known, dict) else {}
        for operation in operations:
            if operation in ("min", "best"):
                known["min"] = min(known.get("min", value), value)
            elif operation == "max":
                known["max"] = max(known.get("max", value), value)
            elif operation == "last":
                known["last"] = value
            elif operation == "first":
                known.setdefault("first", value)
            elif operation == "mean":
                total, count = self._means.get(name, (0.0, 0))
                self._means[name] = (total + value, count + 1)
                known["mean"] = (total + value) / (count + 1)
