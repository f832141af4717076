"""``calculate_mfu``: model FLOPs utilisation as the MiniMind fork's training scripts print it.

Given: FLOPs per token, tokens per second, a device. Hands on: percent, or None with one warning.
Never: guesses a peak: an unknown device has none.
"""

import sys
import warnings
from typing import Any

_warned: set[str] = set()


def calculate_mfu(
    model_flops_per_token: float, tokens_per_sec: float, device: Any, *, dtype: Any = "bfloat16"
) -> float | None:
    """100 x FLOPs per token x tokens per second / dense peak of one device. None: the device's peak is not known.

    ``device`` is a torch device ("cuda:0") or a name ("NVIDIA H100 80GB HBM3"). ``dtype`` is that of the products, by
    its name or as torch's own object. ``tokens_per_sec`` is of one device; where it is 0, nothing was measured yet, and
    the result is None as well.
    """
    from sidecar.derive import peaks  # Pure tables; nothing else of the sidecar is loaded by it.

    name = _name_of(device)
    peak, reason = peaks.find(name, peaks.dtype_of(str(dtype)))
    if peak is None:
        _warn(f"MFU is not known: {reason}")
        return None
    if not tokens_per_sec or not model_flops_per_token:
        return None
    return 100.0 * float(model_flops_per_token) * float(tokens_per_sec) / peak


def model_flops_per_token(model: Any) -> int:
    """Forward and backward without attention: 6 N for trainable parameters, 4 N for frozen ones."""
    total = 0
    for parameter in model.parameters():
        total += (6 if parameter.requires_grad else 4) * parameter.numel()
    return total


def _name_of(device: Any) -> str:
    torch = sys.modules.get("torch")
    text = str(device)
    if text.partition(":")[0] == "cuda" and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(torch.device(text)))
    return text


def _warn(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=3)
