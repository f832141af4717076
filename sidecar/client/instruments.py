"""What rides on a run beside what its loop says: GPU times, the allocator's books, probes, bins still under way.

Given: the ends of steps. Hands on: metrics for the step that ended, and records that waited for its number.
Never: waits for a device in a step, or costs more than one test of a flag where none of this is used.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from sidecar.client import allocator, cuda_phases, histogram, values
from sidecar.client.later import Numbers, send

if TYPE_CHECKING:
    from sidecar.client.run import Run

RIDERS_MAX = 16  # Records that wait for the number of their step.
BINS_MAX = 1024  # Histograms that a device has not finished.
CLOSE_SECONDS = 2.0

Rider = Callable[[int], None]
"""Called once, with the step that ended."""


class Instruments:
    """Those of one run. Used from the training thread, but for ``close``."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self.busy = True
        """Is there anything to do at the end of a step? True at first, to look once whether there is a GPU."""
        self.gpu_phases = cuda_phases.GpuPhases(run.rejected)
        self.dataset_losses: Any = None
        self._allocator: Any = None
        self._riders: deque[Rider] = deque()
        self._bins: deque[tuple[Numbers, str, int | None]] = deque()
        self._closers: list[Callable[[], None]] = []

    def begin_gpu_phase(self, name: str, outer: cuda_phases.Span | None) -> cuda_phases.Span | None:
        span = self.gpu_phases.begin(name, outer)
        if span is not None:
            self.busy = True  # A script may come to its GPU only after some steps.
        return span

    def before_step(self, step: int, sent: dict[str, Any]) -> None:
        """Add to a step's metrics what was measured beside it. Only called while ``busy``."""
        if self.dataset_losses is not None:
            with self._guard("dataset_loss"):
                sent.update(self.dataset_losses.take())
        if self._allocator is None:
            self._allocator = cuda_phases.cuda()
        if self._allocator is not None:
            for name, value in self.gpu_phases.take().items():
                sent.setdefault(name, value)
            if step % allocator.EVERY_STEPS == 0:
                with self._guard("allocator"):
                    sent.update(allocator.readings(self._allocator))

    def after_step(self, step: int) -> None:
        """Let those go who waited for this step's number. Only called while ``busy``."""
        while self._riders:
            with self._guard("rider"):
                self._riders.popleft()(step)
        self.emit_arrived_bins()
        self.busy = bool(self._allocator is not None or self._bins)

    def dataset_loss(self, names: Any, losses: Any, mask: Any) -> None:
        if self.dataset_losses is None:
            from sidecar.client.dataset_loss import DatasetLosses  # Needs torch, which whoever has losses has imported.

            self.dataset_losses = DatasetLosses()
        self.dataset_losses.add(names, losses, mask)
        self.busy = True

    def ride(self, rider: Rider) -> None:
        """Call ``rider`` at the end of the step under way, when its number is known."""
        if len(self._riders) >= RIDERS_MAX:
            self._riders.popleft()
            values.count(self._run.rejected, "no_step_for_probe")
        self._riders.append(rider)
        self.busy = True

    def histogram(self, name: str, given: Any, step: int | None, bins: int) -> None:
        """Bins of a tensor on a device are counted there and sent when they are here; all others at once.

        Of a sharded tensor those of this rank's shard, under a name that says so.
        """
        if hasattr(given, "to_local"):
            sharded = any(placement.is_shard() for placement in given.placements)
            name, given = f"shard/{name}" if sharded else name, given.to_local()
        if histogram.is_tensor(given) and not given.is_cpu:
            self.bins(name, histogram.packed(given, bins), step)
        else:
            self._run._emit_bins(name, histogram.binned(given, bins), step)

    def bins(self, name: str, packed: Any, step: int | None) -> None:
        """Bins that a device is still counting."""
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
        """It has been called already: nothing is kept alive for it."""
        with contextlib.suppress(ValueError):
            self._closers.remove(closer)

    def close(self) -> None:
        """The run ends: hooks are removed, and the device gets a moment for the bins it is counting."""
        last = self._run._last_step
        while self._riders and last is not None:
            with self._guard("rider"):
                self._riders.popleft()(last)
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
