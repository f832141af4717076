"""The second document's import line, restricted to what concerns monitoring:

    from trainer.trainer_utils import get_lr, Logger, is_main_process, calculate_mfu, setup_seed

Given: the calls that its training scripts make. Hands on: the same answers. This trainer itself does not use them.
"""

import math
import os
import random

import torch

from sidecar.client.compat import calculate_mfu

__all__ = ["Logger", "calculate_mfu", "get_lr", "is_main_process", "setup_seed"]


def is_main_process() -> bool:
    """The first rank, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def Logger(content: object) -> None:  # noqa: N802 - Their name.
    """Print on the main process only."""
    if is_main_process():
        print(content, flush=True)


def get_lr(current_step: int, total_steps: int, lr: float) -> float:
    """Their cosine: from 1.1 times ``lr`` down to a tenth of it."""
    return lr / 10 + 0.5 * lr * (1 + math.cos(math.pi * current_step / total_steps))


def setup_seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
