"""What a probe reads of a model: gradients, updates and weights as tensors, and the metrics that will come of them.

Given: the parameters and the optimizers that move them. Hands on: pending metrics, and bins on their device.
Never: decides when to read, changes what it reads, or waits for a device.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sidecar.client import probe_bins
from sidecar.client.pending import PendingMetrics
from sidecar.client.probe_math import GradientMath, UpdateMath, WeightMath
from sidecar.client.probe_stats import Gatherer, Shards, is_sharded, local, moments, norms, torch

UPDATE_ELEMENTS_MAX = 65_536  # Of each layer: a copy before the step, at most 64 x 256 KiB.


class ModelReader:
    """Reads one model. ``named``: its parameters; ``chosen``: names of those that are reported one by one."""

    def __init__(
        self,
        named: Sequence[tuple[str, Any]],
        optimizers: Sequence[Any],
        chosen: Collection[str],
        *,
        bins_of: Collection[str],
        reduce_shards: bool,
        scaler: Any,
        bins_failed: Callable[[], None],
    ) -> None:
        self._names, self._parameters = [name for name, _ in named], [p for _, p in named]
        self._optimizers, self._scaler = optimizers, scaler
        self._chosen, self._bins_of, self._bins_failed = frozenset(chosen), bins_of, bins_failed
        sharded = any(is_sharded(p) for p in self._parameters)
        self.is_of_shards = sharded and not reduce_shards
        """Whether the numbers are those of this rank's shards alone."""
        self._shards = Shards(self._parameters) if sharded and reduce_shards else None
        self._prefix = "shard/" if self.is_of_shards else ""
        self._packed: list[tuple[str, Any]] = []

    def gradients(self) -> PendingMetrics | None:
        """Norms of the gradients as they are now, and their bins. None where there are no gradients."""
        with torch.no_grad():
            present = [i for i, p in enumerate(self._parameters) if p.grad is not None]
            if not present:
                return None
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
            metrics = PendingMetrics(gatherer.send(), finish)
            if "gradients" in self._bins_of:
                places = [place for place, i in enumerate(present) if self._names[i] in self._chosen]
                self._bin(
                    "gradients", [present[place] for place in places],
                    [found[place] if scale is None else found[place].float() / scale for place in places],
                )  # fmt: skip
            return metrics

    def excerpts(self) -> list[Any]:
        """Copies of what :meth:`updates` compares with."""
        with torch.no_grad():
            return [self._excerpt(i).clone() for i in self._sampled()]

    def updates(self, before: Sequence[Any]) -> PendingMetrics:
        """How far each reported parameter has moved from ``before``, which :meth:`excerpts` returned."""
        with torch.no_grad():
            return self._updates(self._sampled(), before)

    def weights(self) -> PendingMetrics | None:
        """Means, deviations and norms of the parameters. None where there are no parameters."""
        with torch.no_grad():
            return self._weights() if self._parameters else None

    def bin_weights(self) -> None:
        if "weights" in self._bins_of:
            with torch.no_grad():
                sampled = self._sampled()
                self._bin("weights", sampled, [local(self._parameters[i]) for i in sampled])

    def take_bins(self) -> list[tuple[str, Any]]:
        """(name, vector of bins on its device) of what was binned since the last call."""
        taken, self._packed = self._packed, []
        return taken

    def let_go(self) -> None:
        """Keep nothing of the model and its optimizers alive."""
        self._parameters, self._names, self._optimizers, self._packed = [], [], [], []
        self._scaler = self._shards = None

    def _updates(self, places: Sequence[int], before: Sequence[Any]) -> PendingMetrics:
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

    def _sampled(self) -> list[int]:
        return [i for i, name in enumerate(self._names) if name in self._chosen]

    def _excerpt(self, place: int) -> Any:
        return local(self._parameters[place]).reshape(-1)[:UPDATE_ELEMENTS_MAX].float()

    def _bin(self, kind: str, places: Sequence[int], tensors: Sequence[Any]) -> None:
        """Bins are extra: where they fail the norms still arrive."""
        if self._shards is not None:
            vectors = probe_bins.over_shards(tensors, [self._parameters[i] for i in places], self._bins_failed)
        else:
            vectors = probe_bins.of_each(tensors, self._bins_failed)
        for i, vector in zip(places, vectors, strict=True):
            if vector is not None:
                self._packed.append((f"{self._prefix}{kind}/{self._names[i]}/histogram", vector))
