"""Samples gradients, weights, updates and activations of a model every so many steps. ``Run.watch`` makes one.

Given: a module and its optimizer. Hands on: ordinary metrics and histograms, with the step they were measured in.
Never: changes a gradient, a weight or a random number; waits for a device; talks to another rank unless asked to;
raises into the loop. Between samples it costs two short hook calls for each optimizer step.

When: at each optimizer step whose number is a multiple of ``every``. Gradients are measured just before torch clips
them, else just before the optimizer steps, when accumulation, DDP's averaging and a scaler's division are done.
"""

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sidecar.client import activations as outputs
from sidecar.client import clipping, values
from sidecar.client.compiling import tracing_test
from sidecar.client.histogram import BINS_DEFAULT
from sidecar.client.pending import PendingMetrics
from sidecar.client.probe_reader import ModelReader
from sidecar.client.probe_selection import Selection, chosen, chosen_modules, plain_name
from sidecar.client.probe_stats import Gatherer, torch
from sidecar.client.timed_optimizer import around_closure, unwrapped

if TYPE_CHECKING:
    from sidecar.client.run import Run

log = logging.getLogger("sidecar")

KINDS = ("gradients", "weights", "activations")


class Probe:
    """Made by :meth:`Run.watch`. ``close()`` removes every hook, and so does the end of the run."""

    def __init__(
        self,
        run: "Run",
        model: Any,
        optimizer: Any = None,
        *,
        every: int = 100,
        gradients: bool = True,
        weights: bool = True,
        updates: bool = True,
        histograms: bool | Collection[str] = False,
        activations: bool | Sequence[str] = (),
        layers: Selection = None,
        scaler: Any = None,
        shards: str = "local",
    ) -> None:
        if every < 1 or shards not in ("local", "reduce"):
            raise ValueError(f"every must be at least 1 and shards 'local' or 'reduce', not {every!r}, {shards!r}")
        self._run, self._every = run, every
        self._is_traced = tracing_test()
        given = optimizer if isinstance(optimizer, list | tuple) else [] if optimizer is None else [optimizer]
        self._optimizers = [unwrapped(each) for each in given]
        named = [(plain_name(name), p) for name, p in model.named_parameters() if p.is_floating_point()]
        self._ids = {id(p) for _, p in named}
        trained = [name for name, p in named if p.requires_grad]
        self.layers = chosen(trained, layers)
        """Names of the parameters that are reported one by one; the same all through a run."""
        self._gradients_wanted, self._weights_wanted = gradients, weights
        self._updates_wanted = updates and bool(self._optimizers)
        bins_of = KINDS if histograms is True else () if histograms is False else histograms
        bins_of = {bins_of} if isinstance(bins_of, str) else set(bins_of)
        self._reader = ModelReader(
            named, self._optimizers, self.layers, bins_of=bins_of, reduce_shards=shards == "reduce", scaler=scaler,
            bins_failed=lambda: values.count(run.rejected, "failed_histogram"),
        )  # fmt: skip
        modules = chosen_modules(model, activations)
        bins = BINS_DEFAULT if "activations" in bins_of else 0
        self._activations = outputs.Activations(modules, bins=bins) if modules else None
        self._next: int | None = None
        self._gradients: tuple[int | None, PendingMetrics | None] = (None, None)
        self._updates_before: list[Any] = []
        self._updates_copied_at: int | None = None
        self._records: list[PendingMetrics] = []
        self._packed: list[tuple[str, Any]] = []
        self._handles: list[Any] = []
        self._closed = False
        self._log_selection(len(trained))
        self._install()

    def sample(self, step: int) -> None:
        """For loops without a torch optimizer: call at each step, after backward and before clipping."""
        with self._run._guard("failed_probe"):
            if not self._closed and step % self._every == 0 and not _capturing():
                self._take_gradients()
                self._finish_sample()
                self._emit_sample(step)
            if self._activations is not None and (step + 1) % self._every == 0 and not self._closed:
                self._activations.install()

    def close(self) -> None:
        """Remove every hook and let go of the model and its optimizers. Idempotent."""
        self._closed = True
        while self._handles:
            self._handles.pop().remove()
        clipping.forget(self._before_clipping)
        if self._activations is not None:
            self._activations.remove()
        self._run._instruments.off_close(self.close)
        self._updates_before, self._records, self._packed, self._gradients = [], [], [], (None, None)
        self._reader.let_go()
        self._optimizers, self._ids, self._activations = [], set(), None

    def _install(self) -> None:
        self._run._instruments.on_close(self.close)
        try:
            self._register()
        except Exception:
            self.close()  # No half of a probe stays behind.
            raise

    def _register(self) -> None:
        if self._activations is not None and self._due():
            self._activations.install()
        for optimizer in self._optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        for optimizer in self._optimizers[-1:]:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
            if self._gradients_wanted:
                clipping.listen(self._before_clipping)

    def _due(self, ahead: int = 1) -> bool:
        """Whether to sample the step under way (``ahead=2``: the one after it), by the last number given to ``step``.

        Before the first call of ``Run.step`` no number is known: then only periods of 1 (or ``ahead``) are due.
        """
        last = self._run._last_step
        if last is None:
            return self._every <= ahead
        if self._next is None or last + 1 < self._next - self._every:  # At first, or numbered anew in each epoch.
            self._next = (last // self._every + 1) * self._every
        return last + ahead >= self._next

    def _ready(self) -> bool:
        """Due, and the activation hooks, which are installed a step ahead, are in place."""
        prepared = self._activations is None or self._activations.installed
        return not self._closed and prepared and self._due() and not _capturing()

    def _before_clipping(self, parameters: Any) -> None:
        try:
            if self._ready() and id(next(iter(parameters), None)) in self._ids:
                self._take_gradients()
        except Exception:  # noqa: BLE001 - Hot path: nothing escapes into the loop; counted.
            values.count(self._run.rejected, "failed_probe")

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if self._is_traced():  # A compiled optimizer.step: see compiling.py.
            return None
        try:
            if self._ready():
                self._copy_before_update()
                found = around_closure(args, kwargs, before=_nothing, after=self._after_closure)
                if found is not None:  # The gradients are not there yet: the closure makes them (Lightning, L-BFGS).
                    return found
                self._take_gradients()
        except Exception:  # noqa: BLE001 - As above.
            values.count(self._run.rejected, "failed_probe")
        return None

    def _after_closure(self) -> None:
        try:
            self._take_gradients()
        except Exception:  # noqa: BLE001 - As above.
            values.count(self._run.rejected, "failed_probe")

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._is_traced():
            return
        try:
            if self._ready():
                self._finish_sample()
                last = self._run._last_step
                self._next = None if last is None else ((last + 1) // self._every + 1) * self._every
                self._run._instruments.at_step_end(self._emit_sample)
            if self._activations is not None and self._due(ahead=2):
                self._activations.install()
        except Exception:  # noqa: BLE001 - As above.
            values.count(self._run.rejected, "failed_probe")

    def _take_gradients(self) -> None:
        """Once for each step, at the earliest moment when they are complete."""
        last = self._run._last_step
        taken_at, taken = self._gradients
        if self._gradients_wanted and (taken is None or taken_at != last):
            found = self._reader.gradients()
            if found is not None:
                self._gradients = (last, found)

    def _copy_before_update(self) -> None:
        last = self._run._last_step
        copied = bool(self._updates_before) and self._updates_copied_at == last  # Else a step that failed left them.
        if self._updates_wanted and not copied:
            self._updates_copied_at = last
            self._updates_before = self._reader.excerpts()

    def _finish_sample(self) -> None:
        """The optimizer has stepped: measure weights and updates, and collect what the activation hooks have seen."""
        records = [self._gradients[1]]
        self._gradients = (None, None)
        if self._updates_before:
            before, self._updates_before = self._updates_before, []
            records.append(self._reader.updates(before))
        if self._weights_wanted:
            records.append(self._reader.weights())
        self._reader.bin_weights()
        if self._activations is not None and self._activations.installed:
            records.append(self._outputs(self._activations))
        self._records = [record for record in records if record is not None]
        self._packed += self._reader.take_bins()

    def _outputs(self, activations: outputs.Activations) -> PendingMetrics | None:
        activations.remove()
        gatherer = Gatherer()
        found, bins = activations.add_to(gatherer)
        self._packed += [(f"activations/{name}/histogram", vector) for name, vector in bins.items()]
        if activations.failed:
            values.count(self._run.rejected, "failed_probe", activations.failed)
            activations.failed = 0
        return PendingMetrics(gatherer.send(), lambda numbers: outputs.metrics(found, numbers)) if found else None

    def _emit_sample(self, step: int) -> None:
        """The number of the sampled step is known: emit everything."""
        records, vectors = self._records, self._packed
        self._records, self._packed = [], []
        for record in records:
            if found := record.metrics():
                self._run.log(found, step=step)
        for name, vector in vectors:
            self._run._instruments.bins(name, vector, step)

    def _log_selection(self, trained: int) -> None:
        if len(self.layers) < trained:
            log.info("sidecar: watching %d of %d layers: %s", len(self.layers), trained, ", ".join(self.layers))
        if self._reader.is_of_shards:
            log.info("sidecar: sharded parameters: norms are those of this rank's shards, named shard/...; "
                     "watch(..., shards='reduce') on every rank adds them up")  # fmt: skip


def _nothing() -> None: ...


def _capturing() -> bool:
    cuda = torch.cuda
    return bool(cuda.is_initialized() and cuda.is_current_stream_capturing())
