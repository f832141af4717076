"""The five stages in one table. A stage says what a batch is, what its loss is and how it is evaluated; loop.py does
the rest. Importing the table loads neither torch nor a stage; stages do not import one another.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import CONFIGS, Config, PipelineConfig
from trainer.data.corpus import text_folder
from trainer.flags import Layer, check, merged


class StageEntry(NamedTuple):
    implementation: str
    """The Stage, as "module:Class"."""
    summary: str
    in_pipeline: Mapping[str, Any]
    """Where a pipeline of minutes differs from the defaults of the stage run alone."""


STAGES = {
    "pretrain": StageEntry(
        "trainer.stages.pretrain:Pretraining", "a small GPT learns plain text from scratch",
        {"steps": 240, "generate_freq": 24, "seq_len": 160},
    ),
    "midtrain": StageEntry(
        "trainer.stages.midtrain:Midtraining", "it meets conversations and word problems",
        {"steps": 160},
    ),
    "sft": StageEntry(
        "trainer.stages.sft:FineTuning", "it learns to answer",
        {"steps": 180, "batch_size": 32, "learning_rate": 2e-3},
    ),
    "dpo": StageEntry(
        "trainer.stages.dpo:PreferenceTraining", "it learns which of two answers is better",
        {"steps": 60, "eval_iters": 8, "chosen_weight": 1.0},
    ),
    "ppo": StageEntry(
        "trainer.stages.ppo:PolicyTraining", "it learns from its own answers, right or wrong",
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
    """A stage's flags in a pipeline: those given for the pipeline or in the file's table of the stage, else
    ``in_pipeline``, else the stage's defaults. Raises UsageError."""
    kind, own = CONFIGS[name], config.of_stages.get(name, {})

    def given(origin: str) -> Layer:
        return origin, {n: getattr(config, n) for n, o in config.origins.items() if o == origin and n in kind.flags()}

    in_pipeline = STAGES[name].in_pipeline
    layers = [("pipeline", in_pipeline), given("file"), ("file", own), given("environment"), given("flag")]
    values, origins = merged(layers)
    if name == "pretrain" and "data" not in own and config.data and config.data != "hub":
        values["data"] = config.data if text_folder(Path(config.data)) else None
    values["run"] = f"{config.run}-{name}" if config.run and config.run != "dummy" else config.run or name
    values |= {"group": group, "run_id": None, "from_weight": None}
    stage = kind(**values, origins={"run": "pipeline", "group": "pipeline", **origins})
    check(stage)
    return stage
