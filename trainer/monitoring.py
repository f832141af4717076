"""What the sidecar is told before the first step. The only file that calls ``sidecar.init``.

Given: a stage's name, its model and the flags. Hands on: a ``sidecar.Run``.
"""

import dataclasses
from typing import Any

import torch

import sidecar
from trainer.config import Config
from trainer.distributed import World
from trainer.flops import cpu_name, flops_per_token, measured_peak_flops
from trainer.model import GPT
from trainer.precision import product_dtype
from trainer.run_history import RunHistory
from trainer.schedule import Schedule


def model_facts(model: GPT, config: Config, world: World, dtype: torch.dtype) -> dict[str, Any]:
    """What the sidecar needs for MFU. On a CPU the peak FLOP/s are measured; for GPUs the sidecar has a table."""
    facts = {
        "flops_per_token": flops_per_token(model),
        "params": model.params(),
        "trainable_params": model.trainable_params(),
        "layers": model.config.n_layer,
        "heads": model.config.n_head,
        "head_dim": model.config.head_dim,
        "seq_len": model.config.seq_len,
        "dtype": product_dtype(dtype, world.device),
    }
    if world.device.type == "cuda":
        return {**facts, "device_name": torch.cuda.get_device_name(world.device)}
    rows = config.batch_size * model.config.seq_len
    peak = measured_peak_flops(rows, model.config.n_embd, dtype)
    return {**facts, "device_name": cpu_name(), "peak_flops": peak, "peak_source": "measured"}


def run_config(model: GPT, config: Config, schedule: Schedule, world: World) -> dict[str, Any]:
    """The flags, and the same under names that dashboards look for: ``model/*``, ``hyperparams/*``, ``max_iters``."""
    flags = dataclasses.asdict(config)
    return {
        **{name: value for name, value in flags.items() if value is not None and name != "origins"},
        **dataclasses.asdict(schedule),
        "max_iters": schedule.total_steps,
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "model/name": "gpt",
        "model/total_params": model.params(),
        "model/trainable_params": model.trainable_params(),
        "model/trainable_percent": 100 * model.trainable_params() / model.params(),
        **{f"model/{name}": value for name, value in dataclasses.asdict(model.config).items()},
        "hyperparams/batch_size": config.batch_size,
        "hyperparams/learning_rate": config.learning_rate,
        "hyperparams/max_length": model.config.seq_len,
        "hyperparams/grad_accum": config.grad_accum,
        "hyperparams/weight_decay": config.weight_decay,
        "hyperparams/total_steps": schedule.total_steps,
    }


def init_run(
    stage: str, config: Config, facts: dict[str, Any], settings: dict[str, Any], total_steps: int, run_id: str | None,
    history: RunHistory,
) -> sidecar.Run:  # fmt: skip
    """Open the run. ``run_id`` is that of the checkpoint it resumes from, so that its curves go on."""
    return sidecar.init(
        project=config.project,
        name=history.name_of(config.run),
        stage=stage,
        config=settings,
        total_steps=total_steps,
        model_facts=facts,
        run_id=config.run_id or run_id,
        group=config.group,
        entity=config.wandb_entity,
        sinks=requested_sinks(config),
    )


def requested_sinks(config: Config) -> list[str] | None:
    """The sinks that this run asks the sidecar for. None leaves the choice to the sidecar's own settings, so that a
    default of the trainer never overrides ``sidecar run --sink tensorboard``. Likewise only a --log_train_freq that the
    user chose thins what sinks get (``wandb:10``)."""
    asked = config.log_backend.split(",") if config.is_chosen("log_backend") else []
    if config.use_wandb:
        asked = [*(word for word in asked if word not in ("wandb", "none")), "wandb"]
    if config.run == "dummy" or not config.enable_wandb:
        asked = [word for word in asked if word != "wandb"] or ["dummy"]
    if config.is_chosen("log_train_freq"):
        asked = [word if word == "none" else f"{word}:{config.log_train_freq}" for word in asked or ["configured"]]
    return asked or None


def remarks(config: Config) -> tuple[str, ...]:
    """A line for the console if this run is kept off W&B."""
    if config.run == "dummy":
        return ("W&B is off: --run dummy",)
    return () if config.enable_wandb else ("W&B is off: --no-enable_wandb, or ENABLE_WANDB=0",)
