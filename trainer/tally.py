"""What one optimizer step adds up to, over its micro-batches.

Given: each micro-batch with its loss and the stage's numbers. Hands on: the arguments of ``run.step``.
Never: waits for a device: what is on a GPU stays there.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.data.batch import Batch


class Tally:
    def __init__(self) -> None:
        self.samples = self.tokens = 0
        self._losses: list[Tensor] = []
        self._numbers: dict[str, list[Any]] = {}
        self._loss_tokens: int | None = None
        self._flops: float | None = None

    def add(self, batch: Batch, loss: Tensor, metrics: dict[str, Any], flops: float | None) -> None:
        self.samples, self.tokens = self.samples + batch.samples, self.tokens + batch.tokens
        self._losses.append(loss)
        for name, value in metrics.items():
            self._numbers.setdefault(name, []).append(value)
        if batch.loss_tokens is not None:
            self._loss_tokens = (self._loss_tokens or 0) + batch.loss_tokens
        if flops is not None:
            self._flops = (self._flops or 0.0) + flops

    def loss(self) -> Tensor:
        return torch.stack(self._losses).mean()

    def metrics(self) -> dict[str, Any]:
        """Means of the stage's numbers; the supervised tokens and FLOPs where these are not implied by the tokens."""
        found = {name: _mean(values) for name, values in self._numbers.items()}
        if self._loss_tokens is not None:
            found["train/num_loss_tokens"] = self._loss_tokens
        if self._flops is not None:
            found["train/flops"] = self._flops
        return found


def _mean(values: list[Any]) -> Any:
    if not isinstance(values[0], Tensor):
        return sum(values) / len(values)
    mean = torch.stack([value.detach().float() for value in values]).mean()
    return mean.item() if mean.device.type == "cpu" else mean
