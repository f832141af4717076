"""What a loop is doing, and for how long: the context manager of ``Run.phase``.

Given: a name, entered and left. Hands on: seconds to the step under way, or two events for what is no part of a step.
Never: raises, or hides an exception of the code inside.
"""

from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING

from sidecar import wire
from sidecar.client.cuda_phases import METRICS

if TYPE_CHECKING:
    from sidecar.client.run import Run


class Phase:
    """Context manager of :meth:`Run.phase`. Nested phases count their time once, for the innermost."""

    __slots__ = ("_gpu", "_name", "_nested_ns", "_outer", "_run", "_started_ns")

    def __init__(self, run: "Run", name: str) -> None:
        self._run, self._name = run, name
        self._nested_ns = self._started_ns = 0
        self._outer: Phase | None = None

    def __enter__(self) -> "Phase":
        run = self._run
        self._outer = run._phase
        run._phase = self
        self._started_ns = monotonic_ns()
        self._gpu = run._instruments.begin_gpu_phase(self._name) if self._name in METRICS else None
        if self._name not in wire.STEP_PHASES:
            with run._guard():
                run._emitter.emit(wire.PhaseEntered(time_ns(), self._started_ns, run._last_step, self._name))
        return self

    def cancel(self) -> None:
        """Leave a phase of a step that turned out to be none: nothing is counted."""
        self._run._phase = self._outer
        if self._outer is not None:
            self._outer._nested_ns += self._nested_ns

    def __exit__(self, *error: object) -> None:
        run, ended_ns = self._run, monotonic_ns()
        run._phase = self._outer
        if self._gpu is not None:
            run._instruments.gpu_phases.end(self._gpu)
        elapsed_ns = ended_ns - self._started_ns
        if self._outer is not None:
            self._outer._nested_ns += elapsed_ns
        seconds = (elapsed_ns - self._nested_ns) / 1e9
        if self._name not in wire.STEP_PHASES:
            with run._guard():
                run._emitter.emit(wire.PhaseExited(time_ns(), ended_ns, run._last_step, self._name, seconds))
        elif self._outer is None or self._outer._name in wire.STEP_PHASES:
            run._phases[self._name] = run._phases.get(self._name, 0.0) + seconds
