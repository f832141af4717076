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
from typing import Any

from trainer import checkpoint
from trainer.config import Config, PipelineConfig
from trainer.distributed import World, process_group
from trainer.errors import UserError
from trainer.run import train_stage
from trainer.stages import STAGES, load_stage, pipeline_config
from trainer.weights import Weights, find_weights


def run(config: PipelineConfig) -> None:
    began = time.perf_counter()
    # With --resume OUT the first start and every restart can be one command; any other folder must hold something.
    if config.resume not in (None, config.out) and not any(_newest(config.resume, name) for name in STAGES):
        raise UserError(f"no stage has a checkpoint in {config.resume}", "give --resume the --out folder of a pipeline")
    with process_group(config.device, config.threads) as world:
        weights = find_weights(config)
        group = config.group or f"pipeline-{_launch_number()}"
        for name in STAGES:
            finished = _finished(config.resume, name)
            if finished is not None:
                weights = finished
                continue
            stage_config = dataclasses.replace(pipeline_config(config, name, group), resume=_begun(config.resume, name))
            weights = train_stage(load_stage(name), stage_config, world, weights)
        _say(config, world, f"pipeline: {len(STAGES)} stages in {time.perf_counter() - began:.0f} s, group {group}")


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
    return checkpoint.load_file(path, "step", "total_steps", "model", "weights")


def _launch_number() -> str:
    """The same on all ranks. Decimal: a privacy gate would take a hexadecimal word for a secret key."""
    launch = os.environ.get("SIDECAR_LAUNCH_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if launch == "none":
        launch = os.environ.get("MASTER_PORT") or str(time.time())
    return f"{zlib.crc32(launch.encode()) % 1_000_000:06d}"


def _say(config: Config, world: World, text: str) -> None:
    if world.is_main and not config.quiet:
        print(text, flush=True)
