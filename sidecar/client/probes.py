"""Samples gradients, weights, updates and activations of a model every so many steps. ``Run.watch`` makes one.

Given: a module and its optimizer. Hands on: ordinary metrics and histograms, with the step they were measured in.
Never: changes a gradient, a weight or a random number; waits for a device; talks to another rank unless asked to;
raises into the loop. Between samples it costs two short hook calls for each optimizer step.

When: at each optimizer step whose number is a multiple of ``every``. Gradients are measured just before torch clips
them, else just before the optimizer steps, when accumulation, DDP's averaging and a scaler's division are done.
"""

import logging
import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from sidecar.client import activations as outputs
from sidecar.client import clipping, probe_bins, values
from sidecar.client.compiling import tracing_test
from sidecar.client.histogram import BINS_DEFAULT
from sidecar.client.pending import PendingMetrics
from sidecar.client.probe_math import GradientMath, UpdateMath, WeightMath
from sidecar.client.probe_stats import Gatherer, Shards, is_sharded, local, moments, norms, torch
from sidecar.client.timed_optimizer import around_closure, unwrapped

if TYPE_CHECKING:
    from sidecar.client.run import Run

log = logging.getLogger("sidecar")

LAYERS_MAX = 64
LAYERS_LIMIT = 128  # What one may ask for: three numbers a layer must fit one record of 512.
UPDATE_ELEMENTS_MAX = 65_536  # Of each layer: a copy before the step, at most 64 x 256 KiB.
KINDS = ("gradients", "weights", "activations")
WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

