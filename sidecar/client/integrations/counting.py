"""What a batch holds, told by shapes alone.

Given: whatever a loader yields. Hands on: samples and tokens. Never: reads a value, so no device is waited for.
"""

from collections.abc import Mapping
from typing import Any


def samples_and_tokens(batch: Any) -> tuple[int | None, int | None]:
    """(samples, tokens): the first dimension of the first tensor; items of the integer tensor (samples, positions)."""
    named = batch.get("input_ids") if isinstance(batch, Mapping) else getattr(batch, "input_ids", None)
    shape = getattr(named, "shape", None)
    if shape is not None and len(shape) >= 1:
        return int(shape[0]), _items(shape)
    for tensor in _tensors(batch):
        if len(tensor.shape) == 0:
            continue
        whole = not (tensor.is_floating_point() or tensor.is_complex()) and len(tensor.shape) == 2
        return int(tensor.shape[0]), _items(tensor.shape) if whole else None
    return None, None


def _items(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= int(size)
    return total


def _tensors(batch: Any) -> Any:
    if hasattr(batch, "shape") and hasattr(batch, "is_floating_point"):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)
