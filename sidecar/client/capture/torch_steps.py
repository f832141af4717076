"""Steps of a script that logs nothing: counted where every torch optimizer steps.

Given: calls of torch's global optimizer hook. Hands on: one Step event per round of all optimizers, with the learning
rate and, once measured, the model FLOPs of a step; the model's parameters as facts.
Never: reads a tensor, waits for a device, or emits steps beside those a script emits itself.

A step is one round of all optimizers, not one call: scripts such as nanochat step two of them. FLOPs are those of the
operations of one early step, forward and backward (``flops``), so they count what runs on this rank.
"""

import os
import sys
import weakref
from typing import Any

from sidecar.client import facts as model_facts
from sidecar.client import start as client
from sidecar.client.capture.begin import begin
from sidecar.client.start import IMPLICIT

MEASURED_STEP = 2  # The third: by then lazy initialisation and the first allocations are over.
ABSENT_ROUNDS_MAX = 16  # An optimizer that has not stepped for so many rounds is no longer waited for.


class StepCounter:
    def __init__(self) -> None:
        self.step = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiting: weakref.WeakSet[Any] = weakref.WeakSet()
        self._first: weakref.ref[Any] | None = None
        self._repeats = 0
        self._run: client.Run | None = None
        self._theirs = False
        self._flops: int | None = None
        self._meter: Any = None
        self._facts: dict[str, Any] = {}

    def stepping(self, optimizer: Any, args: Any = (), kwargs: Any = None) -> None:
        """Torch's pre-step hook. FLOPs of the step itself do not count, but those of a closure that it calls do."""
        if self._meter is not None and not any(map(callable, (*args[:2], *(kwargs or {}).values()))):
            self._meter.pause(paused=True)

    def stepped(self, optimizer: Any, args: Any = None, kwargs: Any = None) -> None:
        """Torch's post-step hook."""
        try:
            if self._meter is not None:
                self._meter.pause(paused=False)
            if optimizer not in self._known:
                first = not self._known
                self._known.add(optimizer)
                if not first:
                    return  # Still the first round, which was counted when it began.
            elif optimizer in self._waiting:
                self._waiting.discard(optimizer)
                self._repeats = 0
                if self._waiting:
                    return
            else:
                self._repeats += 1
                if self._repeats < ABSENT_ROUNDS_MAX * max(1, len(self._known)):
                    return
                self._known = weakref.WeakSet([optimizer])
                self._repeats = 0
            self._waiting = weakref.WeakSet(self._known)
            self._round(optimizer)
        except Exception as error:  # noqa: BLE001  # An error of ours must not end the training loop.
            self._failed(error)

    def _round(self, optimizer: Any) -> None:
        run = self._wanted_run()
        if run is None:
            return
        if self._meter is not None:
            self._finish_measuring(run)
        elif self.step == MEASURED_STEP - 1 and self._flops is None:
            self._begin_measuring()
        metrics = {} if self._flops is None else {"train/flops": self._flops}
        rate = optimizer.param_groups[0].get("lr")
        run.step(self.step, learning_rate=rate if isinstance(rate, int | float) else None, metrics=metrics)
        self.step += 1

    def _wanted_run(self) -> client.Run | None:
        """The captured run, or a new one if there is none; None if the script reports its own steps."""
        run = client.current()
        self._theirs |= run is not None and run.captured is None
        if run is None:
            if self._run is not None or self._theirs:
                return None  # It was finished: the script is done with it.
            project = os.environ.get("SIDECAR_PROJECT") or os.path.basename(sys.argv[0] or "python").removesuffix(".py")
            run = begin(IMPLICIT, project=project)
        if run is not self._run:
            self._run = run if run.captured else None
            if self._run is not None and self._facts:
                run.facts(self._facts)
        return self._run

    def _begin_measuring(self) -> None:
        from sidecar.client.capture.flops import FlopMeter

        meter = FlopMeter()
        if meter.start():
            self._meter = meter
        else:
            self._flops = 0

    def _finish_measuring(self, run: client.Run) -> None:
        meter, self._meter = self._meter, None
        self._flops = meter.stop() or None
        found = {"trainable_params": sum(p.numel() for o in self._known for g in o.param_groups for p in g["params"])}
        if meter.model is not None:
            found.update(model_facts.model_facts(meter.model, None))
        else:
            found["params"] = found["trainable_params"]
        if meter.dtype is not None:
            found["dtype"] = meter.dtype
        self._facts = {**found, "flops_source": "torch dispatch, one step of one rank"}
        run.facts(self._facts)

    def _failed(self, error: Exception) -> None:
        if self._run is not None:
            from sidecar.client import values

            values.count(self._run.rejected, f"capture_torch_{type(error).__name__}")


def _not_compiled(hook: Any) -> Any:
    """Keep torch.compile from tracing the hook when a script compiles its optimizer's step."""
    from torch._compile import _disable_dynamo  # Public as torch.compiler.disable, which loads the compiler at once.

    def call(optimizer: Any, args: Any, kwargs: Any) -> None:
        hook(optimizer, args, kwargs)

    return _disable_dynamo(call)


def install(module: Any) -> StepCounter:
    """``module`` is torch.optim.optimizer, just imported."""
    counter = StepCounter()
    module.register_optimizer_step_pre_hook(_not_compiled(counter.stepping))
    module.register_optimizer_step_post_hook(_not_compiled(counter.stepped))
    return counter
