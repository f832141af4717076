"""Every flag of the trainer in one table: a frozen dataclass, its field names are the flags.

    python -m trainer pretrain --help
    python -m trainer pretrain --steps 1000 --learning_rate 6e-4 --data ./my_texts

Given: the words after the stage's name. Hands on: one frozen Config.
Never: reads the environment anywhere but in here, nor guesses at a misspelt flag.

``--batch_size`` and ``--batch-size`` are the same flag. A later stage derives its own Config and adds fields.
"""

import argparse
import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from trainer.errors import UserError

GENERATION_PROMPTS = ("To be or not to be", "Once upon a time", "In a galaxy far, far away")


def flag(default: Any, help: str, *also: str, group: str, env: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A field of Config that is also a flag. ``also``: other spellings; ``env``: a variable that sets the default."""
    metadata = {"help": help, "also": also, "group": group, "env": env, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What one run is made of. The defaults are a run of about 45 seconds on two CPU cores."""

    data: str | None = flag(None, "folder of text, or parquet with a column 'text' [standard library]", group="data")
    data_bytes: int = flag(4_000_000, "read at most this many bytes of text", group="data")
    val_fraction: float = flag(0.1, "share of the files held back for validation", group="data")

    n_layer: int = flag(4, "transformer blocks", group="model")
    n_head: int = flag(4, "attention heads", group="model")
    n_embd: int = flag(128, "width", group="model")
    seq_len: int = flag(128, "tokens of context", "block_size", group="model")
    dropout: float = flag(0.0, "dropout", group="model")
    tie_weights: bool = flag(False, "use one matrix for embedding and head", group="model")

    steps: int | None = flag(None, "optimizer steps [300, or what --epochs gives]", "max_iters", group="training")
    epochs: float | None = flag(None, "passes over the training text", group="training")
    batch_size: int = flag(16, "sequences per rank and micro-batch", group="training")
    grad_accum: int = flag(1, "micro-batches per step", group="training")
    learning_rate: float = flag(2e-3, "peak learning rate", group="training")
    min_lr: float = flag(0.1, "final learning rate, as a share of the peak", group="training")
    warmup: float = flag(0.1, "share of the steps spent warming up", group="training")
    weight_decay: float = flag(0.1, "on matrices only", group="training")
    grad_clip: float = flag(1.0, "largest gradient norm", group="training")
    seed: int = flag(1337, "of weights, data order and samples", group="training")

    log_train_freq: int = flag(10, "steps between console lines", group="cadence")
    eval_freq: int | None = flag(None, "steps between validations [500, sooner in a short run]", group="cadence")
    eval_iters: int | None = flag(None, "batches per validation [100, fewer in a short run]", group="cadence")
    generate_freq: int | None = flag(None, "steps between samples [1000, sooner in a short run]", group="cadence")

    device: str = flag("auto", "auto, cpu or cuda", group="machine", choices=("auto", "cpu", "cuda"))
    dtype: str = flag(
        "auto", "bfloat16 is autocast [on GPUs]", group="machine", choices=("auto", "float32", "bfloat16")
    )
    compile: bool = flag(False, "torch.compile the model", group="machine")
    threads: int | None = flag(None, "CPU threads per process [cores, at most 8]", group="machine")

    project: str = flag("bdh-training", "project in every outlet", "wandb_project", group="run", env="WANDB_PROJECT")
    run: str | None = flag(None, "name of the run", group="run")
    run_id: str | None = flag(None, "id of the run", group="run")
    wandb_entity: str | None = flag(None, "team in W&B", group="run", env="WANDB_ENTITY")
    out: str | None = flag(None, "folder for checkpoints; none are written without it", group="run")
    checkpoint_freq: int | None = flag(None, "steps between checkpoints [only at the end]", group="run")
    resume: str | None = flag(None, "continue from a checkpoint, or from the newest in a folder", group="run")
    quiet: bool = flag(False, "print nothing but the result", "q", group="run")
    verbose: bool = flag(False, "print a line for each step", "v", group="run")


C = TypeVar("C", bound=Config)


class _Parser(argparse.ArgumentParser):
    """argparse that raises UserError instead of printing its usage."""

    flags: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        raise UserError(message, f"{self.prog} --help lists the flags")


def parse(kind: type[C], stage: str, arguments: Sequence[str]) -> C:
    """Command line > environment > default. Raises UserError for anything that is not in the table."""
    parser = _Parser(prog=f"python -m trainer {stage}", allow_abbrev=False, formatter_class=_help_format)
    groups = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = field.metadata["group"]
        groups[name] = groups.get(name) or parser.add_argument_group(name)
        _add_flag(groups[name], field, hints[field.name])
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(unknown[0], kind, stage)
    config = kind(**vars(known))
    _check(config)
    return config


def _add_flag(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    meta = field.metadata
    spellings = dict.fromkeys(form for name in (field.name, *meta["also"]) for form in _spellings(name))
    kind = _plain_type(hint)
    default = os.environ.get(meta["env"]) or field.default
    if kind is bool:
        group.add_argument(*spellings, dest=field.name, action="store_true", help=meta["help"])
        return
    text = meta["help"] if default is None else f"{meta['help']} [{default}]"
    group.add_argument(
        *spellings, dest=field.name, type=kind, default=default, choices=meta["choices"] or None,
        metavar={int: "N", float: "X", str: "S"}[kind], help=text,
    )  # fmt: skip


def _spellings(name: str) -> tuple[str, ...]:
    return (f"-{name}",) if len(name) == 1 else (f"--{name}", f"--{name.replace('_', '-')}")


def _plain_type(hint: Any) -> Any:
    """``int | None`` -> int."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _help_format(prog: str) -> argparse.HelpFormatter:
    return _OneLinePerFlag(prog, max_help_position=26, width=110)


class _OneLinePerFlag(argparse.HelpFormatter):
    """Shows each flag under its own name only, and no usage paragraph that repeats them all."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        name = action.option_strings[0]
        return name if action.nargs == 0 else f"{name} {action.metavar}"

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        super().add_usage(f"{self._prog} [flags]", actions, groups, prefix)


def _refuse(word: str, kind: type[Config], stage: str) -> NoReturn:
    names = [name for field in dataclasses.fields(kind) for name in (field.name, *field.metadata["also"])]
    close = difflib.get_close_matches(word.lstrip("-").split("=")[0].replace("-", "_"), names, n=1)
    remedy = f"did you mean --{close[0]}?" if close else f"python -m trainer {stage} --help lists the flags"
    raise UserError(f"unknown flag {word!r}", remedy)


POSITIVE = (
    "data_bytes", "n_layer", "n_head", "n_embd", "seq_len", "steps", "epochs", "batch_size", "grad_accum",
    "learning_rate", "log_train_freq", "eval_freq", "eval_iters", "generate_freq", "threads", "checkpoint_freq",
    "grad_clip",
)  # fmt: skip


def _check(config: Config) -> None:
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise UserError(
                f"--{name} is {value}, which is not above zero", f"leave --{name} out, or give it a positive number"
            )
    if config.n_embd % (2 * config.n_head):
        raise UserError(
            f"--n_embd {config.n_embd} does not give {config.n_head} heads of an even size",
            "make --n_embd a multiple of twice --n_head",
        )
    if not 0 < config.val_fraction < 1:
        raise UserError(
            f"--val_fraction is {config.val_fraction}, which is not between 0 and 1", "leave it out, or try 0.1"
        )
    if config.checkpoint_freq and not config.out:
        raise UserError("--checkpoint_freq needs a folder to write to", "add --out FOLDER")
