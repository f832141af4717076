"""Speed and mean loss for the console line. (The sidecar computes its own figures from the events.)

Given: the begin and end of each step. Hands on: the fields of the console's line, and its last one.
"""

import time
from dataclasses import dataclass
from typing import Any

from trainer.schedule import Schedule
from trainer.step_metrics import StepMetrics


@dataclass
class Window:
    """Sums over the steps since a line on the console."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    loss: Any = 0.0  # May be on a device, which is asked for this sum alone.

    def add(self, seconds: float, tokens: int, flops: float, loss: Any) -> None:
        self.steps += 1
        self.seconds += seconds
        self.tokens += tokens
        self.flops += flops
        self.loss = self.loss + loss

    def mean_loss(self) -> float:
        return float(self.loss) / self.steps


class ThroughputMeter:
    def __init__(
        self, schedule: Schedule, *, first_step: int, world_size: int, flops_per_token: float, peak_flops: float | None
    ) -> None:
        self.schedule, self.world_size = schedule, world_size
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.started = self.epoch_started = self._step_started = time.perf_counter()
        self.first_step, self.seconds_training, self.tokens, self.samples = first_step, 0.0, 0, 0
        self.first_loss: Any = None
        self.last_loss: Any = None
        self._since_report, self._since_mean = Window(), Window()

    def begin(self) -> None:
        self._step_started = time.perf_counter()

    def end(self, step: int, loss: Any, metrics: StepMetrics) -> None:
        """``loss`` may still be on a device; ``metrics`` are of this rank.

        Time outside of steps (validation, samples) is not counted as training.
        """
        seconds, tokens = time.perf_counter() - self._step_started, metrics.tokens * self.world_size
        flops = metrics.tokens * self.flops_per_token if metrics.flops is None else metrics.flops
        for window in (self._since_report, self._since_mean):
            window.add(seconds, tokens, flops * self.world_size, loss)
        self.seconds_training += seconds
        self.tokens += tokens
        self.samples += metrics.samples
        self.first_loss, self.last_loss = loss if self.first_loss is None else self.first_loss, loss
        if (step - 1) % self.schedule.steps_per_epoch == 0:
            self.epoch_started = self._step_started

    def mean_loss(self) -> float:
        """Over the steps since the last call."""
        window, self._since_mean = self._since_mean, Window()
        return window.mean_loss()

    def report(self, step: int) -> dict[str, Any]:
        """Mean loss and speed since the last report, as arguments of Console.train."""
        window, self._since_report = self._since_report, Window()
        iters = self.schedule.steps_per_epoch
        return {
            "epoch": (step - 1) // iters + 1,
            "epochs": self.schedule.epochs,
            "step": (step - 1) % iters + 1,
            "iters": min(iters, self.schedule.total_steps),
            "loss": window.mean_loss(),
            "tokens_per_second": window.tokens / window.seconds,
            "mfu": window.flops / window.seconds / (self.peak_flops * self.world_size) if self.peak_flops else None,
            "epoch_seconds": time.perf_counter() - self.epoch_started,
            "eta_seconds": (self.schedule.total_steps - step) * window.seconds / window.steps,
        }

    def summary(self) -> str:
        seconds, steps = time.perf_counter() - self.started, self.schedule.total_steps - self.first_step
        return (
            f"done: {steps} steps, {self.tokens:,} tokens in {seconds:.1f} s ({self.seconds_training:.1f} s training), "
            f"loss {float(self.first_loss):.4f} -> {float(self.last_loss):.4f}"
        )
