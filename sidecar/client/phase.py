"""What a loop is doing, and for how long: the context manager of ``Run.phase``.

Given: a name, entered and left. Hands on: seconds to the step under way, or two events for what is no part of a step.
Never: raises, or hides an exception of the code inside.
"""

import threading
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Any

from sidecar.wire import STEP_PHASES, PhaseEntered, PhaseExited

if TYPE_CHECKING:
    from sidecar.client.run import Run


PHASE_TIMES_MAX = 4096  # Of a loop that never ends a step: from here on they are added up.


class OpenPhases(threading.local):
    """The phases that the calling thread is in, outermost first. A checkpoint written by another thread does not
    contain the forward pass that goes on meanwhile."""

    def __init__(self) -> None:
        self.stack: list[Phase] = []


class Phase:
    """Context manager of :meth:`Run.phase`; may be entered again. Nested phases count their time once, for the
    innermost.

    A forward pass leaves nothing of this in the processor's caches, so each object and each call that is not needed
    here saves a training step microseconds.
    """

    __slots__ = ("_again", "_gpu", "_name", "_nested_ns", "_run", "_stack", "_started_ns")

    def __init__(self, run: "Run", name: str) -> None:
        self._run, self._name = run, name
        self._stack: list[Phase] | None = None
        """Of the thread that is in this phase; None outside."""
        self._again: Phase | None = None
        """Stands for the last time this was entered while it was entered already."""
        self._gpu: Any = None

    def __enter__(self) -> "Phase":
        if self._stack is not None:
            return self._enter_again()
        run, name = self._run, self._name
        self._started_ns, self._nested_ns = monotonic_ns(), 0
        self._stack = stack = run._open_phases.stack
        if run._instruments.may_have_gpu:
            around = next((each._gpu for each in reversed(stack) if each._gpu is not None), None)
            self._gpu = run._instruments.gpu_phases.begin(name, around)
        stack.append(self)
        if name not in STEP_PHASES:
            with run._guard():
                run._emitter.emit(PhaseEntered(time_ns(), self._started_ns, run._last_step, name))
        return self

    def _enter_again(self) -> "Phase":
        again = Phase(self._run, self._name)
        again._again, self._again = self._again, again
        again.__enter__()
        return self

    def cancel(self) -> None:
        """Leave a phase of a step that turned out to be none: nothing is counted."""
        if self._stack is not None:
            phase = self._innermost()
            outer = phase._leave()
            if outer is not None:
                outer._nested_ns += phase._nested_ns

    def __exit__(self, *error: object) -> None:
        ended_ns = monotonic_ns()
        if self._stack is None:
            return
        if self._again is not None:
            self._innermost().__exit__()
            return
        run, name = self._run, self._name
        outer = self._leave()
        if self._gpu is not None:
            run._instruments.gpu_phases.end(self._gpu)
            self._gpu = None
        elapsed_ns = ended_ns - self._started_ns
        if outer is not None:
            outer._nested_ns += elapsed_ns
        seconds = (elapsed_ns - self._nested_ns) / 1e9
        if name not in STEP_PHASES:
            with run._guard():
                run._emitter.emit(PhaseExited(time_ns(), ended_ns, run._last_step, name, seconds))
        elif outer is None or outer._name in STEP_PHASES:
            run._phase_times.append((name, seconds))
            if len(run._phase_times) > PHASE_TIMES_MAX:
                run._add_up_phases()

    def _innermost(self) -> "Phase":
        """What was entered last of this, taken off."""
        again = self._again
        if again is None:
            return self
        self._again, again._again = again._again, None
        return again

    def _leave(self) -> "Phase | None":
        """Off the stack, wherever in it (generators are closed late); returns the phase around this one."""
        stack, self._stack = self._stack, None
        assert stack is not None
        place = stack.index(self)
        del stack[place]
        return stack[place - 1] if place else None
