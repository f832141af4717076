"""What a stage brings to the loop: batches, a loss, a judgement. stages/*.py has the five of them.

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
from trainer.data.ahead import Ahead, Loader
from trainer.data.batch import IGNORE, Batch
from trainer.distributed import World
from trainer.evaluate import evaluate
from trainer.flops import flops_per_token
from trainer.model import GPT

Autocast = Callable[[], AbstractContextManager[Any]]


class Stage:
    """The common ground: learn to predict the next token of ``train``, judge by that of ``val``."""

    name: str
    prompts: tuple[str, ...] = GENERATION_PROMPTS
    chats: bool = False
    """Are samples answers to the prompts, rather than their continuations?"""
    batch_phase: str = "data_wait"
    """What the loop is doing while it waits for a batch."""
    train: Loader
    val: Loader
    batches_per_epoch: int
    """Micro-batches of this rank in one pass over the data."""
    data_facts: dict[str, Any]
    """dataset/* and data/*: told once, when training begins."""
    dataset_sizes: dict[str, int]
    """Samples in one pass over each dataset, for the sidecar's coverage."""
    autocast: Autocast = nullcontext
    """The precision that the model computes with; the loop sets it."""
    remarks: tuple[str, ...] = ()
    """What the user should know about the data, one line each."""

    def learner(self, model: GPT) -> nn.Module:
        """What is trained: the model, or more around it. Called once, with the weights that the stage starts from."""
        return model

    def read_ahead(self, pin: bool) -> None:
        """Make the next batch while the last one is computed with. A stage that draws its own batches cannot."""
        if hasattr(self, "train"):
            self.train = Ahead(self.train, pin=pin)

    def next_batch(self) -> Batch:
        return self.train.next_batch()

    def loss(self, learner: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean cross-entropy in nats per token that counts; and further numbers of this micro-batch, here none."""
        logits = learner(batch.inputs)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return losses / max(1, batch.targets.numel() if batch.loss_tokens is None else batch.loss_tokens), {}

    def weight(self, batch: Batch) -> int | None:
        """Of how many targets this batch's loss is the mean; None if all batches have as many."""
        return batch.loss_tokens

    def surprise(self, texts: list[str]) -> float | None:
        """Perplexity of samples under a reference that does not learn, where there is one."""
        return None

    def flops(self, model: GPT, batch: Batch) -> float | None:
        """FLOPs of this micro-batch where they are not flops_per_token times tokens."""
        return None

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """val/* and eval/* numbers, the same on every rank. Every validation reads the same batches."""
        self.val.rewind()
        return evaluate(model, self.val.next_batch, iters, world, self.autocast)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the model; the same on every rank."""
        return self.train.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.train.load_state(state)

    def rank_state(self) -> dict[str, Tensor]:
        """The same for what differs between ranks: tensors of one shape on all of them."""
        return {}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        pass


def forward_flops(model: GPT, tokens: int) -> float:
    """A forward pass is a third of a step: twice as much is done backward."""
    return flops_per_token(model) * tokens / 3


def frozen_copy(model: GPT) -> GPT:
    """The same weights, never to change."""
    copy = GPT(model.config).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict())
    return copy.requires_grad_(False).eval()


def mean_of(values: Tensor, mask: Tensor) -> Tensor:
    """Mean where ``mask`` is True; 0 if it nowhere is."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
