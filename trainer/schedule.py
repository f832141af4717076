"""How many steps, how often to validate and sample, and the learning rate at each step. Pure.

Given: the flags and the number of micro-batches in one pass over the data. Hands on: a Schedule.
"""

import math
from dataclasses import dataclass

from trainer.config import Config

SHORT_STEPS = 500


@dataclass(frozen=True)
class Schedule:
    total_steps: int
    steps_per_epoch: int
    eval_freq: int
    eval_iters: int
    generate_freq: int

    @property
    def epochs(self) -> int:
        """Passes over the data that were begun, at least 1."""
        return max(1, math.ceil(self.total_steps / self.steps_per_epoch))


def plan(config: Config, steps_per_epoch: int) -> Schedule:
    """Flags win. The default periods (500, 100, 1000) are for long runs: a short run, too, validates four times."""
    if config.steps is not None:
        total = config.steps
    elif config.epochs is not None:
        total = max(1, round(config.epochs * steps_per_epoch))
    else:
        total = config.default_steps
    return Schedule(
        total_steps=total,
        steps_per_epoch=steps_per_epoch,
        eval_freq=_unless_short(config, "eval_freq", total, math.ceil(total / 4)),
        eval_iters=_unless_short(config, "eval_iters", total, math.ceil(total / 40)),
        generate_freq=_unless_short(config, "generate_freq", total, math.ceil(total / 2)),
    )


def _unless_short(config: Config, name: str, total: int, in_a_short_run: int) -> int:
    """``in_a_short_run``, if the user left the default and the run is shorter than that; else the flag."""
    value: int = getattr(config, name)
    default: int = getattr(type(config), name)
    enough = SHORT_STEPS if name == "eval_iters" else default
    return value if config.is_chosen(name) or value != default or total >= enough else in_a_short_run


def learning_rate_at(step: int, total_steps: int, *, peak: float, warmup: float, min_share: float) -> float:
    """Linear warm-up over ``warmup * total_steps``, then half a cosine down to ``peak * min_share`` at the last step.

    ``step`` counts from 0 to total_steps - 1; the first step already moves, the last one gets exactly the floor.
    """
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return peak * (min_share + (1.0 - min_share) * cosine)
