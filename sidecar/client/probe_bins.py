"""Bins of many parameters at once; of sharded ones over all their shards, where every rank takes part.

Given: tensors, and the parameters they belong to. Hands on: for each a small vector of bins on its device, as
``histogram.packed`` makes it. Never: waits for a device, or lets one tensor's failure keep a rank from what all do
together: the others would wait for it forever.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.client.histogram import BINS_DEFAULT, counted, ends, packed
from sidecar.client.probe_stats import Shards

torch: Any = sys.modules["torch"]  # Loaded only where a script has imported it already.
Tensor = Any
Failed = Callable[[], None]
"""Called once for each tensor whose bins could not be made: no memory, deterministic algorithms on a GPU."""


def of_each(tensors: Sequence[Tensor], failed: Failed) -> list[Tensor | None]:
    """None for an empty tensor (a rank may have nothing of a parameter), and for one that failed."""
    out: list[Tensor | None] = []
    for tensor in tensors:
        try:
            out.append(packed(tensor) if tensor.numel() else None)
        except RuntimeError:
            failed()
            out.append(None)
    return out


def over_shards(tensors: Sequence[Tensor], parameters: Sequence[Tensor], failed: Failed) -> list[Tensor]:
    """The same over all shards of each parameter: the ranks agree on the ends, then add up what they counted."""
    everywhere = Shards(parameters)
    mine = [_attempt(_outward, failed, [-math.inf, -math.inf], tensor) for tensor in tensors]
    agreed = everywhere.combine(mine, largest=True)
    bins = [
        _attempt(_count_between, failed, [0.0] * BINS_DEFAULT, tensor, outward)
        for tensor, outward in zip(tensors, agreed, strict=True)
    ]
    return [
        torch.cat((-outward[:1], outward[1:], counts))
        for outward, counts in zip(agreed, everywhere.combine(bins), strict=True)
    ]


def _outward(tensor: Tensor) -> Tensor:
    """(-lowest, highest): of both the largest counts. -inf, -inf for an empty tensor."""
    low, high = ends(tensor)
    return torch.stack((-low, high)).double()


def _count_between(tensor: Tensor, outward: Tensor) -> Tensor:
    return counted(tensor, -outward[0], outward[1], BINS_DEFAULT)


def _attempt(make: Callable[..., Tensor], failed: Failed, neutral: list[float], tensor: Tensor, *more: Any) -> Tensor:
    try:
        return make(tensor, *more)
    except RuntimeError:
        failed()
        return torch.tensor(neutral, dtype=torch.float64, device=tensor.device)
