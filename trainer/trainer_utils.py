"""For training scripts in MiniMind's style, which begin with

    from trainer.trainer_utils import (
        get_lr, Logger, is_main_process, lm_checkpoint,
        init_distributed_mode, setup_seed, init_model, SkipBatchSampler, calculate_mfu
    )

Given: the calls that they make. Hands on: the same results, by this trainer's own parts. This trainer itself does not
use them: nothing here is worth reading to understand it.
"""

import dataclasses
import math
import os
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.utils.data import Sampler

from sidecar.client.compat import calculate_mfu
from trainer import checkpoint
from trainer.config import Config
from trainer.model import GPT, ModelConfig
from trainer.tokenizer import ByteTokenizer
from trainer.weights import build_model, find_weights

__all__ = [
    "Logger", "SkipBatchSampler", "calculate_mfu", "get_lr", "init_distributed_mode", "init_model", "is_main_process",
    "lm_checkpoint", "setup_seed",
]  # fmt: skip


def is_main_process() -> bool:
    """The first rank, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def Logger(content: object) -> None:  # noqa: N802 - Their name.
    """Print on the main process only."""
    if is_main_process():
        print(content, flush=True)


def get_lr(current_step: int, total_steps: int, lr: float) -> float:
    """MiniMind's cosine: from 1.1 times ``lr`` down to a tenth of it."""
    return lr / 10 + 0.5 * lr * (1 + math.cos(math.pi * current_step / total_steps))


def setup_seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def init_distributed_mode() -> int:
    """This process' number on its machine; under torchrun it also joins the group (nccl on GPUs, else gloo)."""
    if "RANK" not in os.environ:
        return 0
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return local_rank


class SkipBatchSampler(Sampler[list[int]]):
    """Batches of what ``sampler`` gives, without the first ``skip_batches``: how an epoch is resumed."""

    def __init__(self, sampler: Iterable[int], batch_size: int, skip_batches: int = 0) -> None:
        self.sampler, self.batch_size, self.skip_batches = sampler, batch_size, skip_batches

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        batches = iter(lambda: list(islice(indices, self.batch_size)), [])
        return islice(batches, self.skip_batches, None)

    def __len__(self) -> int:
        return max(0, -(-len(list(self.sampler)) // self.batch_size) - self.skip_batches)


def init_model(
    lm_config: ModelConfig, from_weight: str = "pretrain", save_dir: str | None = None, device: str = "cpu"
) -> tuple[GPT, ByteTokenizer]:
    """A model of that shape, and its tokenizer; ``from_weight``: "none", a stage in ``save_dir``, or a checkpoint.

    Raises UserError if there are no such weights, or they are of another shape.
    """
    shape = {k: v for k, v in dataclasses.asdict(lm_config).items() if k != "vocab_size"}
    config = Config(from_weight=None if from_weight == "none" else from_weight, out=save_dir, **shape)
    return build_model(config, find_weights(config)).to(device), ByteTokenizer()


def lm_checkpoint(
    lm_config: ModelConfig, weight: str = "full_sft", model: nn.Module | None = None, optimizer: Any = None,
    epoch: int = 0, step: int = 0, wandb: Any = None, save_dir: str = "checkpoints", **more: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """With a model: write all that a resume needs to SAVE_DIR/WEIGHT_WIDTH_resume.pt, atomically, with its run's id in
    W&B. Without a model: what is there, or None."""
    path = Path(save_dir) / f"{weight}_{lm_config.n_embd}_resume.pt"
    if model is None:
        return checkpoint.load_file(path) if path.is_file() else None
    bare = getattr(model, "module", model)  # Under DistributedDataParallel.
    state = {"model": bare.state_dict(), "epoch": epoch, "step": step, "wandb_id": getattr(wandb, "id", None), **more}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    if is_main_process():
        checkpoint.save(path, state)
    return None
