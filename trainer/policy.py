"""The model as a policy: how likely it finds a reply, replies drawn from it, how good it thinks it stands.

Given: a GPT, token ids. Hands on: log-probabilities, replies, advantages. What DPO and PPO share, and the judge.
Never: touches the global random numbers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.data.batch import IGNORE
from trainer.model import GPT, Memory
from trainer.tokenizer import ASSISTANT_END, PAD


class ActorCritic(nn.Module):
    """A GPT with a value head: one more number per position, what reward it expects from there on."""

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


def token_logps(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(log-probability of each target, entropy there), both (batch, time); 0 where the target is IGNORE."""
    logps = torch.log_softmax(logits.float(), dim=-1)
    counts = targets != IGNORE
    chosen = logps.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    return torch.where(counts, chosen, 0.0), torch.where(counts, entropy, 0.0)


@torch.no_grad()
def respond(
    model: GPT, prompts: Sequence[Sequence[int]], max_tokens: int, *, seed: int = 0, temperature: float = 1.0
) -> list[list[int]]:
    """A reply to each prompt, with its closing mark if it came to one; at temperature 0 the likeliest.

    All prompts go through the model together, each padded on the right, where causal attention never looks; after
    that, one token per reply at a time.
    """
    device = model.head.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    limit = min(model.config.seq_len, longest + max_tokens)
    tokens = torch.full((len(prompts), limit), PAD)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    tokens, rows = tokens.to(device), torch.arange(len(prompts), device=device)
    memory = Memory(model, len(prompts), limit)
    features = model.read(tokens[:, :longest], memory)[rows, lengths - 1]
    ends, open_ = lengths.clone(), torch.ones_like(lengths, dtype=torch.bool)
    for _ in range(max_tokens):
        logits = model.head(features).float()
        if temperature == 0:
            said = logits.argmax(-1)
        else:
            said = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator).squeeze(-1)
        open_ = open_ & (ends < limit)
        tokens[rows[open_], ends[open_]] = said[open_]
        at = ends.clamp(max=limit - 1)  # Rows that are closed go along, and nobody looks at what they say.
        ends = ends + open_.long()
        open_ = open_ & (said != ASSISTANT_END)
        if not open_.any():
            break
        features = model.read(said[:, None], memory, at)[:, 0]
    return [tokens[row, lengths[row] : ends[row]].tolist() for row in range(len(prompts))]


def advantages_of(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, (batch, time); Schulman et al. 2016, equation 16.

    ``mask`` is True on the reply's tokens, which stand together; behind them nothing more is to be had.
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


def whitened(values: Tensor, mask: Tensor, sums: Callable[..., list[float]]) -> Tensor:
    """Mean 0 and deviation 1 over where ``mask`` is True on all ranks, 0 elsewhere. ``sums``: World.sums."""
    chosen = values[mask].double()
    total, squares, count = sums(chosen.sum().item(), chosen.square().sum().item(), chosen.numel())
    mean = total / max(1, count)
    deviation = max(0.0, squares / max(1, count) - mean * mean) ** 0.5
    return torch.where(mask, (values - mean) / (deviation + 1e-8), 0.0)
