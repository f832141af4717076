"""From raw numbers of parameters to named metrics, on the host, when the numbers have arrived.

Given: norms, means and variances in the order in which they were gathered. Hands on: metrics by catalogue name.
Never: touches a tensor.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

from sidecar.client.probe_stats import extreme, pooled, root_of_squares

Groups = Sequence[str | None]


class GradientMath:
    """Numbers: a norm for each parameter, then the scale it is still multiplied by, then the scaler's scale."""

    def __init__(
        self, names: Sequence[str], groups: Groups, chosen: Collection[str], prefix: str, *, scaled: bool,
        loss_scale: bool,
    ) -> None:  # fmt: skip
        self._names, self._groups, self._chosen, self._prefix = names, groups, chosen, prefix
        self._scaled, self._loss_scale = scaled, loss_scale

    def __call__(self, numbers: Sequence[float]) -> dict[str, Any]:
        norms, more = list(numbers[: len(self._names)]), list(numbers[len(self._names) :])
        if self._scaled:
            scale = more.pop(0)
            norms = [norm / scale for norm in norms]
        largest, smallest, name = extreme(self._names, norms)
        p = self._prefix
        out: dict[str, Any] = {
            f"{p}gradients/global_norm": root_of_squares(norms),
            f"{p}gradients/mean_norm": sum(norms) / len(norms),
            f"{p}gradients/max_norm": largest,
            f"{p}gradients/min_norm": smallest,
            f"{p}gradients/max_norm_name": name,
        }
        if self._loss_scale:
            out["train/loss_scale"] = more.pop(0)
        for group, members in _by_group(self._groups, norms).items():
            out[f"{p}train/grad_norm/{group}"] = root_of_squares(members)
        for each, norm in zip(self._names, norms, strict=True):
            if each in self._chosen:
                out[f"{p}gradients/{each}"] = norm
        return out


class WeightMath:
    """Numbers: the mean of each parameter, then the variance of each."""

    def __init__(
        self, names: Sequence[str], counts: Sequence[int], groups: Groups, chosen: Collection[str], prefix: str
    ) -> None:
        self._names, self._counts, self._groups, self._chosen, self._prefix = names, counts, groups, chosen, prefix

    def __call__(self, numbers: Sequence[float]) -> dict[str, Any]:
        half = len(self._names)
        means, variances = numbers[:half], numbers[half:]
        norms = [
            math.sqrt(n * (v + m * m)) if v >= 0 else math.nan
            for n, m, v in zip(self._counts, means, variances, strict=True)
        ]
        p = self._prefix
        out: dict[str, Any] = {}
        if not any(self._counts):  # All of them are elsewhere (DeepSpeed ZeRO-3): zeros would be a claim.
            return out
        out[f"{p}weights/global_mean"], out[f"{p}weights/global_std"] = pooled(self._counts, means, variances)
        out[f"{p}train/param_norm"] = root_of_squares(norms)
        for group, members in _by_group(self._groups, norms).items():
            out[f"{p}train/param_norm/{group}"] = root_of_squares(members)
        for name, n, m, v, norm in zip(self._names, self._counts, means, variances, norms, strict=True):
            if name in self._chosen and n:
                out[f"{p}weights/{name}/mean"] = m
                out[f"{p}weights/{name}/std"] = math.sqrt(v) if v >= 0 else math.nan
                out[f"{p}weights/{name}/norm"] = norm
        return out


class UpdateMath:
    """Numbers: the length of each layer's change in this step, then the length it had before (0: no ratio yet)."""

    def __init__(self, names: Sequence[str], prefix: str) -> None:
        self._names, self._prefix = names, prefix

    def __call__(self, numbers: Sequence[float]) -> dict[str, Any]:
        half, p = len(self._names), self._prefix
        changes, lengths = numbers[:half], numbers[half:]
        out: dict[str, Any] = {
            f"{p}updates/{name}": change / length if length else None
            for name, change, length in zip(self._names, changes, lengths, strict=True)
        }
        whole = root_of_squares(lengths)
        out[f"{p}updates/ratio"] = root_of_squares(changes) / whole if whole else None
        return out


def _by_group(groups: Groups, norms: Sequence[float]) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {}
    for group, norm in zip(groups, norms, strict=True):
        if group is not None:
            out.setdefault(group, []).append(norm)
    return out
