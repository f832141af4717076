"""What the forward pass computes in: float32, or bfloat16 by autocast.

Given: --dtype and the device. Hands on: a dtype, a context to compute in it, and its name for MFU.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from trainer.config import Config
from trainer.distributed import World

Autocast = Callable[[], AbstractContextManager[Any]]


def dtype_of(config: Config, world: World) -> torch.dtype:
    """bfloat16 on GPUs. On most CPUs autocast is slower, so there it must be asked for."""
    if config.dtype == "auto":
        return torch.bfloat16 if world.device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def autocast_to(dtype: torch.dtype, world: World) -> Autocast:
    """A context in which the forward pass computes in ``dtype``."""
    return nullcontext if dtype == torch.float32 else functools.partial(torch.autocast, world.device.type, dtype=dtype)


def product_dtype(dtype: torch.dtype, device: torch.device) -> str:
    """What matrix products are computed in, which decides the peak: the loop lets float32 be TF32 where there is such a
    thing (NVIDIA since Ampere), seven times faster."""
    if dtype == torch.float32 and device.type == "cuda" and torch.version.hip is None:
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "tf32"
    return str(dtype).removeprefix("torch.")
