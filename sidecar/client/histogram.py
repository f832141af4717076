"""Bins of a tensor, an array or a list: only counts and edges leave the process, never the values.

Given: numbers in any container. Hands on: edges and counts. Never: imports torch or numpy itself, or waits for a
device: its bins are counted there and travel as one small vector.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

BINS_DEFAULT = 64
CHUNK_ELEMENTS = 1 << 24  # Bounds the memory for intermediate results: 64 MiB in single precision.

Bins = tuple[list[float], list[float]]
"""Edges and counts."""


def is_tensor(values: Any) -> bool:
    return callable(getattr(values, "isfinite", None)) and hasattr(values, "detach")


def binned(values: Any, bins: int = BINS_DEFAULT) -> Bins:
    """``(edges, counts)`` with ``bins`` equal bins over the finite values; ``sum(counts)`` is their number.

    Raises ValueError when there is no finite value, TypeError when ``values`` holds no numbers.
    """
    if is_tensor(values):
        return unpacked(packed(values, bins).tolist())
    flat = values.ravel().tolist() if hasattr(values, "ravel") else list(values)
    numbers = [float(value) for value in flat if math.isfinite(value)]
    if not numbers:
        raise ValueError("no finite value")
    low, high = min(numbers), max(numbers)
    width = (high - low) / bins
    counts = [0.0] * bins
    for number in numbers:
        counts[min(bins - 1, int((number - low) / width)) if width else 0] += 1
    return _edges(low, high, bins), counts


def packed(tensor: Any, bins: int = BINS_DEFAULT) -> Any:
    """A vector of ``2 + bins`` numbers on the tensor's own device: lowest, highest, counts. Nothing is waited for."""
    if not tensor.numel():
        raise ValueError("no finite value")
    torch = sys.modules["torch"]
    low, high = ends(tensor)
    return torch.cat((torch.stack((low, high)).double(), counted(tensor, low, high, bins)))


def ends(tensor: Any) -> tuple[Any, Any]:
    """(lowest, highest) finite value, 0-d on the tensor's device; (inf, -inf) where there is none."""
    torch = sys.modules["torch"]
    with torch.no_grad():
        if not tensor.numel():
            return tuple(torch.tensor((math.inf, -math.inf), device=tensor.device).unbind())
        found = [_ends(chunk.float(), torch) for chunk in _chunks(tensor)]
        if len(found) == 1:
            return found[0]
        return torch.stack([low for low, _ in found]).min(), torch.stack([high for _, high in found]).max()


def counted(tensor: Any, low: Any, high: Any, bins: int) -> Any:
    """How many values lie in each of ``bins`` equal bins between two 0-d tensors; what is not finite in none."""
    torch = sys.modules["torch"]
    with torch.no_grad():
        low, high = low.float(), high.float()
        width = torch.where(high > low, high - low, torch.ones_like(low))
        counts = torch.zeros(bins, dtype=torch.float64, device=tensor.device)
        if tensor.numel():
            for chunk in _chunks(tensor):  # histc leaves out what is not in range: NaN and infinities.
                counts += ((chunk.float() - low) / width).histc(bins=bins, min=0.0, max=1.0)
        return counts


def _chunks(tensor: Any) -> Any:
    return tensor.detach().reshape(-1).split(CHUNK_ELEMENTS)


def _ends(values: Any, torch: Any) -> tuple[Any, Any]:
    finite = values.isfinite()
    return torch.where(finite, values, math.inf).min(), torch.where(finite, values, -math.inf).max()


def unpacked(vector: Sequence[float]) -> Bins:
    """Raises ValueError when there was no finite value."""
    low, high, *counts = vector
    if not math.isfinite(low):
        raise ValueError("no finite value")
    return _edges(low, high, len(counts)), counts


def _edges(low: float, high: float, bins: int) -> list[float]:
    return [low + (high - low) * i / bins for i in range(bins)] + [high]
