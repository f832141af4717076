"""What ``define_metric`` asked for, and the summary: last values, and minima, maxima and means where wanted.

Given: definitions and rows. Hands on: step metrics to add to a row; the summary, and those of its values that do not
follow from the rows.
Never: does I/O.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

OPERATIONS = frozenset(("min", "max", "mean", "last", "first", "none", "copy"))


class Definition(NamedTuple):
    step_metric: str | None = None
    step_sync: bool = False
    summary: frozenset[str] = frozenset()

    def over(self, known: "Definition | None") -> "Definition":
        """Merge with an earlier definition of the same name: what is given now wins, the rest stays."""
        if known is None:
            return self
        return Definition(
            self.step_metric or known.step_metric, self.step_sync or known.step_sync, self.summary | known.summary
        )


class RunningStatistics:
    """The running minimum, maximum, mean, first and last of one name; only those that are wanted."""

    __slots__ = ("count", "total", "values", "wanted")

    def __init__(self, wanted: frozenset[str]) -> None:
        self.wanted = wanted
        self.values: dict[str, Any] = {}
        self.total, self.count = 0.0, 0

    def add(self, value: Any) -> None:
        """First and last take values of any type, the others only numbers; once a NaN came in, they stay NaN."""
        if "last" in self.wanted:
            self.values["last"] = value
        if "first" in self.wanted:
            self.values.setdefault("first", value)
        if not _is_number(value):
            return
        self.total, self.count = self.total + value, self.count + 1
        for name, lower in (("min", True), ("max", False)):
            if name in self.wanted:
                known = self.values.get(name, value)
                worse = known == known and (value != value or (value < known if lower else value > known))
                self.values[name] = value if worse else known
        if "mean" in self.wanted:
            self.values["mean"] = self.total / self.count


class Definitions:
    def __init__(self) -> None:
        self.active = False
        """Something was defined, so every row has to be checked against the definitions."""
        self.summary: dict[str, Any] = {}
        self.explicit: set[str] = set()
        """Names the script wrote into the summary itself, and has not logged since."""
        self.changed = False
        """The summary has changed in a way that cannot be seen from the rows."""
        self._exact: dict[str, Definition] = {}
        self._globs: dict[str, Definition] = {}
        self._resolved: dict[str, Definition | None] = {}
        self._steps: dict[str, Any] = {}
        self._statistics: dict[str, RunningStatistics | None] = {}
        self._reported: dict[str, Any] = {}

    def define(self, name: str, definition: Definition, overwrite: bool = False) -> None:
        """``name`` may end in ``*``."""
        self.active = True
        known, name = (self._globs, name[:-1]) if name.endswith("*") else (self._exact, name)
        known[name] = definition if overwrite else definition.over(known.get(name))
        self._resolved.clear()
        for path, statistics in self._statistics.items():
            if statistics is not None:
                statistics.wanted = self._wanted(path)
        for step_metric in {item.step_metric for item in (*self._exact.values(), *self._globs.values())} - {None}:
            self._steps.setdefault(str(step_metric), 0)

    def complete(self, row: dict[str, Any], separate_names: Iterable[str] = ()) -> None:
        """Add the step metrics that a row lacks, just before it is written, and update the summary from it.

        ``separate_names``: names logged with this row that became events of their own (histograms, texts, pictures).
        """
        if self.active:
            asked = [*paths(row), *separate_names]
            for name in asked:  # Grows: a step metric may have a step metric.
                step_metric = self._step_of(name)
                if step_metric is not None and step_metric != name and step_metric not in asked:
                    row[step_metric] = self._steps[step_metric]
                    asked.append(step_metric)
            for name in self._steps.keys() & row.keys():
                if _is_number(row[name]):
                    self._steps[name] = row[name]
        self.remember(row)

    def remember(self, row: Mapping[str, Any], *, nested: bool = True) -> None:
        """Update the summary: the last value of each name, or what define_metric asked for; None removes a name.

        ``nested``: the row may contain maps.
        """
        if self.explicit and not self.explicit.isdisjoint(row):
            self.explicit.difference_update(row)
            self.changed = True
        if nested or self.active or None in row.values():
            self._remember(row, "", self.summary)
        else:
            self.summary.update(row)

    def put(self, values: Mapping[str, Any]) -> None:
        """The script writes into the summary itself."""
        self.explicit.update(values)
        self.summary.update(values)
        self._statistics.update(dict.fromkeys(values))  # From now on the last value counts.
        self.changed = True

    def restore(self, summary: Mapping[str, Any], explicit: Mapping[str, Any]) -> None:
        """Go on from the summary of an earlier process. ``explicit``: what was reported of it; it holds until the
        script logs those names again."""
        self.summary.update(summary)
        self.explicit.update(explicit)
        self._reported = {name: dict(value) if isinstance(value, dict) else value for name, value in explicit.items()}

    def drop(self, name: str) -> None:
        self.summary.pop(name, None)
        self.explicit.add(name)
        self.changed = True

    def unreported(self) -> tuple[dict[str, Any], list[str]]:
        """(summary values that do not follow from the rows, names that follow from them again), since the last call.

        None is the value of a name that was logged but is not in the summary.
        """
        now = {name: self.summary.get(name) for name in self.explicit}
        for name, statistics in self._statistics.items():
            if statistics is not None:
                top = name if name in self.summary else name.partition(".")[0]
                now[top] = self.summary.get(top)
        again = [name for name in self._reported if name not in now]
        known = self._reported
        fresh = {name: value for name, value in now.items() if name not in known or known[name] != value}
        self._reported = {name: dict(value) if isinstance(value, dict) else value for name, value in now.items()}
        self.changed = False
        return fresh, again

    def _remember(self, row: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
        for name, value in row.items():
            if type(value) is dict and value:
                if not isinstance(into.get(name), dict):
                    into[name] = {}
                self._remember(value, f"{prefix}{name}.", into[name])
                continue
            path = prefix + name
            if self.active and path not in self._statistics and (wanted := self._wanted(path)):
                self._statistics[path] = RunningStatistics(wanted)
            statistics = self._statistics.get(path)
            if statistics is None:
                if value is None or type(value) is dict:
                    into.pop(name, None)
                else:
                    into[name] = value
                continue
            self.changed = True
            if value is not None:
                statistics.add(value)
            if "none" in statistics.wanted:
                into.pop(name, None)
            elif statistics.values:
                into[name] = statistics.values

    def _wanted(self, name: str) -> frozenset[str]:
        definition = self._of(name)
        return frozenset() if definition is None else definition.summary - {"copy"}

    def _step_of(self, name: str) -> str | None:
        definition = None if name.startswith("_") else self._of(name)
        return definition.step_metric if definition is not None and definition.step_sync else None

    def _of(self, name: str) -> Definition | None:
        if name in self._exact:
            return self._exact[name]
        if name not in self._resolved:
            matching = (found for prefix, found in self._globs.items() if name.startswith(prefix))
            self._resolved[name] = next(matching, None)  # If several match, real wandb takes any of them.
        return self._resolved[name]


def paths(row: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """The names under which a row is stored; of values inside maps the keys joined by dots."""
    for name, value in row.items():
        if type(value) is dict:
            yield from paths(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float
