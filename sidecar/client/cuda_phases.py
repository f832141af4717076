"""How long the phases of a step keep the GPU busy: events on its stream, read when they have happened.

Given: begin and end of forward, backward and optimizer. Hands on: their milliseconds, with the step they belong to.
Never: waits for the device, or records into a CUDA graph that is being captured.

On the host a phase ends when its kernels are queued; on the device it may just have begun. Two events on the current
stream, queried later, give the time that the device spent. Where there is no CUDA the host clock of
``Run.phase`` is all there is, and right.
"""

import sys
from collections.abc import Sequence
from typing import Any

from sidecar.client.pending import PendingMetrics
from sidecar.client.values import count

METRICS = {
    "forward": "performance/forward_time_ms",
    "backward": "performance/backward_time_ms",
    "optimizer": "performance/optimizer_time_ms",
}
SPANS_MAX = 256  # Of one step, micro-batches included; beyond that the host clock has to do.
POOL_EVENTS_MAX = 1024


def cuda() -> Any:
    """``torch.cuda`` once the script uses it, else None. Never initialises it."""
    torch = sys.modules.get("torch")
    module = getattr(torch, "cuda", None)  # None also while torch is still being imported.
    return module if module is not None and module.is_initialized() else None


class Span:
    """One pass through a phase, on one stream."""

    __slots__ = ("end", "name", "outer", "start")

    def __init__(self, name: str, start: Any, end: Any, outer: "Span | None") -> None:
        self.name, self.start, self.end, self.outer = name, start, end, outer


class GpuPhases:
    """The phases of the step under way. Used from the training thread only."""

    def __init__(self, rejected: dict[str, int]) -> None:
        self._rejected = rejected
        self._spans: list[Span] = []
        self._incomplete = False
        self._pool: list[Any] = []

    def begin(self, name: str, outer: Span | None = None) -> Span | None:
        """None where there is nothing to record on: no CUDA, another phase, or a graph being captured.

        ``outer`` is the span of the phase around this one: what this one takes is not counted there.
        """
        try:
            if name not in METRICS or (module := cuda()) is None:
                return None
            if module.is_current_stream_capturing() or len(self._spans) >= SPANS_MAX:
                self._incomplete = True  # Times of half a step would mislead.
                return None
            span = Span(name, self._event(module), self._event(module), outer)
            span.start.record()
        except Exception:  # noqa: BLE001 - Hot path: a failing device is the script's to notice, not ours to raise.
            self._fail()
            return None
        return span

    def end(self, span: Span) -> None:
        try:
            module = cuda()
            if module is None or module.is_current_stream_capturing():
                self._incomplete = True
                return
            span.end.record()
        except Exception:  # noqa: BLE001 - As above.
            self._fail()
            return
        self._spans.append(span)

    def take(self) -> dict[str, Any]:
        """The metrics of the step that has ended; values follow. Empty when nothing or not everything was recorded."""
        spans, incomplete = self._spans, self._incomplete
        self._spans, self._incomplete = [], False
        if incomplete or not spans:
            return {}
        names = {METRICS[span.name] for span in spans}
        return PendingMetrics(_Elapsed(spans), lambda times: self._add_up(spans, times)).metrics(names)

    def _add_up(self, spans: Sequence[Span], times: Sequence[float]) -> dict[str, float]:
        """Milliseconds by metric; a nested phase counts for itself only, as on the host."""
        totals = {METRICS[span.name]: 0.0 for span in spans}
        counted = {id(span) for span in spans}
        for span, milliseconds in zip(spans, times, strict=True):
            totals[METRICS[span.name]] += milliseconds
            if span.outer is not None and id(span.outer) in counted:
                totals[METRICS[span.outer.name]] -= milliseconds
        if len(self._pool) < POOL_EVENTS_MAX:
            self._pool += [event for span in spans for event in (span.start, span.end)]
        return totals

    def _fail(self) -> None:
        self._incomplete = True
        count(self._rejected, "failed_gpu_phase")

    def _event(self, module: Any) -> Any:
        return self._pool.pop() if self._pool else module.Event(enable_timing=True)


class _Elapsed:
    """Milliseconds of each span, once all have ended on the device."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self.size = len(spans)

    def ready(self) -> bool:
        return all(span.end.query() for span in reversed(self._spans))

    def values(self) -> list[float]:
        return [float(span.start.elapsed_time(span.end)) for span in self._spans]
