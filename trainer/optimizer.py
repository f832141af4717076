"""AdamW with two groups: matrices decay towards zero, vectors do not.

Given: a model and the flags. Hands on: the optimizer; its learning rate is set anew before each step.
"""

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
