"""AdamW with two groups: matrices decay towards zero, vectors do not.

Given: a model and the flags. Hands on: the optimizer; its learning rate is set anew before each step.
"""

from typing import Any

import torch
from torch import nn

from trainer.config import Config

BETAS = (0.9, 0.95)


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """Fused: one kernel for all parameters instead of a dozen for each. Takes ``found_inf``: see nonfinite.py."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)


def restore_optimizer(optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Raises whatever torch raises for what is no state of this optimizer, or ValueError for moments of another shape:
    those would make the fused kernel write beyond its memory."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        if not moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape or moments["step"].dim():
            raise ValueError("the optimizer's moments are not of the shape of its parameters")
