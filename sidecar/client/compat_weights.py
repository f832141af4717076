"""Gradient and weight numbers of a model, as the continuous trainer's logger names them.

Given: a model. Hands on: gradients/* and weights/* numbers. Never: reads a device more than once per call.

Global numbers are true ones: the gradient norm is the root of the sum of squares, mean and deviation are over elements
(the document added norms up and averaged averages). Layers are sampled: every tenth gradient, every twentieth weight,
at most 64, the same ones each time.
"""

import sys
from typing import Any

GRADIENT_EVERY, WEIGHT_EVERY, LAYERS_MAX = 10, 20, 64


def gradient_metrics(model: Any) -> dict[str, float]:
    """Empty when no parameter has a gradient."""
    import torch

    names, norms = [], []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            names.append(name)
            norms.append(_whole(torch.linalg.vector_norm(parameter.grad.detach(), dtype=torch.float32)))
    if not norms:
        return {}
    found = _read(norms)
    metrics = {
        "gradients/global_norm": sum(norm * norm for norm in found) ** 0.5,
        "gradients/mean_norm": sum(found) / len(found),
        "gradients/max_norm": max(found),
        "gradients/min_norm": min(found),
    }
    sampled = [index for index in range(0, len(names), GRADIENT_EVERY) if "weight" in names[index]][:LAYERS_MAX]
    metrics.update({f"gradients/{names[index]}": found[index] for index in sampled})
    return metrics


def weight_metrics(model: Any) -> dict[str, float]:
    """Of parameters whose name holds "weight". Empty when there is none."""
    import torch

    names, sizes, sums = [], [], []
    for name, parameter in model.named_parameters():
        if "weight" in name:
            data = parameter.detach().to(torch.float64 if parameter.device.type == "cpu" else torch.float32)
            names.append(name)
            sizes.append(parameter.numel())
            sums += [_whole(data.sum()), _whole((data * data).sum())]
    if not names:
        return {}
    found = _read(sums)
    totals, squares = found[0::2], found[1::2]
    count = sum(sizes)
    mean = sum(totals) / count
    metrics = {"weights/global_mean": mean, "weights/global_std": max(0.0, sum(squares) / count - mean * mean) ** 0.5}
    for index in range(0, len(names), WEIGHT_EVERY)[:LAYERS_MAX]:
        layer_mean = totals[index] / sizes[index]
        metrics[f"weights/{names[index]}/mean"] = layer_mean
        metrics[f"weights/{names[index]}/std"] = max(0.0, squares[index] / sizes[index] - layer_mean**2) ** 0.5
    return metrics


def allocator_metrics() -> dict[str, float]:
    """Of the devices this process uses; empty without CUDA. Asks the allocator, not the device."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    metrics = {}
    for index in range(torch.cuda.device_count()):
        reserved = torch.cuda.memory_reserved(index)
        if reserved:
            metrics[f"system/gpu_{index}_memory_allocated_gb"] = torch.cuda.memory_allocated(index) / 1e9
            metrics[f"system/gpu_{index}_memory_reserved_gb"] = reserved / 1e9
            metrics[f"system/gpu_{index}_memory_peak_gb"] = torch.cuda.max_memory_allocated(index) / 1e9
    return metrics


def _whole(value: Any) -> Any:
    """A sharded result (DTensor) summed up over its shards."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _read(values: list[Any]) -> list[float]:
    import torch

    device = values[0].device
    return torch.stack([value.to(device, non_blocking=True).double() for value in values]).tolist()
