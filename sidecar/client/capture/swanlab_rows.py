"""Rows as swanlab makes them: each call a row of its own, at the step given or at the next one.

Given: ``log(data, step)`` calls. Hands on: one log event for each, texts beside it; of a name that has a value at that
step already, which swanlab drops, the further ones as late.
Never: raises, or merges calls: swanlab does not.

The rules, checked against swanlab 0.10: nested maps are joined by slashes, names are trimmed, a value is one number.
"""

import math
from collections.abc import Mapping
from time import monotonic_ns, time_ns
from typing import Any

from sidecar import wire
from sidecar.client import values
from sidecar.client.capture import media
from sidecar.client.run import Run
from sidecar.client.values import is_on_device

NAME_CHARS_MAX = 255
STEPS_REMEMBERED = 1000


class SwanlabRows:
    def __init__(self, run: Run, first_step: int = 0) -> None:
        self.run = run
        self._step = first_step - 1
        self._names: dict[int, set[str]] = {}
        """Names that already have a value, by step, for the latest steps."""

    def log(self, data: Any, step: Any = None) -> None:
        """Wrong data or steps are counted and ignored, as swanlab ignores them."""
        if not isinstance(data, Mapping) or not data:
            self._count("log_not_a_map")
        elif step is not None and (not isinstance(step, int) or step < 0):
            self._count("bad_step")
        else:
            at = self._step + 1 if step is None else int(step)
            self._step = max(self._step, at)
            self._emit(data, min(at, wire.STEP_MAX))

    def _emit(self, data: Mapping[Any, Any], step: int) -> None:
        row: dict[str, Any] = {}
        for name, value in flat(data).items():
            found = media.special(value)
            if found is None:
                try:
                    row[name] = value.detach().clone() if is_on_device(value) and value.numel() == 1 else number(value)
                except Exception:  # noqa: BLE001  # A foreign object's item() may raise anything.
                    self._count("unsupported_type")
                continue
            for kept in found:
                if isinstance(kept, str):
                    self.run._emit(wire.Text(time_ns(), monotonic_ns(), step, values.label(name), kept))
                else:
                    self._count("media_not_kept")
        for part, late in ((self._fresh(row, step), False), (row, True)):
            if part:
                self.run._emit(wire.Log(time_ns(), monotonic_ns(), step, dict(part), late))

    def _fresh(self, row: dict[str, Any], step: int) -> dict[str, Any]:
        """Remove from ``row``, and return, the names without a value at this step: swanlab keeps the first one."""
        known = self._names.setdefault(step, set())
        if len(self._names) > STEPS_REMEMBERED:
            del self._names[next(iter(self._names))]
        fresh = {name: row.pop(name) for name in list(row) if name not in known}
        known.update(fresh)
        return fresh

    def _count(self, reason: str) -> None:
        values.count(self.run.rejected, reason)


def number(value: Any) -> float:
    """What swanlab keeps of a value: one number. Raises TypeError or ValueError for anything else."""
    if callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, str):
        found = float(value)
        return found if math.isfinite(found) else math.nan
    if isinstance(value, bool | int | float):
        return float(value)
    raise TypeError(f"Unsupported scalar type: {type(value).__name__}.")


def flat(data: Mapping[Any, Any], prefix: str = "", into: dict[str, Any] | None = None) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a/b": 1}, under names trimmed as swanlab trims them. Of equal names the last one stays."""
    out = {} if into is None else into
    for key, value in data.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat(value, name, out)
        elif name := name.strip(" \t\n\r./")[:NAME_CHARS_MAX]:
            out[name] = value
    return out
