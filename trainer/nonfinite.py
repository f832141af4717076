"""Steps whose gradient is not finite (NaN, infinity) are skipped and counted, or end the run.

Given: the gradient norm, the same on every rank. Hands on: an optimizer step, or none.
Never: waits for a GPU in a step: the optimizer skips on the device itself, and the host looks at the logging steps.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError

IN_A_ROW_MAX = 20  # Skipped steps in a row after which the run has diverged for good.


class NonFiniteGuard:
    def __init__(self, policy: str, device: torch.device) -> None:
        """``policy``: "skip" or "stop"."""
        self.policy, self.on_cpu = policy, device.type == "cpu"
        self.skipped, self.in_a_row, self.longest = (torch.zeros((), device=device) for _ in range(3))
        """Skipped steps: all of them, those in a row up to now, and the most in a row."""
        self.first = torch.zeros((), dtype=torch.int64, device=device)
        """The first step that was skipped since the last check; 0: none."""
        self._before = 0

    def step(self, optimizer: torch.optim.Optimizer, grad_norm: Tensor, step: int) -> None:
        """Let the optimizer take this step, unless the gradient is not finite."""
        bad = (~torch.isfinite(grad_norm)).float()
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # As GradScaler does: fused AdamW reads it on device.
        optimizer.step()
        self.skipped += bad
        self.in_a_row = (self.in_a_row + bad) * bad
        self.longest = torch.maximum(self.longest, self.in_a_row)
        self.first += ((bad > 0) & (self.skipped == self._before + 1)) * step  # torch.where would wait: it copies step.

    def restore(self, skipped: int) -> None:
        """Go on counting from a checkpoint's number."""
        self._before = skipped
        self.skipped += skipped

    def metrics(self) -> dict[str, Any]:
        """On a CPU only once a step was skipped; on a GPU always, because asking would wait for it."""
        if self.on_cpu:
            return {"train/skipped_steps": int(self.skipped)} if self.skipped else {}
        return {"train/skipped_steps": self.skipped}

    def check(self, step: int) -> None:
        """Raises UserError if the policy says so. Waits for a GPU: call it at logging steps only."""
        before, self._before = self._before, int(self.skipped)
        if self._before == before:
            return
        remedy = "lower --learning_rate, or resume from an earlier checkpoint"
        if self.policy == "stop":
            raise UserError(f"gradients are not finite at step {int(self.first)}", remedy)
        if self.longest >= IN_A_ROW_MAX:
            raise UserError(f"gradients are not finite: {int(self.longest)} steps in a row, up to step {step}", remedy)
        self.first.zero_()
