"""Totals and means of one optimizer step over its micro-batches.

Given: each micro-batch with its loss and the stage's metrics. Hands on: the arguments of ``run.step``.
Never: waits for a GPU: tensors stay on their device.
"""

from typing import Any

from torch import Tensor

from trainer.data.batch import Batch


class StepMetrics:
    def __init__(self) -> None:
        self.samples = self.tokens = 0
        self._numbers: dict[str, list[Any]] = {}
        self._weights: list[int] = []
        self._loss_tokens: int | None = None
        self._mean_over_samples = False
        self.flops: float | None = None
        """None: flops_per_token times tokens."""

    def add(
        self, batch: Batch, loss: Tensor, metrics: dict[str, Any], *, weight: int | None, flops: float | None
    ) -> None:
        """``weight``: how much this micro-batch's means count (targets that count); None: all the same."""
        self.samples, self.tokens = self.samples + batch.samples, self.tokens + batch.tokens
        self._weights.append(1 if weight is None else weight)
        for name, value in {"train/loss": loss, **metrics}.items():
            self._numbers.setdefault(name, []).append(value)
        if batch.loss_tokens is not None:
            self._loss_tokens = (self._loss_tokens or 0) + batch.loss_tokens
            self._mean_over_samples = weight is None
        if flops is not None:
            self.flops = (self.flops or 0.0) + flops

    def loss(self) -> Tensor:
        """On the device that computed it."""
        return self._mean(self._numbers["train/loss"])

    def metrics(self) -> dict[str, Any]:
        """Means of the stage's metrics, plus train/num_loss_tokens and train/flops if the stage reports them, and
        train/loss_weight if the loss is a mean over samples: several ranks' losses are not to be joined by tokens."""
        found = {name: self._mean(values) for name, values in self._numbers.items() if name != "train/loss"}
        if self._loss_tokens is not None:
            found["train/num_loss_tokens"] = self._loss_tokens
        if self._mean_over_samples:
            found["train/loss_weight"] = self.samples
        if self.flops is not None:
            found["train/flops"] = self.flops
        return {name: _plain(value) for name, value in found.items()}

    def _mean(self, values: list[Any]) -> Any:
        """Over all targets: a mean of means would give those in a sparse micro-batch more weight."""
        total = max(1, sum(self._weights))
        return sum(value * (weight / total) for value, weight in zip(values, self._weights, strict=True))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.device.type == "cpu" else value
