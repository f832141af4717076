"""Gradient and weight numbers of a model, under the names of ``ComprehensiveWandbLogger``.

Given: a model. Hands on: gradients/* and weights/* numbers. Never: reads a device more than once per call.

Global numbers are true ones: the gradient norm is the root of the sum of squares, mean and deviation are over elements
(the original adds norms up and averages averages). Layers are sampled: every tenth gradient, every twentieth weight,
at most 64, the same ones each time.
"""

from typing import Any

from sidecar.client import allocator
from sidecar.client.cuda_phases import cuda

GRADIENT_EVERY, WEIGHT_EVERY, LAYERS_MAX = 10, 20, 64


def gradient_metrics(model: Any) -> dict[str, float]:
    """Empty when no parameter has a gradient."""
    import torch  # noqa: F401 - The next line needs it loaded.

    from sidecar.client.probe_stats import extreme, root_of_squares

    names, norms = [], []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            names.append(name)
            norms.append(norm_of(parameter.grad))
    if not norms:
        return {}
    found = _read(norms)
    largest, smallest, _ = extreme(names, found)
    metrics = {
        "gradients/global_norm": root_of_squares(found),
        "gradients/mean_norm": sum(found) / len(found),
        "gradients/max_norm": largest,
        "gradients/min_norm": smallest,
    }
    sampled = [index for index in range(0, len(names), GRADIENT_EVERY) if "weight" in names[index]][:LAYERS_MAX]
    metrics.update({f"gradients/{names[index]}": found[index] for index in sampled})
    return metrics


def weight_metrics(model: Any) -> dict[str, float]:
    """Of parameters whose name holds "weight". Empty when there is none."""
    import torch

    from sidecar.client.probe_stats import pooled

    names, sizes, numbers = [], [], []
    for name, parameter in model.named_parameters():
        if "weight" in name and parameter.numel():  # DeepSpeed ZeRO-3 leaves nothing of those it keeps elsewhere.
            data = parameter.detach()
            data = data if data.dtype == torch.float64 else data.float()
            mean = data.mean()
            names.append(name)
            sizes.append(parameter.numel())
            numbers += [_whole(mean), _whole(torch.linalg.vector_norm(data - mean))]
    if not names:
        return {}
    found = _read(numbers)
    means = found[0::2]
    variances = [norm * norm / size for norm, size in zip(found[1::2], sizes, strict=True)]
    metrics = dict(zip(("weights/global_mean", "weights/global_std"), pooled(sizes, means, variances), strict=True))
    for index in range(0, len(names), WEIGHT_EVERY)[:LAYERS_MAX]:
        metrics[f"weights/{names[index]}/mean"] = means[index]
        metrics[f"weights/{names[index]}/std"] = variances[index] ** 0.5
    return metrics


def allocator_metrics() -> dict[str, float]:
    """Of the devices this process uses; empty without CUDA. Asks the allocator, not the device."""
    found = cuda()
    metrics: dict[str, float] = {}
    for index in range(found.device_count()) if found is not None else ():
        if found.memory_reserved(index):
            metrics |= allocator.readings(found, device=index)
    return metrics


def norm_of(gradient: Any) -> Any:
    """L2 norm as a 0-d tensor, in single precision; of a sharded gradient over all shards (every rank must ask)."""
    import torch

    gradient = gradient.detach()
    dense = gradient.coalesce().values() if gradient.is_sparse else gradient
    return _whole(torch.linalg.vector_norm(dense, dtype=torch.float32))


def _whole(value: Any) -> Any:
    """A sharded result (DTensor) summed up over its shards."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _read(values: list[Any]) -> list[float]:
    import torch

    device = values[0].device
    return torch.stack([value.to(device, non_blocking=True).double() for value in values]).tolist()
