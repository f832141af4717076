"""How good is the model on text it has never seen: loss, perplexity, token accuracy, bits per byte.

Given: a model and batches. Hands on: val/* numbers, the same on every rank.
Never: moves a random number or leaves the model in another mode than it found it in.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.batch import IGNORE, Batch
from trainer.distributed import World


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


def token_counts(logits: Tensor, targets: Tensor) -> tuple[float, int, int]:
    """(sum of losses in nats, targets hit by the likeliest token, targets that count); logits (batch, time, vocab)."""
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    counts = targets != IGNORE
    hits = (logits.argmax(dim=-1) == targets) & counts
    return loss.item(), int(hits.sum()), int(counts.sum())


def evaluate(
    model: nn.Module,
    next_batch: Callable[[], Batch],
    eval_iters: int,
    world: World,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, float]:
    """Exactly ``eval_iters`` batches per rank; every token weighs the same. Empty if no target counts."""
    loss_sum = hits = count = 0.0
    with evaluation_mode(model):
        for _ in range(eval_iters):
            batch = next_batch().to(world.device)
            with autocast():
                logits = model(batch.inputs)
            loss, right, counted = token_counts(logits, batch.targets)
            loss_sum, hits, count = loss_sum + loss, hits + right, count + counted
    loss_sum, hits, count = world.sum_over_ranks(loss_sum, hits, count)
    return summary(loss_sum, hits, count)


def summary(loss_sum: float, hits: float, count: float) -> dict[str, float]:
    """Perplexity is exp(mean loss), not the mean of exponentials. A token is a byte (special
    tokens count as one): bits per byte are loss / ln 2."""
    if not count:
        return {}
    loss = loss_sum / count
    return {
        "val/loss": loss,
        "val/perplexity": math.inf if loss > 700 else math.exp(loss),
        "val/accuracy": hits / count,
        "val/bits_per_byte": loss / math.log(2),
    }
