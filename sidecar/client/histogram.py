"""Bins of a tensor, an array or a list: only counts and edges leave the process, never the values.

Given: numbers in any container. Hands on: edges and counts. Never: imports torch or numpy itself.
"""

import math
from typing import Any

BINS_DEFAULT = 64


def binned(values: Any, bins: int = BINS_DEFAULT) -> tuple[list[float], list[float]]:
    """``(edges, counts)`` with ``bins`` equal bins over the finite values; ``sum(counts)`` is their number.

    Raises ValueError when there is no finite value, TypeError when ``values`` holds no numbers.
    """
    if callable(getattr(values, "isfinite", None)) and hasattr(values, "detach"):
        return _of_tensor(values, bins)
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


def _of_tensor(tensor: Any, bins: int) -> tuple[list[float], list[float]]:
    flat = tensor.detach().flatten().float()
    flat = flat[flat.isfinite()]
    if flat.numel() == 0:
        raise ValueError("no finite value")
    low, high = flat.min().item(), flat.max().item()
    counts = (
        flat.histc(bins=bins, min=low, max=high).tolist() if low < high else [float(flat.numel())] + [0.0] * (bins - 1)
    )
    return _edges(low, high, bins), counts


def _edges(low: float, high: float, bins: int) -> list[float]:
    return [low + (high - low) * i / bins for i in range(bins)] + [high]
