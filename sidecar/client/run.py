"""The object a training loop holds: every call makes one event, and returns.

Given: numbers, texts, phases. Hands on: events, to the emitter.
Never: raises into the loop, blocks, makes a system call in step(), or synchronises a device.
"""

import atexit
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic_ns, time_ns
from types import TracebackType
from typing import Any

from sidecar import wire
from sidecar.client import values
from sidecar.client.emitter import Emitter
from sidecar.client.histogram import Bins
from sidecar.client.instruments import Instruments, NoProbe
from sidecar.client.loader import TimedLoader
from sidecar.client.phase import OpenPhases, Phase
from sidecar.client.timed_optimizer import TimedOptimizer

__all__ = ["Phase", "Run", "current"]

FLUSH_SECONDS_DEFAULT = 10.0
FLUSH_SECONDS_MAX = 24 * 3600.0
DATASETS_PER_STEP_MAX = 1024

_live: "list[Run]" = []  # Runs that are not finished, in the order in which they began.


def current() -> "Run | None":
    """The newest run of this process that is not finished."""
    return _live[-1] if _live else None


class Run:
    """One rank's part of a run. Made by :func:`init`; every method may be called from any thread."""

    def __init__(self, hello: wire.Hello, endpoint: str) -> None:
        self.id = hello.run_id
        self.project, self.name, self.stage = hello.project, hello.name, hello.stage
        self.rank, self.world_size = hello.rank, hello.world_size
        self.captured = hello.captured
        self._emitter = Emitter(hello, endpoint)
        self.rejected = self._emitter.rejected
        """What could not be taken, by reason; also sent to the sidecar."""
        self._phase_times: deque[tuple[str, float]] = deque()
        """Of the step under way, not added up: that would take a lock each time."""
        self._datasets: dict[str, tuple[int, int]] = {}
        self._counts = threading.RLock()  # Of this; held for a microsecond, and by a signal handler as well.
        self._open_phases = OpenPhases()
        self._finishing = False
        self._last_step: int | None = None
        self._instruments = Instruments(self)
        _live.append(self)
        _finish_with_worker()

    def step(
        self,
        step: int,
        *,
        loss: Any = None,
        learning_rate: Any = None,
        grad_norm: Any = None,
        tokens: Any = None,
        samples: Any = None,
        epoch: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """One optimizer step has ended. ``tokens`` and ``samples`` are what this rank consumed in it.

        Values may be Python or numpy numbers or 0-d tensors. None means not measured. A tensor on a device is copied
        on its current stream and arrives with this step when the device is done; nothing here waits for it.
        """
        try:
            now_ns, mono_ns = time_ns(), monotonic_ns()
            sent: dict[str, Any] = {}
            if loss is not None:
                sent["train/loss"] = loss
            if learning_rate is not None:
                sent["train/learning_rate"] = learning_rate
            if grad_norm is not None:
                sent["train/grad_norm"] = grad_norm
            if tokens is not None:
                sent["train/num_tokens"] = tokens
            if samples is not None:
                sent["train/num_samples"] = samples
            if epoch is not None:
                sent["train/epoch"] = epoch
            if metrics is not None:
                try:
                    sent |= metrics
                    for name in metrics:
                        if type(name) is not str:
                            sent = values.metrics_and_device_scalars(sent, self.rejected)
                            break
                except Exception:  # noqa: BLE001 - No mapping, or a hostile one: the step itself still counts.
                    values.count(self.rejected, "bad_metrics")
            if type(step) is not int or not 0 <= step <= wire.STEP_MAX:
                number = values.step_number(step)
                if number is None:
                    values.count(self.rejected, "bad_step")
                    return
                step = number
            phases = self._take_phases() if self._phase_times else {}
            datasets = self._take_datasets() if self._datasets else {}
            busy = self._instruments.busy or mono_ns >= self._instruments.look_ns
            if busy:
                self._instruments.before_step(step, sent, mono_ns)
            self._last_step = step
            self._emitter.emit(wire.Step(now_ns, mono_ns, step, sent, phases, datasets))
            if busy:
                self._instruments.after_step(step)
        except Exception:  # noqa: BLE001 - The promise of this file: nothing escapes into the loop; what was lost is counted.
            values.count(self.rejected, "internal_error")

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Any numbers, at any time. Without ``step`` they belong to the step last begun."""
        with self._guard():
            sent = values.metrics_and_device_scalars(metrics, self.rejected)
            if sent or not metrics:
                self._emitter.emit(wire.Log(time_ns(), monotonic_ns(), self._step(step), sent))

    def text(self, name: str, text: str, step: int | None = None) -> None:
        """A text, such as a sample. It stays on this machine unless the sidecar is told otherwise."""
        with self._guard():
            kept = values.text(text)
            self._emitter.emit(wire.Text(time_ns(), monotonic_ns(), self._step(step), values.label(name), kept))

    def histogram(self, name: str, values_: Any, step: int | None = None, *, bins: int = 64) -> None:
        """The distribution of a tensor, array or list, in ``bins`` equal bins; only the bins leave the process."""
        with self._guard("bad_histogram"):
            self._instruments.histogram(values.label(name), values_, self._step(step), bins)

    def data(self, loader: Any) -> Any:
        """``for batch in run.data(loader):`` - the time spent waiting for each batch counts as phase data_wait.

        Stands for the loader in every other respect: length, attributes, exceptions.
        """
        return TimedLoader(loader, lambda: Phase(self, "data_wait"))

    def time_optimizer(self, optimizer: Any) -> TimedOptimizer:
        """Count each ``optimizer.step()`` as phase optimizer, by torch's own hooks. ``.remove()`` ends it."""
        timed = TimedOptimizer(lambda: Phase(self, "optimizer"), self._instruments.off_close)
        with self._guard("bad_optimizer"):
            if self._finishing:
                raise RuntimeError("the run has ended")
            timed.install(optimizer)
            self._instruments.on_close(timed.remove)
        return timed

    def watch(self, model: Any, optimizer: Any = None, **options: Any) -> Any:
        """Look inside a torch module every so many steps; the options are those of :class:`probes.Probe`.

        Returns the probe, whose ``close()`` removes it. What cannot be watched is counted as bad_watch.
        """
        with self._guard("bad_watch"):
            from sidecar.client.probes import Probe  # Needs torch, which whoever has a model has imported.

            if self._finishing:
                raise RuntimeError("the run has ended")
            return Probe(self, model, optimizer, **options)
        return NoProbe()

    def phase(self, name: str) -> Phase:
        """``with run.phase("evaluation"):`` - what the loop is doing, for its time and for knowing a stall from work.

        data_wait, forward, backward and optimizer belong to each step; all others pause the training clock.
        """
        return Phase(self, values.label(name))

    def dataset(self, name: str, *, samples: int = 0, tokens: int = 0) -> None:
        """What the current step consumed from a dataset, on this rank. Counted when the step ends."""
        try:
            name, more_samples, more_tokens = values.label(name), values.integer(samples), values.integer(tokens)
            with self._counts:
                if name not in self._datasets and len(self._datasets) >= DATASETS_PER_STEP_MAX:
                    raise ValueError("too many datasets in one step")
                old_samples, old_tokens = self._datasets.get(name, (0, 0))
                self._datasets[name] = (old_samples + more_samples, old_tokens + more_tokens)
        except Exception:  # noqa: BLE001 - As in step(): nothing escapes, everything is counted.
            values.count(self.rejected, "bad_dataset")

    def dataset_loss(self, names: Sequence[str], losses: Any, mask: Any = None) -> None:
        """Losses of a micro-batch by dataset, from values the step has anyway; the sidecar joins all ranks.

        ``names``: the dataset of each sample; ``losses``: a tensor (samples,) or (samples, tokens), not reduced;
        ``mask``: of the same shape, 1 where a loss counts. Micro-batches of a step are weighted by what counts.
        """
        with self._guard("bad_dataset_loss"):
            self._instruments.dataset_loss(names, losses, mask)

    def checkpoint(
        self, step: int | None = None, *, seconds: float | None = None, bytes: int | None = None, name: str = "",
        path: Any = None,
    ) -> None:
        """A checkpoint has been written: how long it took and how large it is. ``path``: the file or folder, which
        W&B gets as an artifact where ``--allow artifacts`` says so."""
        with self._guard("bad_checkpoint"):
            event = wire.Checkpoint(
                time_ns(),
                monotonic_ns(),
                self._step(step),
                None if seconds is None else float(seconds),
                None if bytes is None else values.integer(bytes),
                values.label(name),
                values.path(path),
            )
            self._emitter.emit(event)

    def config(self, changes: Mapping[str, Any]) -> None:
        """Merge keys into the run's configuration."""
        with self._guard():
            self._emitter.emit(wire.ConfigChanged(time_ns(), monotonic_ns(), values.wire_map(changes, self.rejected)))

    def facts(self, changes: Mapping[str, Any]) -> None:
        """Merge keys into the model facts (see :func:`init`), for what is known only later."""
        with self._guard():
            self._emitter.emit(wire.FactsChanged(time_ns(), monotonic_ns(), values.wire_map(changes, self.rejected)))

    def finish(
        self, state: str = "finished", *, reason: str | None = None, timeout_seconds: float | None = None
    ) -> None:
        """End the run and wait until the sidecar has everything, at most ``timeout_seconds`` (default 10).

        Where no sidecar ever answered it waits one second. What is not acknowledged stays in the ring, from where the
        next sidecar takes it. Idempotent; also called when the interpreter exits.
        """
        if self._finishing or not self._emitter.is_open:
            return
        self._finishing = True  # Also for a signal handler that comes while we wait below.
        with self._guard():
            limit = FLUSH_SECONDS_DEFAULT if timeout_seconds is None else max(0.0, float(timeout_seconds))
            if self in _live:
                _live.remove(self)
            self._instruments.close()
            self._emit_leftovers()
            last = wire.Finished(
                time_ns(), monotonic_ns(), values.label(state), None if reason is None else values.label(reason)
            )
            self._emitter.finish(last, min(limit, FLUSH_SECONDS_MAX))

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_after(error)

    def _finish_after(self, error: BaseException | None) -> None:
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.finish()
        else:
            self.finish("failed", reason=type(error).__name__)

    def _emit(self, event: wire.Event) -> None:
        """Emit a ready event. For the captures, which make events of the wire themselves."""
        self._emitter.emit(event)

    def _emit_bins(self, name: str, bins: Bins, step: int | None) -> None:
        self._emitter.emit(wire.Histogram(time_ns(), monotonic_ns(), step, name, *bins))

    def _hold(self, event: wire.Event | None) -> None:
        """Hold a row that may still change, for the captures: it survives a kill, but is sent only once emitted."""
        self._emitter.hold(event)

    def _add_up_phases(self) -> None:
        self._phase_times.extend(self._take_phases().items())

    def _take_phases(self) -> dict[str, float]:
        phases: dict[str, float] = {}
        try:
            while self._phase_times:
                name, seconds = self._phase_times.popleft()
                phases[name] = phases.get(name, 0.0) + seconds
        except IndexError:  # Another thread has taken the last.
            pass
        return phases

    def _take_datasets(self) -> dict[str, tuple[int, int]]:
        with self._counts:
            taken, self._datasets = self._datasets, {}
        return taken

    def _emit_leftovers(self) -> None:
        """Phases and consumption that no step carried away."""
        for name, seconds in self._take_phases().items():
            self._emitter.emit(wire.PhaseExited(time_ns(), monotonic_ns(), self._last_step, name, seconds))
        self._emit_consumed(self._last_step, self._take_datasets())

    def _emit_consumed(self, step: int | None, datasets: dict[str, tuple[int, int]]) -> None:
        if datasets:
            self._emitter.emit(wire.Consumed(time_ns(), monotonic_ns(), step, datasets))

    def _step(self, step: Any) -> int | None:
        if step is None:
            return self._last_step
        number = values.step_number(step)
        if number is None:
            values.count(self.rejected, "bad_step")
        return number

    @contextlib.contextmanager
    def _guard(self, reason: str = "internal_error") -> Any:
        try:
            yield
        except Exception:  # noqa: BLE001 - As in step(): nothing escapes, everything is counted.
            values.count(self.rejected, reason)


def _forget_all_after_fork() -> None:
    for run in list(_live):
        run._counts = threading.RLock()  # Another thread may have held it.
        run._emitter.forget_after_fork()


def _finish_with_worker() -> None:
    """A worker of multiprocessing that was forked leaves without atexit: it has a list of its own for that."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing import util  # The worker itself has loaded it.

        util.Finalize(None, _finish_all_of_worker, exitpriority=10)


def _finish_all_of_worker() -> None:
    for run in list(_live):
        run._finish_after(sys.exc_info()[1])  # The worker's function has returned, or this ended it.


def _finish_all_at_exit() -> None:
    """An exception that ended the program is known here. ``sys.exit(3)`` is not: the interpreter forgets a SystemExit
    before it calls us, and a training process' sys.exit is not ours to replace. The launcher tells the sidecar."""
    # In an interactive session, where sys.ps1 is set, any earlier line or cell may have left its error behind.
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_type", None)
    for run in list(_live):
        run.finish("failed", reason=error.__name__) if error else run.finish()


os.register_at_fork(after_in_child=_forget_all_after_fork)
atexit.register(_finish_all_at_exit)
