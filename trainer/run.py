"""One stage from the flags to the last checkpoint.

Given: a stage and its flags, and the former stage's weights if they are at hand. Hands on: the trained Weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from trainer import weights as weights_
from trainer.config import Config
from trainer.distributed import World, world
from trainer.loop import train
from trainer.stage import Stage
from trainer.weights import Weights

MakeStage = Callable[[Any, World], Stage]


def run_stage(make: MakeStage, config: Config) -> None:
    """In a World of its own. Raises UserError before training starts."""
    with world(config.device, config.threads) as here:
        train_stage(make, config, here, weights_.find(config))


def train_stage(make: MakeStage, config: Config, here: World, start: Weights | None) -> Weights:
    config = weights_.fitted(config, start)
    stage = make(config, here)
    model = train(stage, config, here, start)
    return Weights(stage.name, dataclasses.asdict(model.config), model.state_dict())
