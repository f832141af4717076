"""The number of samples and tokens in a batch, from shapes alone; and the learning rates of a step.

Given: whatever a loader yields; optimizers. Hands on: samples and tokens; rates by metric name.
Never: reads a value on a device, so none is waited for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

GROUPS_MAX = 16


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


def learning_rates(optimizers: Sequence[Any]) -> dict[str, Any]:
    """train/learning_rate of the first group, train/learning_rate/<i> of the others, numbered through all optimizers.

    To be called just before the step: a scheduler changes them right after it.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    out: dict[str, Any] = {}
    for index, group in enumerate(groups[:GROUPS_MAX]):
        rate = group.get("lr")
        if rate is not None and not isinstance(rate, int | float):
            rate = rate.detach().clone() if hasattr(rate, "detach") else None  # A tensor that changes in place.
        if rate is not None:
            out[f"train/learning_rate/{index}" if index else "train/learning_rate"] = rate
    return out


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
