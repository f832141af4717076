"""Weights to start from: those of the previous stage, or of any checkpoint.

    python -m trainer sft --out runs/a --from_weight midtrain        the newest in runs/a/midtrain
    python -m trainer sft --from_weight somewhere/checkpoint_000300.pt

Given: the flags. Hands on: Weights, and the flags made to fit them.
Never: builds a model whose shape or tokenizer differs from its weights'.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import torch
from torch import Tensor

from trainer import checkpoint
from trainer.config import Config
from trainer.errors import UserError
from trainer.model import GPT, ModelConfig
from trainer.stages import STAGES
from trainer.tokenizer import IDENTITY, VOCAB_SIZE

SHAPE = ("n_layer", "n_head", "n_embd", "tie_weights")
"""Decided by the weights: a flag may repeat it, but not contradict it."""
DEFAULT_FOLDER = "runs"
C = TypeVar("C", bound=Config)


class Weights(NamedTuple):
    origin: str  # A stage or a path, for messages.
    config: ModelConfig
    tensors: dict[str, Tensor]


def find_weights(config: Config) -> Weights | None:
    """What --from_weight names; None without it. Raises UserError: missing, unreadable, of another tokenizer."""
    name = config.from_weight
    if not name:
        return None
    path = Path(config.out or DEFAULT_FOLDER) / name if name in STAGES else Path(name)
    newest = checkpoint.newest_in(path) if path.is_dir() else path
    if newest is None or not newest.is_file():
        remedy = f"train that stage first: python -m trainer {name} --out {config.out or DEFAULT_FOLDER}"
        raise UserError(
            f"no weights at {path}",
            remedy if name in STAGES else f"give a checkpoint_*.pt, or one of {', '.join(STAGES)}",
        )
    return weights_of(checkpoint.load_file(newest, "model", "weights"), newest, name)


def weights_of(state: dict[str, Any], path: Path, origin: str) -> Weights:
    """The weights in a checkpoint. Raises UserError: another tokenizer, or not the shape that the checkpoint says."""
    if state.get("tokenizer") != IDENTITY:
        raise UserError(
            f"{path} was trained with the tokenizer {state.get('tokenizer')!r}, this trainer has {IDENTITY!r}",
            "start from weights that this trainer made",
        )
    with checkpoint.validating(path):
        config = msgspec.convert(state["model"], ModelConfig)
        if missing := [field.name for field in dataclasses.fields(config) if field.name not in state["model"]]:
            raise ValueError(f"no {missing[0]!r} in 'model'")
        with torch.device("meta"):  # Shapes alone: no memory, no random numbers.
            shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in state["weights"].items()}:
            raise ValueError("the weights are not those of this model")
    return Weights(origin, config, state["weights"])


def config_for(config: C, weights: Weights | None) -> C:
    """The flags with the weights' shape. Raises UserError if a flag that was given contradicts it."""
    if weights is None:
        return config
    taken = {name: getattr(weights.config, name) for name in SHAPE}
    for name, value in taken.items():
        if config.is_chosen(name) and getattr(config, name) != value:
            raise UserError(
                f"--{name} {getattr(config, name)} does not fit the weights of {weights.origin}, which have {value}",
                f"leave --{name} out, or start from other weights",
            )
    if not config.is_chosen("seq_len"):  # Rotary positions have no weights: a longer context loads, too.
        taken["seq_len"] = max(config.seq_len, weights.config.seq_len)
    return dataclasses.replace(config, **taken)


def build_model(config: Config, weights: Weights | None) -> GPT:
    """A new model, or one with the given weights. Raises UserError if they do not fit it."""
    names = {field.name for field in dataclasses.fields(ModelConfig)} - {"vocab_size"}
    shape = {name: getattr(config, name) for name in names}
    model = GPT(ModelConfig(vocab_size=VOCAB_SIZE, **shape))
    if weights is not None:
        try:
            model.load_state_dict(weights.tensors)
        except RuntimeError as error:
            raise UserError(
                f"the weights of {weights.origin} are not those of this model", "start from other weights"
            ) from error
    return model
