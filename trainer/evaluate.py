"""How good is the model on text it has never seen: loss, perplexity, token accuracy, bits per byte.

Given: a model and batches. Hands on: val/* numbers, the same on every rank.
Never: moves a random number or leaves the model in another mode than it found it in.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.batch import IGNORE, Batch
from trainer.distributed import World
from trainer.precision import Autocast
from trainer.tokenizer import BOS


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; afterwards the model is as it was, also after an exception."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class TokenSums(NamedTuple):
    """Over targets that count."""

    loss: float
    """Nats."""
    hits: float
    """How many the model finds likeliest."""
    targets: float
    text_loss: float
    """Nats of those that are bytes of text, not special tokens."""
    text_bytes: float


def token_sums(logits: Tensor, targets: Tensor) -> Tensor:
    """The fields of TokenSums, (5,), on the device; logits (batch, time, vocabulary), targets (batch, time)."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="none")
    losses, counts, is_text = losses.view_as(targets), targets != IGNORE, (targets >= 0) & (targets < BOS)
    hits = (logits.argmax(dim=-1) == targets) & counts
    parts = (losses, hits, counts, torch.where(is_text, losses, 0.0), is_text)
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])


def evaluate(
    model: nn.Module, batches: Iterable[Batch], world: World, autocast: Autocast = nullcontext
) -> dict[str, float]:
    """Over all batches of all ranks; every token weighs the same. Empty if no target counts."""
    sums = torch.zeros(len(TokenSums._fields), dtype=torch.float64, device=world.device)
    with evaluation_mode(model):
        for batch in batches:
            with autocast():
                logits = model(batch.inputs)
            sums += token_sums(logits, batch.targets)
    return summary(TokenSums(*world.sum_over_ranks(*sums.tolist())))


def summary(sums: TokenSums) -> dict[str, float]:
    """Perplexity is exp(mean loss), not the mean of exponentials. Bits per byte are of the text alone, as in nanochat:
    special tokens count neither as bits nor as bytes."""
    if not sums.targets:
        return {}
    loss = sums.loss / sums.targets
    found = {
        "val/loss": loss,
        "val/perplexity": math.inf if loss > 700 else math.exp(loss),
        "val/accuracy": sums.hits / sums.targets,
    }
    if sums.text_bytes:
        found["val/bits_per_byte"] = sums.text_loss / sums.text_bytes / math.log(2)
    return found
