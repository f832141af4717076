"""What a run measures by itself: GPU times, memory of torch's allocator, probes, histograms of tensors on a device.

Given: the ends of steps. Hands on: metrics for the step that ended, and records that waited for its number.
Never: waits for a device in a step, or costs more than the test of one flag where none of this is used.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from sidecar.client import allocator, cuda_phases, histogram, values
from sidecar.client.pending import PendingNumbers, send

if TYPE_CHECKING:
    from sidecar.client.run import Run

STEP_CALLBACKS_MAX = 16  # Records that wait for the number of their step.
LOOK_NS = 1_000_000_000
BINS_MAX = 1024  # Histograms that a device has not finished.
CLOSE_SECONDS = 2.0

StepCallback = Callable[[int], None]
"""Called once, with the number of the step that ended."""


class Instruments:
    """The instruments of one run. Used from the training thread, except for ``close`` and ``histogram``."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self.busy = True
        """Whether there is anything to do at the end of a step."""
        self.may_have_gpu = True
        """Whether phases are timed on a GPU. True at first, until the first step's end."""
        self.look_ns = 0
        """When to look for a GPU again, on the monotonic clock: a script may begin to use its own after some steps."""
        self.gpu_phases = cuda_phases.GpuPhases(run.rejected)
        self.dataset_losses: Any = None
        self._allocator: Any = None
        self._step_callbacks: deque[StepCallback] = deque()
        self._bins: deque[tuple[PendingNumbers, str, int | None]] = deque()
        self._closers: list[Callable[[], None]] = []

    def before_step(self, step: int, sent: dict[str, Any], mono_ns: int) -> None:
        """Add to a step's metrics what was measured beside it. Only called while ``busy``, and when it is time to look
        for a GPU."""
        if self.dataset_losses is not None:
            with self._guard("dataset_loss"):
                sent.update(self.dataset_losses.take())
        if self._allocator is None:
            self._allocator = cuda_phases.cuda()
            self.may_have_gpu, self.look_ns = self._allocator is not None, mono_ns + LOOK_NS
        if self._allocator is not None:
            with self._guard("gpu_phase"):  # A device that has failed must not take the step with it.
                for name, value in self.gpu_phases.take().items():
                    sent.setdefault(name, value)
            if step % allocator.EVERY_STEPS == 0:
                with self._guard("allocator"):
                    sent.update(allocator.readings(self._allocator))

    def after_step(self, step: int) -> None:
        """Call those who waited for this step's number. Only called while ``busy``."""
        while self._step_callbacks:
            with self._guard("rider"):
                self._step_callbacks.popleft()(step)
        self.emit_arrived_bins()
        self.busy = bool(self._allocator is not None or self._bins)

    def dataset_loss(self, names: Any, losses: Any, mask: Any) -> None:
        if self.dataset_losses is None:
            from sidecar.client.dataset_loss import DatasetLosses  # Needs torch, which whoever has losses has imported.

            self.dataset_losses = DatasetLosses()
        self.dataset_losses.add(names, losses, mask)
        self.busy = True

    def at_step_end(self, callback: StepCallback) -> None:
        """Call ``callback`` at the end of the step under way, when its number is known."""
        if len(self._step_callbacks) >= STEP_CALLBACKS_MAX:
            self._step_callbacks.popleft()
            values.count(self._run.rejected, "no_step_for_probe")
        self._step_callbacks.append(callback)
        self.busy = True

    def histogram(self, name: str, given: Any, step: int | None, bins: int) -> None:
        """Count the bins of a tensor on its device and send them once they have arrived; of anything else at once.

        A sharded tensor gives the bins of this rank's shard, under ``shard/<name>``.
        """
        if hasattr(given, "to_local"):
            sharded = any(placement.is_shard() for placement in given.placements)
            name, given = f"shard/{name}" if sharded else name, given.to_local()
        if histogram.is_tensor(given) and not given.is_cpu:
            self.bins(name, histogram.packed(given, bins), step)
        else:
            self._run._emit_bins(name, histogram.binned(given, bins), step)

    def bins(self, name: str, packed: Any, step: int | None) -> None:
        """Send bins (see ``histogram.packed``) as soon as the device has counted them."""
        if len(self._bins) >= BINS_MAX:
            self._bins.popleft()
            values.count(self._run.rejected, "device_too_late")
        self._bins.append((send(packed), name, step))
        self.busy = True
        self.emit_arrived_bins()

    def emit_arrived_bins(self) -> None:
        while self._bins:
            with self._guard("histogram"), contextlib.suppress(IndexError):  # Another thread may have been faster.
                entry = self._bins.popleft()
                numbers, name, step = entry
                if not numbers.ready():
                    self._bins.appendleft(entry)
                    return
                self._run._emit_bins(name, histogram.unpacked(numbers.values()), step)

    def on_close(self, closer: Callable[[], None]) -> None:
        self._closers.append(closer)

    def off_close(self, closer: Callable[[], None]) -> None:
        """``closer`` need not be called any more: do not keep alive what it holds."""
        with contextlib.suppress(ValueError):
            self._closers.remove(closer)

    def close(self) -> None:
        """The run ends: remove all hooks, and give the device a moment to finish its histograms."""
        last = self._run._last_step
        while self._step_callbacks and last is not None:
            with self._guard("rider"):
                self._step_callbacks.popleft()(last)
        while self._closers:
            with self._guard("close"):
                self._closers.pop()()
        deadline = monotonic() + CLOSE_SECONDS
        self.emit_arrived_bins()
        while self._bins and monotonic() < deadline:
            sleep(0.001)
            self.emit_arrived_bins()
        self.busy = False

    @contextlib.contextmanager
    def _guard(self, what: str) -> Any:
        try:
            yield
        except ValueError:  # No finite value in a histogram.
            values.count(self._run.rejected, f"bad_{what}")
        except Exception:  # noqa: BLE001 - The promise of Run: nothing escapes into the loop; what was lost is counted.
            values.count(self._run.rejected, f"failed_{what}")


class NoProbe:
    """What ``Run.watch`` returns when there is nothing to watch."""

    layers: tuple[str, ...] = ()

    def sample(self, step: int) -> None: ...

    def close(self) -> None: ...
