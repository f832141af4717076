"""What a stage brings to the loop: batches, a loss, a validation. stages/ has the five of them.

Given: the flags and this process' World, when it is made. Hands on: Batches and losses, step by step.
Never: steps an optimizer, or talks to the sidecar: loop.py does that for all stages alike.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import GENERATION_PROMPTS
from trainer.data.batch import IGNORE, Batch, Loader
from trainer.data.prefetch import Prefetcher
from trainer.distributed import World
from trainer.evaluate import evaluate
from trainer.model import GPT
from trainer.precision import Autocast


class HeldOutLoader(Loader, Protocol):
    batches_per_epoch: int

    def rewind(self) -> None: ...


class Stage:
    """The defaults: predict the next token of ``train_loader``, validate on ``val_loader``."""

    name: str
    prompts: tuple[str, ...] = GENERATION_PROMPTS
    chats: bool = False  # Samples are replies to the prompts, not continuations of them.
    batch_phase: str = "data_wait"  # The phase that the time of next_batch counts as.
    train_loader: Loader
    val_loader: HeldOutLoader
    batches_per_epoch: int  # Micro-batches of this rank in one epoch.
    data_facts: dict[str, Any]  # dataset/* and data/* metrics, logged once when training begins.
    dataset_sizes: dict[str, int]  # Samples in each dataset, from which the sidecar computes coverage.
    loss_is_per_token: bool = True  # A mean over the targets that count: micro-batches weigh by how many they have.
    autocast: Autocast = nullcontext  # Precision of the forward pass; set by the loop.
    resume_facts: dict[str, Any] = {}  # Flags of the stage that must be the same when it resumes.
    remarks: tuple[str, ...] = ()  # Lines for the console about the data. May change at a validation.

    def wrap_model(self, model: GPT) -> nn.Module:
        """The module to train: the model, or a module around it.

        Called once, when the model has the weights to start from: the moment to keep a frozen copy of them.
        """
        return model

    def prefetch(self, pin: bool, depth: int) -> None:
        """Make ``depth`` batches ahead, in a thread. Called after the position is restored."""
        self.train_loader = Prefetcher(self.train_loader, pin=pin, depth=depth)  # type: ignore[assignment]

    def next_batch(self) -> Batch:
        return self.train_loader.next_batch()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """(mean cross-entropy in nats per token that counts, further metrics of this micro-batch: here none)."""
        logits = model(batch.inputs)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return losses / max(1, batch.targets.numel() if batch.loss_tokens is None else batch.loss_tokens), {}

    def sample_perplexity(self, texts: list[str]) -> float | None:
        """Perplexity of samples under a fixed reference model, where there is one."""
        return None

    def flops(self, model: GPT, batch: Batch) -> float | None:
        """FLOPs of this micro-batch if they are not flops_per_token times tokens, else None."""
        return None

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """val/* and eval/* metrics (and data/* that have changed), the same on every rank."""
        return evaluate(model, self.held_out(iters, world), world, self.autocast)

    def held_out(self, iters: int, world: World) -> Iterator[Batch]:
        """This rank's batches for validation: the same ``iters`` of them each time, or all if there are fewer."""
        self.val_loader.rewind()
        for _ in range(min(iters, self.val_loader.batches_per_epoch)):
            yield self.val_loader.next_batch().to(world.device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the model; identical on all ranks."""
        return self.train_loader.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.train_loader.load_state(state)

    def rank_state(self) -> dict[str, Tensor]:
        """Like ``state``, for what differs between ranks. All-gathered, so shapes must be the same on all of them."""
        return {}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        pass
