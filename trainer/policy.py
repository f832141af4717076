"""The arithmetic of DPO and PPO: log-probabilities of replies, a value head, advantages.

Given: a GPT, logits, rewards. Hands on: tensors of shape (batch, time).
Never: touches the global random numbers.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer.data.batch import IGNORE
from trainer.model import GPT, Attention


def frozen_copy(model: GPT) -> GPT:
    """A copy of the model that is not trained."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where ``mask`` is True; 0 if there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


class ActorCritic(nn.Module):
    """A GPT with a value head, which predicts the return from each position on."""

    def __init__(self, actor: GPT) -> None:
        super().__init__()
        self.actor = actor
        self.value = nn.Linear(actor.config.n_embd, 1).to(actor.head.weight.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, time, vocabulary) and values (batch, time)."""
        features = self.actor.features(tokens)
        return self.actor.head(features), self.value(features).squeeze(-1).float()


def without_dropout(model: GPT) -> GPT:
    """The same model, from now on without dropout: where probabilities are compared with those of another pass, noise
    would look like a change of the policy. As trl does by default."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, Attention):
            module.dropout = 0.0
    return model


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, (batch, time); 0 where the target is IGNORE."""
    return logps_of_targets(torch.log_softmax(logits.float(), dim=-1), targets)


def token_logps_and_entropies(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the entropy of the distribution it was drawn from, in nats; also 0 where the target is IGNORE."""
    logps = torch.log_softmax(logits.float(), dim=-1)
    entropies = -(logps.exp() * logps).sum(-1)
    return logps_of_targets(logps, targets), torch.where(targets != IGNORE, entropies, 0.0)


def logps_of_targets(logps: Tensor, targets: Tensor) -> Tensor:
    """The same from log-probabilities of all tokens, (batch, time, vocabulary)."""
    chosen = logps.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    return torch.where(targets != IGNORE, chosen, 0.0)


def compute_gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, (batch, time); Schulman et al. 2016, equation 16.

    ``mask`` is True on the reply's tokens, which are contiguous; the episode ends behind the last of them.
    """
    advantages = torch.zeros_like(rewards)
    last = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.size(1))):
        inside = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        last = torch.where(inside, delta + gamma * lam * last, 0.0)
        next_value = torch.where(inside, values[:, t], 0.0)
        advantages[:, t] = last
    return advantages, advantages + torch.where(mask, values, 0.0)


def whiten(values: Tensor, mask: Tensor, sum_over_ranks: Callable[..., list[float]]) -> Tensor:
    """Mean 0 and deviation 1 over where ``mask`` is True on all ranks, 0 elsewhere.

    The deviation is the unbiased one, of count - 1, as in CleanRL and trl. ``sum_over_ranks``: World.sum_over_ranks.
    """
    chosen = values[mask].double()
    total, squares, count = sum_over_ranks(chosen.sum().item(), chosen.square().sum().item(), chosen.numel())
    mean = total / max(1, count)
    deviation = (max(0.0, squares - count * mean * mean) / max(1, count - 1)) ** 0.5
    return torch.where(mask, (values - mean) / (deviation + 1e-8), 0.0)