Selection = int | str | Sequence[str] | None


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
        self._run, self._every, self._scaler = run, every, scaler
        self._is_traced = tracing_test()
        given = optimizer if isinstance(optimizer, list | tuple) else [] if optimizer is None else [optimizer]
        self._optimizers = [unwrapped(each) for each in given]
        named = [(plain_name(name), p) for name, p in model.named_parameters() if p.is_floating_point()]
        self._names, self._parameters = [name for name, _ in named], [p for _, p in named]
        self._ids = {id(p) for p in self._parameters}
        trained = [name for name, p in named if p.requires_grad]
        self.layers = chosen(trained, layers)
        """Names of the parameters that are reported one by one; the same all through a run."""
        self._chosen = set(self.layers)
        self._gradients_wanted, self._weights_wanted = gradients, weights
        self._updates_wanted = updates and bool(self._optimizers)
        self._bins_of = set(KINDS if histograms is True else () if histograms is False else histograms)
        sharded = any(is_sharded(p) for p in self._parameters)
        self._shards = Shards(self._parameters) if sharded and shards == "reduce" else None
        self._prefix = "shard/" if sharded and self._shards is None else ""
        modules = chosen_modules(model, activations)
        bins = BINS_DEFAULT if "activations" in self._bins_of else 0
        self._activations = outputs.Activations(modules, bins=bins) if modules else None
        self._next: int | None = None
        self._gradients: tuple[int | None, PendingMetrics | None] = (None, None)
        self._updates_before: list[Any] = []
        self._updates_copied_at: int | None = None
        self._records: list[PendingMetrics] = []
        self._packed: list[tuple[str, Any]] = []
        self._handles: list[Any] = []
        self._closed = False
        self._log_selection(len(trained), sharded)
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
        self._parameters, self._optimizers, self._ids = [], [], set()
        self._activations = self._shards = self._scaler = None

    # -- when ----------------------------------------------------------------------------------------------------------

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

    # -- what ----------------------------------------------------------------------------------------------------------

    def _take_gradients(self) -> None:
        """Once for each step, at the earliest moment when they are complete."""
        last = self._run._last_step
        taken_at, taken = self._gradients
        if not self._gradients_wanted or (taken is not None and taken_at == last):
            return
        with torch.no_grad():
            present = [i for i, p in enumerate(self._parameters) if p.grad is not None]
            if not present:
                return
            found = [local(self._parameters[i].grad) for i in present]
            lengths = norms(found)
            if self._shards is not None:
                everywhere = Shards([self._parameters[i] for i in present])
                lengths = list(torch.stack(everywhere.add_up([n.double().square() for n in lengths])).sqrt().unbind())
            gatherer = Gatherer()
            gatherer.add(lengths)
            scale, loss_scale = self._scales()
            gatherer.add(each for each in (scale, loss_scale) if each is not None)
            names = [self._names[i] for i in present]
            finish = GradientMath(
                names, self._groups(present), self._chosen, self._prefix,
                scaled=scale is not None, loss_scale=loss_scale is not None,
            )  # fmt: skip
            self._gradients = (last, PendingMetrics(gatherer.send(), finish))
            if "gradients" in self._bins_of:
                places = [place for place, i in enumerate(present) if self._names[i] in self._chosen]
                self._bin(
                    "gradients", [present[place] for place in places],
                    [found[place] if scale is None else found[place].float() / scale for place in places],
                )  # fmt: skip

    def _scales(self) -> tuple[Any, Any]:
        """(what the gradients are still multiplied by, the scaler's own scale): 0-d tensors on their device, or None.

        A fused optimizer divides by itself and is handed ``grad_scale``; else the scaler knows whether it has divided.
        """
        scaler, optimizer = self._scaler, self._optimizers[0] if self._optimizers else None
        loss_scale = getattr(scaler, "_scale", None)
        handed = getattr(optimizer, "grad_scale", None)
        if handed is not None:
            return handed, loss_scale
        if loss_scale is None:
            return None, None
        state = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer), {})
        stage = getattr(state.get("stage"), "name", "READY")
        return (loss_scale if stage == "READY" else None), loss_scale

    def _groups(self, present: Sequence[int]) -> list[str | None]:
        """The optimizer group of each parameter; None for all where there is only one group."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        if len(groups) < 2:
            return [None] * len(present)
        of = {id(p): str(group.get("name", i)) for i, group in enumerate(groups) for p in group["params"]}
        return [of.get(id(self._parameters[i])) for i in present]

    def _copy_before_update(self) -> None:
        last = self._run._last_step
        copied = bool(self._updates_before) and self._updates_copied_at == last  # Else a step that failed left them.
        if self._updates_wanted and not copied:
            self._updates_copied_at = last
            with torch.no_grad():
                self._updates_before = [self._excerpt(i).clone() for i in self._sampled()]

    def _sampled(self) -> list[int]:
        return [i for i, name in enumerate(self._names) if name in self._chosen]

    def _excerpt(self, place: int) -> Any:
        return local(self._parameters[place]).reshape(-1)[:UPDATE_ELEMENTS_MAX].float()

    def _finish_sample(self) -> None:
        """The optimizer has stepped: measure weights and updates, and collect what the activation hooks have seen."""
        records = [self._gradients[1]]
        self._gradients = (None, None)
        with torch.no_grad():
            if self._updates_before:
                records.append(self._updates())
            if self._weights_wanted and self._parameters:
                records.append(self._weights())
            if "weights" in self._bins_of:
                sampled = self._sampled()
                self._bin("weights", sampled, [local(self._parameters[i]) for i in sampled])
            if self._activations is not None and self._activations.installed:
                records.append(self._outputs(self._activations))
        self._records = [record for record in records if record is not None]

    def _bin(self, kind: str, places: Sequence[int], tensors: Sequence[Any]) -> None:
        """Bins are extra: where they fail the norms still arrive."""
        if self._shards is not None:
            vectors = probe_bins.over_shards(tensors, [self._parameters[i] for i in places], self._bins_failed)
        else:
            vectors = probe_bins.of_each(tensors, self._bins_failed)
        for i, vector in zip(places, vectors, strict=True):
            if vector is not None:
                self._packed.append((f"{self._prefix}{kind}/{self._names[i]}/histogram", vector))

    def _bins_failed(self) -> None:
        values.count(self._run.rejected, "failed_histogram")

    def _updates(self) -> PendingMetrics:
        places, before = self._sampled(), self._updates_before
        self._updates_before = []
        changes = norms([self._excerpt(i) - old for i, old in zip(places, before, strict=True)])
        lengths = norms(before)
        if self._shards is not None:
            everywhere = Shards([self._parameters[i] for i in places])
            changes, lengths = (
                [total.sqrt() for total in everywhere.add_up([n.double().square() for n in each])]
                for each in (changes, lengths)
            )
        gatherer = Gatherer()
        gatherer.add([*changes, *lengths])
        return PendingMetrics(gatherer.send(), UpdateMath([self._names[i] for i in places], self._prefix))

    def _weights(self) -> PendingMetrics:
        parts = [local(p) for p in self._parameters]
        counts = [part.numel() for part in parts]
        found = [moments(part) for part in parts]
        means, variances = [mean for mean, _ in found], [variance for _, variance in found]
        if self._shards is not None:
            means, variances = self._over_shards(counts, means, variances)
            counts = [p.numel() for p in self._parameters]
        gatherer = Gatherer()
        gatherer.add([*means, *variances])
        groups = self._groups(range(len(counts)))
        return PendingMetrics(gatherer.send(), WeightMath(self._names, counts, groups, self._chosen, self._prefix))

    def _over_shards(self, counts: Sequence[int], means: Any, variances: Any) -> tuple[Any, Any]:
        """Mean and variance of whole parameters from those of this rank's shards."""
        assert self._shards is not None
        sums = [mean.double() * count for mean, count in zip(means, counts, strict=True)]
        squares = [
            (variance.double() + mean.double() ** 2) * count
            for mean, variance, count in zip(means, variances, counts, strict=True)
        ]
        sums, squares = self._shards.add_up(sums), self._shards.add_up(squares)
        totals = [p.numel() for p in self._parameters]
        whole = [total / n for total, n in zip(sums, totals, strict=True)]
        spread = [total / n - mean**2 for total, n, mean in zip(squares, totals, whole, strict=True)]
        return whole, [each.clamp(min=0.0) for each in spread]

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

    def _log_selection(self, trained: int, sharded: bool) -> None:
        if len(self.layers) < trained:
            log.info("sidecar: watching %d of %d layers: %s", len(self.layers), trained, ", ".join(self.layers))
        if sharded and self._shards is None:
            log.info("sidecar: sharded parameters: norms are those of this rank's shards, named shard/...; "
                     "watch(..., shards='reduce') on every rank adds them up")  # fmt: skip


