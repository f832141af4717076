"""Norms and moments of many tensors: reduced on their device, copied to the host as one vector, combined there.

Given: gradients or weights, whole or sharded (DTensor). Hands on: one number each, asynchronously.
Never: waits for a device, or talks to other ranks unless asked to (``Shards``).

Norms come from torch's fused ``_foreach_norm`` in single precision or better; means and variances from one pass over
each tensor. What is made of them (global values, groups, deviations) is computed in double precision on the host.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from sidecar.client.pending import GatheredNumbers, PendingNumbers, send

torch: Any = sys.modules["torch"]  # Loaded only where a script has imported it already.
Tensor = Any

CHUNK_ELEMENTS = 1 << 24  # Low-precision tensors are widened in pieces: at most 64 MiB at a time.


class Gatherer:
    """Collects 0-d tensors and sends them to the host, in the order in which they came, by one copy for each device."""

    def __init__(self) -> None:
        self._scalars: list[Tensor] = []

    def add(self, scalars: Iterable[Tensor]) -> None:
        self._scalars += scalars

    def send(self) -> PendingNumbers:
        parts = []
        for device in dict.fromkeys(scalar.device for scalar in self._scalars):
            places = [i for i, scalar in enumerate(self._scalars) if scalar.device == device]
            places.sort(key=lambda i: str(self._scalars[i].dtype))
            pieces = []
            for dtype in dict.fromkeys(self._scalars[i].dtype for i in places):
                same = [self._scalars[i].reshape(()) for i in places if self._scalars[i].dtype == dtype]
                pieces.append(torch.stack(same).double())
            parts.append((places, send(torch.cat(pieces))))
        return GatheredNumbers(len(self._scalars), parts)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds: the shard of a DTensor, the values of a sparse tensor, else itself."""
    if tensor.is_sparse:
        return tensor.coalesce().values()
    to_local = getattr(tensor, "to_local", None)
    return tensor.detach() if to_local is None else to_local().detach()


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """L2 norm of each, in single precision or better whatever the tensors are in."""
    out: list[Tensor] = [torch.empty(0)] * len(tensors)
    alike: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        alike.setdefault((tensor.device, tensor.dtype), []).append(i)
    for (_, dtype), places in alike.items():
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        for place, norm in zip(places, torch._foreach_norm([tensors[i] for i in places], 2, wide), strict=True):
            out[place] = norm
    return out


def moments(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance, both 0-d; zeros for an empty tensor.

    Two ways to the same numbers: a GPU has a fast one-pass kernel; on a CPU that one takes ten times as long as a
    double-precision sum and the norm of what remains after subtracting the mean.
    """
    flat = tensor.reshape(-1)
    count = flat.numel()
    if count == 0:
        zero = torch.zeros((), device=tensor.device)
        return zero, zero
    if count > CHUNK_ELEMENTS:
        chunks = flat.split(CHUNK_ELEMENTS)
        parts = [moments(chunk) for chunk in chunks]
        shares = [chunk.numel() / count for chunk in chunks]
        mean = sum(share * part[0].double() for share, part in zip(shares, parts, strict=True))
        variance = sum(
            share * (part[1].double() + (part[0] - mean) ** 2) for share, part in zip(shares, parts, strict=True)
        )
        return torch.as_tensor(mean), torch.as_tensor(variance)
    wide = flat if flat.dtype == torch.float64 else flat.float()
    if not wide.is_cpu:
        variance, mean = torch.var_mean(wide, correction=0)
        return mean, variance
    mean = wide.sum(dtype=torch.float64) / count
    return mean, torch.linalg.vector_norm(wide - mean.to(wide.dtype)).double().square() / count


class Shards:
    """Sums over the ranks that hold the other shards of each parameter. Every one of them must take part.

    Only sums of squares and sums cross, one small all-reduce for each device mesh, on the device and not waited for.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._groups: list[tuple[list[int], list[Any]]] = []
        by_layout: dict[Any, tuple[list[int], list[Any]]] = {}
        for i, parameter in enumerate(parameters):
            mesh, placements = getattr(parameter, "device_mesh", None), getattr(parameter, "placements", ())
            dims = tuple(dim for dim, placement in enumerate(placements) if placement.is_shard())
            if mesh is not None and dims:
                entry = by_layout.setdefault((id(mesh), dims), ([], [mesh.get_group(dim) for dim in dims]))
                entry[0].append(i)
        self._groups = list(by_layout.values())

    def add_up(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """One number for each parameter; returns it summed over the parameter's shards."""
        return self.combine([each.reshape(()) for each in sums])

    def combine(self, rows: Sequence[Tensor], *, largest: bool = False) -> list[Tensor]:
        """Rows of numbers, one for each parameter; returns them summed over its shards, or the largest of each."""
        import torch.distributed as dist

        out = list(rows)
        for places, groups in self._groups:
            together = torch.stack([rows[i].double() for i in places])
            for group in groups:
                dist.all_reduce(together, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=group)
            for place, row in zip(places, together.unbind(), strict=True):
                out[place] = row
        return out


def is_sharded(parameter: Tensor) -> bool:
    return any(placement.is_shard() for placement in getattr(parameter, "placements", ()))


# On the host, with the numbers that have arrived


def root_of_squares(values: Iterable[float]) -> float:
    """L2 norm of a vector of norms; NaN and infinity come out as they are."""
    squares = [value * value for value in values]
    try:
        return math.sqrt(math.fsum(squares))
    except (ValueError, OverflowError):  # Infinities, or finite values whose squares are not.
        return math.nan if any(math.isnan(square) for square in squares) else math.inf


def pooled(counts: Sequence[int], means: Sequence[float], variances: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation of parts taken together (Chan, Golub, LeVeque 1983, equation 2.1)."""
    total = sum(counts)
    if not total:
        return math.nan, math.nan
    mean = sum(n * m for n, m in zip(counts, means, strict=True)) / total
    squares = sum(n * (v + (m - mean) ** 2) for n, m, v in zip(counts, means, variances, strict=True))
    return mean, math.sqrt(max(0.0, squares / total)) if squares == squares else math.nan


def extreme(names: Sequence[str], values: Sequence[float]) -> tuple[float, float, str]:
    """(largest, smallest, name of the largest); one NaN makes both NaN and is the one that is named."""
    for name, value in zip(names, values, strict=True):
        if math.isnan(value):
            return math.nan, math.nan, name
    place = max(range(len(values)), key=values.__getitem__)
    return values[place], min(values), names[place]
