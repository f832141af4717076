"""All five stages, one after the other: each starts from the previous one's weights, all in one project and group.

    python -m trainer pipeline                                   a few minutes on two cores
    sidecar run -- python -m trainer pipeline --out runs/a       each stage a run of its own, side by side in every view
    python -m trainer pipeline --resume runs/a                   go on after the last stage that was finished

Given: a PipelineConfig. Hands on: five trained stages; with --out, their checkpoints in OUT/STAGE.
Never: lets a stage's own default win over a flag that was given: such a flag holds for all five.
"""

import dataclasses
import os
import time
import zlib
from pathlib import Path
from typing import Any

from trainer import checkpoint, tasks
from trainer.config import PipelineConfig
from trainer.console import Console
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.loop import train_stage
from trainer.stages import STAGES, pipeline_config
from trainer.weights import Weights, find_weights, weights_of


def run(config: PipelineConfig) -> None:
    began = time.perf_counter()
    found = _checkpoints(config.resume)
    # With --resume OUT the first start and every restart can be one command; any other folder must hold something.
    if config.resume not in (None, config.out) and not found:
        raise UserError(f"no stage has a checkpoint in {config.resume}", "give --resume the --out folder of a pipeline")
    group = config.group or f"pipeline-{_launch_number()}"
    configs: dict[str, Any] = {name: pipeline_config(config, name, group) for name in STAGES}
    for name, stage_config in configs.items():
        if name in tasks.RECIPES:
            tasks.check_files(name, stage_config.data, stage_config.data_config)
    with process_group(config.device, config.threads) as world:
        weights = find_weights(config)
        for name, stage_config in configs.items():
            if name in found and (finished := _finished(found[name], name)):
                weights = finished
                continue
            resume = str(found[name]) if name in found else None
            stage_config = dataclasses.replace(stage_config, resume=resume, out=stage_config.out or config.resume)
            weights = train_stage(name, stage_config, world, weights)
        done = f"pipeline: {len(STAGES)} stages in {time.perf_counter() - began:.0f} s, group {group}"
        Console.of(config, is_main=world.is_main).say(done)


def _checkpoints(folder: str | None) -> dict[str, Path]:
    """The newest checkpoint of each stage that has one."""
    if folder is None:
        return {}
    newest = {name: checkpoint.newest_in(Path(folder) / name) for name in STAGES}
    return {name: path for name, path in newest.items() if path is not None}


def _finished(path: Path, name: str) -> Weights | None:
    """The weights of a stage, if it has reached its last step."""
    state = checkpoint.load_file(path, "step", "total_steps", "model", "weights")
    with checkpoint.validating(path):
        return weights_of(state, path, name) if state["step"] >= state["total_steps"] else None


def _launch_number() -> str:
    """The same on all ranks. Decimal: a privacy gate would take a hexadecimal word for a secret key."""
    launch = os.environ.get("SIDECAR_LAUNCH_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if launch == "none":
        launch = os.environ.get("MASTER_PORT") or str(time.time())
    return f"{zlib.crc32(launch.encode()) % 1_000_000:06d}"