def _nothing() -> None: ...


def plain_name(name: str) -> str:
    """A parameter's name without what DDP, torch.compile, FSDP and checkpointing put in front."""
    return WRAPPERS.sub("", name)


def chosen(names: Sequence[str], selection: Selection) -> list[str]:
    """A number: so many names, evenly spread, first and last included. Regular expressions: the names that match."""
    if isinstance(selection, str | list | tuple):
        patterns = [re.compile(p) for p in ([selection] if isinstance(selection, str) else selection)]
        return [name for name in names if any(p.search(name) for p in patterns)][:LAYERS_LIMIT]
    count = min(LAYERS_MAX if selection is None else int(selection), LAYERS_LIMIT, len(names))  # type: ignore[arg-type]
    if count < 2:
        return list(names[: max(0, count)])
    return [names[i * (len(names) - 1) // (count - 1)] for i in range(count)]


def chosen_modules(model: Any, selection: bool | Sequence[str]) -> dict[str, Any]:
    """True: the blocks (the module list with most parameters). Regular expressions: the modules that match."""
    if not selection:
        return {}
    named = {plain_name(name): module for name, module in model.named_modules() if name}
    if selection is not True:
        patterns = [re.compile(p) for p in ([selection] if isinstance(selection, str) else selection)]
        found = {name: module for name, module in named.items() if any(p.search(name) for p in patterns)}
        return {name: found[name] for name in chosen(list(found), None)}
    lists = {n: m for n, m in named.items() if type(m).__name__ in ("ModuleList", "Sequential") and len(m) > 1}
    size: Callable[[str], int] = lambda name: sum(p.numel() for p in lists[name].parameters())  # noqa: E731
    if not lists:
        return {name: module for name, module in named.items() if "." not in name}
    blocks = max(lists, key=size)
    inside = {name: m for name, m in named.items() if re.fullmatch(re.escape(blocks) + r"\.[^.]+", name)}
    return {name: inside[name] for name in chosen(list(inside), None)}


def _capturing() -> bool:
    cuda = torch.cuda
    return bool(cuda.is_initialized() and cuda.is_current_stream_capturing())
