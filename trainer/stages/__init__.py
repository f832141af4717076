"""The five stages in one table. A stage says what a batch is, what its loss is and how it is evaluated; loop.py does
the rest. Importing the table loads neither torch nor a stage; stages do not import one another.
"""

import importlib
from typing import Any, NamedTuple

from trainer.config import Config, DpoConfig, MidtrainConfig, PpoConfig, SftConfig


class StageEntry(NamedTuple):
    implementation: str
    """The Stage, as "module:Class"."""
    config: type[Config]
    """Its flags."""
    summary: str


STAGES = {
    "pretrain": StageEntry("trainer.stages.pretrain:Pretraining", Config, "a small GPT learns plain text from scratch"),
    "midtrain": StageEntry(
        "trainer.stages.midtrain:Midtraining", MidtrainConfig, "it meets conversations and word problems"
    ),
    "sft": StageEntry("trainer.stages.sft:FineTuning", SftConfig, "it learns to answer"),
    "dpo": StageEntry("trainer.stages.dpo:PreferenceTraining", DpoConfig, "it learns which of two answers is better"),
    "ppo": StageEntry("trainer.stages.ppo:PolicyTraining", PpoConfig, "it learns from its own answers, right or wrong"),
}
"""In the order of the pipeline."""


def load_stage(name: str) -> Any:
    """The Stage class of that name."""
    module, name = STAGES[name].implementation.split(":")
    return getattr(importlib.import_module(module), name)
