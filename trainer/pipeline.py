"""All five stages, one after the other: each starts from the previous one's weights, all in one project and group.

    python -m trainer pipeline                                   a few minutes on two cores
    sidecar run -- python -m trainer pipeline --out runs/a       each stage a run of its own, side by side in every view
    python -m trainer pipeline --out runs/a --resume runs/a      go on after the last stage that was finished

Given: a PipelineConfig. Hands on: five trained stages; with --out, their checkpoints in OUT/STAGE.
Never: lets a stage's own default win over a flag that was given: such a flag holds for all five.
"""

import dataclasses
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.config import Config, PipelineConfig
from trainer.distributed import World, world
from trainer.errors import UserError
from trainer.run import train_stage
from trainer.stages import STAGES, load_stage
from trainer.weights import Weights, find_weights

TEXT_FOLDERS = ("fineweb-edu", "fineweb_edu", "text")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "pretrain": {"steps": 240, "generate_freq": 24, "seq_len": 160},
    "midtrain": {"steps": 160},
    "sft": {"steps": 180, "batch_size": 32, "learning_rate": 2e-3},
    "dpo": {"steps": 60, "eval_iters": 8, "chosen_weight": 1.0},
    "ppo": {
        "steps": 180, "batch_size": 64, "learning_rate": 3e-4, "max_reply": 16, "weight_decay": 0.0,
        "value_weight": 0.1,
    },
}  # fmt: skip
"""Where a pipeline of minutes differs from the defaults of the stages run alone."""


def run(config: PipelineConfig) -> None:
    began = time.perf_counter()
    with world(config.device, config.threads) as here:
        weights = find_weights(config)
        group = config.group or f"pipeline-{_launch_number()}"
        for name in STAGES:
            finished = _finished(config.resume, name)
            if finished is not None:
                weights = finished
                continue
            stage_config = dataclasses.replace(config_of(config, name, group), resume=_begun(config.resume, name))
            weights = train_stage(load_stage(name), stage_config, here, weights)
        _say(config, here, f"pipeline: {len(STAGES)} stages in {time.perf_counter() - began:.0f} s, group {group}")


def config_of(config: PipelineConfig, name: str, group: str) -> Config:
    """The stage's own flags: those given for the pipeline, else SETTINGS, else the stage's defaults."""
    kind = STAGES[name].config
    own = {field.name for field in dataclasses.fields(kind) if field.metadata}
    given = {key: getattr(config, key) for key in config.origins if key in own}
    if name == "pretrain" and config.data and config.data != "hub":
        given["data"] = _text_in(Path(config.data).expanduser())
    label = f"{config.run}-{name}" if config.run and config.run != "dummy" else config.run or name
    fixed = {"group": group, "run": label, "run_id": None, "from_weight": None}
    return kind(**{**SETTINGS[name], **given, **fixed}, origins=config.origins)


def _text_in(folder: Path) -> str | None:
    """With --data FOLDER the first stage reads FOLDER/fineweb-edu (or /text), where there is one."""
    return next((str(folder / name) for name in TEXT_FOLDERS if (folder / name).is_dir()), None)


def _finished(folder: str | None, name: str) -> Weights | None:
    """The weights of a stage that has reached its last step."""
    state = _newest(folder, name)
    if state is None or state["step"] < state["total_steps"]:
        return None
    return Weights(name, state["model"], state["weights"])


def _begun(folder: str | None, name: str) -> str | None:
    return folder if folder and _newest(folder, name) is not None else None


def _newest(folder: str | None, name: str) -> dict[str, Any] | None:
    if not folder:
        return None
    try:
        path = checkpoint.newest(os.path.join(folder, name), name)
    except UserError:
        return None  # This stage has not written one yet.
    return checkpoint.load_file(path)


def _launch_number() -> str:
    """The same on all ranks. Decimal: a privacy gate would take a hexadecimal word for a secret key."""
    launch = os.environ.get("SIDECAR_LAUNCH_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if launch == "none":
        launch = os.environ.get("MASTER_PORT") or str(time.time())
    return f"{zlib.crc32(launch.encode()) % 1_000_000:06d}"


def _say(config: Config, here: World, text: str) -> None:
    if here.is_main and not config.quiet:
        print(text, flush=True)
