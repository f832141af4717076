"""Gradients that are not finite: the step is left out and counted, or training ends.

Given: the gradient's norm, the same on every rank. Hands on: an optimizer step, or none.
Never: waits for a device to look: the optimizer itself leaves the step out; on a GPU we look at the logging steps.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError

IN_A_ROW_MAX = 20
"""So many steps in a row, and it is no accident any more."""


class FiniteWatch:
    def __init__(self, policy: str, device: torch.device) -> None:
        """``policy``: "skip" or "stop"."""
        self.policy, self.on_cpu = policy, device.type == "cpu"
        self.skipped = torch.zeros((), device=device)
        self._before, self._in_a_row = 0, 0

    def step(self, optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> None:
        """Let the optimizer step, unless the gradient is not finite."""
        bad = (~torch.isfinite(grad_norm)).float()
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # As GradScaler does: fused AdamW reads it on device.
        optimizer.step()
        self.skipped += bad

    def metrics(self) -> dict[str, Any]:
        """Absent as long as there is nothing to say, so far as we know without asking the device."""
        if self.on_cpu:
            return {"train/skipped_steps": int(self.skipped)} if self.skipped else {}
        return {"train/skipped_steps": self.skipped.clone()}

    def check(self, step: int) -> None:
        """On a GPU at the logging steps only, where waiting for it is no loss. Raises UserError."""
        seen = int(self.skipped)
        self._in_a_row = self._in_a_row + seen - self._before if seen > self._before else 0
        self._before = seen
        if self._before and (self.policy == "stop" or self._in_a_row >= IN_A_ROW_MAX):
            raise self._error(step)

    def _error(self, step: int) -> UserError:
        return UserError(
            f"gradients are not finite at step {step}: {self._before} step(s) left out",
            "lower --learning_rate, or resume from an earlier checkpoint",
        )
