"""What a loop is doing, and for how long: the context manager of ``Run.phase``.

Given: a name, entered and left. Hands on: seconds to the step under way, or two events for what is no part of a step.
Never: raises, or hides an exception of the code inside.
"""

import threading
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Any

from sidecar import wire
from sidecar.client.cuda_phases import METRICS

if TYPE_CHECKING:
    from sidecar.client.run import Run


class OpenPhases(threading.local):
    """The phases that the calling thread is in, outermost first. A checkpoint written by another thread does not
    contain the forward pass that goes on meanwhile."""

    def __init__(self) -> None:
        self.stack: list[_Entry] = []


class _Entry:
    """One pass through a phase."""

    __slots__ = ("gpu", "name", "nested_ns", "stack", "started_ns")

    def __init__(self, name: str, stack: "list[_Entry]") -> None:
        self.name, self.stack = name, stack
        self.started_ns, self.nested_ns = monotonic_ns(), 0
        self.gpu: Any = None

    def leave(self) -> "_Entry | None":
        """Off the stack, wherever in it (generators are closed late); returns the phase around this one."""
        place = self.stack.index(self)
        del self.stack[place]
        return self.stack[place - 1] if place else None


class Phase:
    """Context manager of :meth:`Run.phase`; may be entered again. Nested phases count their time once, for the
    innermost."""

    __slots__ = ("_entered", "_name", "_run")

    def __init__(self, run: "Run", name: str) -> None:
        self._run, self._name = run, name
        self._entered: list[_Entry] = []

    def __enter__(self) -> "Phase":
        run, name = self._run, self._name
        stack = run._open_phases.stack
        entry = _Entry(name, stack)
        if name in METRICS:
            around = next((each.gpu for each in reversed(stack) if each.gpu is not None), None) if stack else None
            entry.gpu = run._instruments.begin_gpu_phase(name, around)
        stack.append(entry)
        self._entered.append(entry)
        if name not in wire.STEP_PHASES:
            with run._guard():
                run._emitter.emit(wire.PhaseEntered(time_ns(), entry.started_ns, run._last_step, name))
        return self

    def cancel(self) -> None:
        """Leave a phase of a step that turned out to be none: nothing is counted."""
        if self._entered:
            entry = self._entered.pop()
            outer = entry.leave()
            if outer is not None:
                outer.nested_ns += entry.nested_ns

    def __exit__(self, *error: object) -> None:
        ended_ns = monotonic_ns()
        if not self._entered:
            return
        run, entry = self._run, self._entered.pop()
        outer = entry.leave()
        if entry.gpu is not None:
            run._instruments.gpu_phases.end(entry.gpu)
        elapsed_ns = ended_ns - entry.started_ns
        if outer is not None:
            outer.nested_ns += elapsed_ns
        seconds = (elapsed_ns - entry.nested_ns) / 1e9
        if self._name not in wire.STEP_PHASES:
            with run._guard():
                run._emitter.emit(wire.PhaseExited(time_ns(), ended_ns, run._last_step, self._name, seconds))
        elif outer is None or outer.name in wire.STEP_PHASES:
            run._add_phase(self._name, seconds)
