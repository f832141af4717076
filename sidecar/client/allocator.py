"""What torch's CUDA allocator holds: only the training process can see it.

Given: ``torch.cuda``. Hands on: metrics under ``system/gpu_<i>_``, <i> being the GPU's index as NVML counts.
Never: asks the device (the allocator keeps its counts on the host), or resets the peak that the script may read itself.
"""

import os
from collections.abc import Mapping
from typing import Any

EVERY_STEPS = 10
GB = 1e9


def readings(cuda: Any, environ: Mapping[str, str] = os.environ, *, device: int | None = None) -> dict[str, float]:
    """Of ``device``, by default the current one. Peaks are since the process began, or since the script reset them."""
    device = cuda.current_device() if device is None else device
    stats = cuda.memory_stats_as_nested_dict(device)
    if not stats:
        return {}
    found = {
        "memory_allocated_gb": _stat(stats, "allocated_bytes", "all", "current", unit=GB),
        "memory_reserved_gb": _stat(stats, "reserved_bytes", "all", "current", unit=GB),
        "memory_peak_gb": _stat(stats, "allocated_bytes", "all", "peak", unit=GB),
        "alloc_retries": _stat(stats, "num_alloc_retries"),
        "ooms": _stat(stats, "num_ooms"),
    }
    index = nvml_index(device, environ)
    return {f"system/gpu_{index}_{name}": value for name, value in found.items() if value is not None}


def _stat(stats: Mapping[str, Any], *path: str, unit: float = 1.0) -> float | None:
    entry: Any = stats
    for key in path:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return None if entry is None else entry / unit if unit != 1.0 else entry


def nvml_index(device: int, environ: Mapping[str, str]) -> int:
    """CUDA counts only the devices it may see; NVML counts all. Named by UUID, the own count is all we have."""
    visible = [part.strip() for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if device < len(visible) and visible[device].isdigit():
        return int(visible[device])
    return device
