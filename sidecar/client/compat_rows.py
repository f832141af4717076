"""What the compat functions share: which run is meant, and how a row becomes an event.

Given: whatever a script holds as its run, names and values. Hands on: log events, late ones marked as such.
Never: raises into the loop, or sends None, a text where a number belongs, or 0.0 for "not measured".
"""

import functools
import math
import os
import warnings
import weakref
from collections.abc import Callable, Mapping
from time import monotonic_ns, time_ns
from typing import Any, ParamSpec

from sidecar import wire
from sidecar.client import values
from sidecar.client.run import Run, current
from sidecar.client.start import init

CAPTURED = "documents"
"""What the Hello of a run begun by a compat function says: its steps are reported by log rows, as in a captured script.
The word itself is part of the wire."""

P = ParamSpec("P")

_steps_reached: "weakref.WeakKeyDictionary[Run, int]" = weakref.WeakKeyDictionary()


def run_for(given: Any, **facts: Any) -> Run:
    """The sidecar's run behind ``given``: itself, a captured library's run, the one that lives, or a new one."""
    if isinstance(given, Run):
        return given
    behind = getattr(getattr(given, "_recorder", None), "run", None) or getattr(given, "_client", None)
    if isinstance(behind, Run):
        return behind
    return current() or begin(_text_attribute(given, "project"), _text_attribute(given, "name"), **facts)


def begin(project: str | None, name: str | None = None, **facts: Any) -> Run:
    environ = os.environ
    project = project or environ.get("SIDECAR_PROJECT") or "uncategorized"
    return init(project, name or environ.get("SIDECAR_NAME"), captured=CAPTURED, **facts)


def never_raises(function: Callable[P, None]) -> Callable[P, None]:
    """Whatever the arguments hold, the loop goes on and the call is counted as "bad_call". Only a call that does not
    fit the signature is a TypeError: it is one each time, and found at the first."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - Hot path: nothing escapes into the loop; counted.
            trace = error.__traceback__
            if trace is not None and trace.tb_next is None:
                raise
            run = current()
            if run is not None:
                values.count(run.rejected, "bad_call")

    return guarded


def log(run: Run, metrics: Mapping[str, Any], step: Any = None, *, texts: bool = False) -> None:
    """One row. None is left out; texts are too, and counted, unless ``texts``. A lower step than before is late."""
    kept: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, str) and not texts:
            values.count(run.rejected, "text_not_a_number")
        elif value is not None:
            kept[name] = value
    at = None if step is None else values.step_number(step)
    if step is not None and at is None:
        values.count(run.rejected, "bad_step")
    late = at is not None and at < _steps_reached.get(run, at)
    if at is not None and not late:
        _steps_reached[run] = at
    if kept:
        run._emit(wire.Log(time_ns(), monotonic_ns(), at, values.metrics_and_device_scalars(kept, run.rejected), late))


def measured(metrics: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Without the 0.0 that stands for "not measured"; says so once."""
    kept = {name: value for name, value in metrics.items() if value is not None and not _is_zero(value)}
    left_out = [name for name, value in metrics.items() if value is not None and name not in kept]
    if left_out:
        warnings.warn(
            f"{where}: 0 is taken as 'not measured' and left out for {', '.join(left_out)}; pass None to say so",
            stacklevel=3,
        )
    return kept


def number(given: Any) -> float | None:
    """A number of Python, numpy or a tensor on the host; None for anything else, also what a device still computes."""
    if given is None or isinstance(given, str | bytes | bool) or values.is_on_device(given):
        return None
    try:
        return float(given)
    except Exception:  # noqa: BLE001 - Foreign code: an array of several numbers, or anything else.
        return None


def perplexity(loss: Any) -> float | None:
    """exp(loss), +Inf where a double overflows, NaN of NaN; None for what is no number on the host."""
    known = number(loss)
    return None if known is None else exp(known)


def exp(exponent: float) -> float:
    """+Inf where a double overflows, NaN of NaN."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def ratio(part: Any, whole: Any) -> float | None:
    """``part / whole``, None for nothing to divide by."""
    above, below = number(part), number(whole)
    return above / below if above is not None and below else None


def milliseconds(seconds: Any) -> Any:
    """Of seconds; None for what is no number on the host."""
    known = number(seconds)
    return None if known is None else known * 1000.0


def _is_zero(value: Any) -> bool:
    return number(value) == 0.0


def _text_attribute(given: Any, name: str) -> str | None:
    found = getattr(given, name, None)
    return found if isinstance(found, str) and found else None
