"""One stage from its flags to its last checkpoint.

Given: a stage and its flags, and the weights to start from. Hands on: the trained Weights.
"""

from collections.abc import Callable
from typing import Any

from trainer.config import Config
from trainer.distributed import World, process_group
from trainer.loop import train
from trainer.stage import Stage
from trainer.stages import load_stage
from trainer.weights import Weights, config_for, find_weights

MakeStage = Callable[[Any, World], Stage]


def run_stage(name: str, config: Config) -> None:
    """``python -m trainer NAME``. Raises UserError before training starts."""
    with process_group(config.device, config.threads) as world:
        train_stage(load_stage(name), config, world, find_weights(config))


def train_stage(make_stage: MakeStage, config: Config, world: World, start: Weights | None) -> Weights:
    """Train one stage in a process group that exists already, as the pipeline does five times."""
    config = config_for(config, start)
    stage = make_stage(config, world)
    model = train(stage, config, world, start)
    return Weights(stage.name, model.config, model.state_dict())
