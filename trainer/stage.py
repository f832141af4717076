"""What a stage brings to the loop: batches, a loss, a validation. stages/ has the five of them.

Given: the flags and this process' World, when it is made. Hands on: Batches and losses, step by step.
Never: steps an optimizer, or talks to the sidecar: loop.py does that for all stages alike.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import GENERATION_PROMPTS
from trainer.data.batch import IGNORE, Batch
from trainer.data.prefetch import Loader, Prefetcher
from trainer.distributed import World
from trainer.evaluate import evaluate
from trainer.flops import flops_per_token
from trainer.model import GPT

Autocast = Callable[[], AbstractContextManager[Any]]


class Stage:
    """The defaults: predict the next token of ``train``, validate on ``val``."""

    name: str
    prompts: tuple[str, ...] = GENERATION_PROMPTS
    chats: bool = False
    """Samples are replies to the prompts, not continuations of them."""
    batch_phase: str = "data_wait"
    """The phase that the time of ``next_batch`` counts as."""
    train: Loader
    val: Loader
    batches_per_epoch: int
    """Micro-batches of this rank in one epoch."""
    data_facts: dict[str, Any]
    """dataset/* and data/* metrics, logged once when training begins."""
    dataset_sizes: dict[str, int]
    """Samples in each dataset, from which the sidecar computes coverage."""
    autocast: Autocast = nullcontext
    """Precision of the forward pass; set by the loop."""
    resume_facts: dict[str, Any] = {}
    """Flags of the stage that must be the same when it resumes."""
    remarks: tuple[str, ...] = ()
    """Lines for the console: what the user should know about the data."""

    def learner(self, model: GPT) -> nn.Module:
        """The module to train: the model, or a module around it. Called once, when the model has its first weights."""
        return model

    def prefetch(self, pin: bool) -> None:
        """Make the next batch while the current one is computed. A stage that draws its own batches (PPO) cannot."""
        if hasattr(self, "train"):
            self.train = Prefetcher(self.train, pin=pin)

    def next_batch(self) -> Batch:
        return self.train.next_batch()

    def loss(self, learner: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """(mean cross-entropy in nats per token that counts, further metrics of this micro-batch: here none)."""
        logits = learner(batch.inputs)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return losses / max(1, batch.targets.numel() if batch.loss_tokens is None else batch.loss_tokens), {}

    def weight(self, batch: Batch) -> int | None:
        """The number of targets that this batch's loss is the mean of; None if it is the same for all batches."""
        return batch.loss_tokens

    def sample_perplexity(self, texts: list[str]) -> float | None:
        """Perplexity of samples under a fixed reference model, where there is one."""
        return None

    def flops(self, model: GPT, batch: Batch) -> float | None:
        """FLOPs of this micro-batch if they are not flops_per_token times tokens, else None."""
        return None

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """val/* and eval/* numbers, the same on every rank. Every validation reads the same batches."""
        self.val.rewind()
        return evaluate(model, self.val.next_batch, iters, world, self.autocast)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the model; identical on all ranks."""
        return self.train.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.train.load_state(state)

    def rank_state(self) -> dict[str, Tensor]:
        """The same for what differs between ranks; each tensor has one shape on all of them."""
        return {}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        pass


def forward_flops(model: GPT, tokens: int) -> float:
    """A forward pass is a third of a training step; the backward pass costs twice as much."""
    return flops_per_token(model) * tokens / 3


def frozen_copy(model: GPT) -> GPT:
    """A copy of the model that is not trained."""
    copy = GPT(model.config).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict())
    return copy.requires_grad_(False).eval()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where ``mask`` is True; 0 if there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
