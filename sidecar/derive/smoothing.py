"""The smoothed loss, an exponential moving average with bias correction, and the perplexity.

Given: losses one by one. Hands on: the average. Never: takes a value that is not finite, because the average would stay
so for ever.
"""

import math

from sidecar.state import RunState

DECAY = 0.9  # As in nanochat's training loop.
OTHER_LOSSES = frozenset(("dpo", "ppo", "grpo", "rl"))


def smooth(state: RunState, loss: float) -> float | None:
    """``m_t = d m_(t-1) + (1 - d) x_t``; the value is ``m_t / (1 - d^t)``, so the first one equals the first loss."""
    if math.isfinite(loss):
        state.ema = DECAY * state.ema + (1 - DECAY) * loss
        state.ema_weight *= DECAY
    return smoothed(state)


def smoothed(state: RunState) -> float | None:
    weight = 1 - state.ema_weight
    return state.ema / weight if weight else None


def has_perplexity(state: RunState) -> bool:
    """Whether the loss is a mean negative log-likelihood: that of preference and policy training is not."""
    return state.stage not in OTHER_LOSSES


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats; infinity where a double overflows."""
    return math.exp(loss) if not loss > 709.0 else math.inf
