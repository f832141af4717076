"""Speed and mean loss for the console line. (The sidecar computes its own figures from the events.)

Given: the begin and end of each step. Hands on: the fields of the console's line, and its last one.
"""

import time
from typing import Any

from trainer.schedule import Schedule
from trainer.step_metrics import StepMetrics


class Mean:
    """Of numbers that may be on a device, which is asked for their sum alone."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def add(self, value: Any) -> None:
        self.sum, self.count = self.sum + value, self.count + 1

    def take(self) -> float:
        """Of those since the last call."""
        mean = float(self.sum) / self.count
        self.sum, self.count = 0.0, 0
        return mean


class ThroughputMeter:
    def __init__(
        self, schedule: Schedule, *, first_step: int, world_size: int, flops_per_token: float, peak_flops: float | None
    ) -> None:
        self.schedule, self.world_size = schedule, world_size
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.started = self.epoch_started = time.perf_counter()
        self.first_step, self.seconds_training, self.tokens, self.samples = first_step, 0.0, 0, 0
        self.first_loss: Any = None
        self.last_loss: Any = None
        self._window_loss, self._loss_since_mean = Mean(), Mean()
        self._began = self._window_seconds = self._window_flops = 0.0
        self._window_tokens = 0

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self, step: int, loss: Any, metrics: StepMetrics) -> None:
        """``loss`` may still be on a device; ``metrics`` are of this rank.

        Time outside of steps (validation, samples) is not counted as training.
        """
        flops = metrics.tokens * self.flops_per_token if metrics.flops is None else metrics.flops
        self._window_seconds += time.perf_counter() - self._began
        self._window_tokens += metrics.tokens * self.world_size
        self._window_flops += flops * self.world_size
        self.samples += metrics.samples
        self._window_loss.add(loss)
        self._loss_since_mean.add(loss)
        self.first_loss, self.last_loss = loss if self.first_loss is None else self.first_loss, loss
        if (step - 1) % self.schedule.steps_per_epoch == 0:
            self.epoch_started = self._began

    def mean_loss(self) -> float:
        """Over the steps since the last call."""
        return self._loss_since_mean.take()

    def report(self, step: int) -> dict[str, Any]:
        """Mean loss and speed since the last report, as arguments of Console.train; begins a new window."""
        steps, seconds = self._window_loss.count, self._window_seconds
        self.tokens += self._window_tokens
        self.seconds_training += seconds
        tokens_per_second, flops_per_second = self._window_tokens / seconds, self._window_flops / seconds
        self._window_tokens, self._window_seconds, self._window_flops = 0, 0.0, 0.0
        iters = self.schedule.steps_per_epoch
        return {
            "epoch": (step - 1) // iters + 1,
            "epochs": self.schedule.epochs,
            "step": (step - 1) % iters + 1,
            "iters": min(iters, self.schedule.total_steps),
            "loss": self._window_loss.take(),
            "tokens_per_second": tokens_per_second,
            "mfu": flops_per_second / (self.peak_flops * self.world_size) if self.peak_flops else None,
            "epoch_seconds": time.perf_counter() - self.epoch_started,
            "eta_seconds": (self.schedule.total_steps - step) * seconds / steps,
        }

    def summary(self) -> str:
        seconds, steps = time.perf_counter() - self.started, self.schedule.total_steps - self.first_step
        return (
            f"done: {steps} steps, {self.tokens:,} tokens in {seconds:.1f} s ({self.seconds_training:.1f} s training), "
            f"loss {float(self.first_loss):.4f} -> {float(self.last_loss):.4f}"
        )
