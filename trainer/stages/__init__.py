"""The five stages in one table. A stage says what a batch is, what its loss is and how it is evaluated; loop.py does
the rest. Importing the table loads neither torch nor a stage; stages do not import one another.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import Config, DpoConfig, MidtrainConfig, PipelineConfig, PpoConfig, SftConfig
from trainer.data.corpus import text_folder


class StageEntry(NamedTuple):
    implementation: str
    """The Stage, as "module:Class"."""
    config: type[Config]
    """Its flags."""
    summary: str
    in_pipeline: Mapping[str, Any]
    """Where a pipeline of minutes differs from the defaults of the stage run alone."""


STAGES = {
    "pretrain": StageEntry(
        "trainer.stages.pretrain:Pretraining", Config, "a small GPT learns plain text from scratch",
        {"steps": 240, "generate_freq": 24, "seq_len": 160},
    ),
    "midtrain": StageEntry(
        "trainer.stages.midtrain:Midtraining", MidtrainConfig, "it meets conversations and word problems",
        {"steps": 160},
    ),
    "sft": StageEntry(
        "trainer.stages.sft:FineTuning", SftConfig, "it learns to answer",
        {"steps": 180, "batch_size": 32, "learning_rate": 2e-3},
    ),
    "dpo": StageEntry(
        "trainer.stages.dpo:PreferenceTraining", DpoConfig, "it learns which of two answers is better",
        {"steps": 60, "eval_iters": 8, "chosen_weight": 1.0},
    ),
    "ppo": StageEntry(
        "trainer.stages.ppo:PolicyTraining", PpoConfig, "it learns from its own answers, right or wrong",
        {"steps": 180, "batch_size": 64, "learning_rate": 3e-4, "max_reply": 16, "weight_decay": 0.0,
         "value_weight": 0.1},
    ),
}  # fmt: skip
"""In the order of the pipeline."""


def load_stage(name: str) -> Any:
    """The Stage class of that name."""
    module, name = STAGES[name].implementation.split(":")
    return getattr(importlib.import_module(module), name)


def pipeline_config(config: PipelineConfig, name: str, group: str | None) -> Config:
    """A stage's flags in a pipeline: those given for the pipeline, else ``in_pipeline``, else the stage's defaults."""
    entry = STAGES[name]
    given = {key: getattr(config, key) for key in config.origins if key in entry.config.flags()}
    if name == "pretrain" and config.data and config.data != "hub":
        given["data"] = config.data if text_folder(Path(config.data).expanduser()) else None
    label = f"{config.run}-{name}" if config.run and config.run != "dummy" else config.run or name
    fixed = {"group": group, "run": label, "run_id": None, "from_weight": None}
    origins = {**dict.fromkeys((*entry.in_pipeline, "run", "group"), "pipeline"), **config.origins}
    return entry.config(**{**entry.in_pipeline, **given, **fixed}, origins=origins)
