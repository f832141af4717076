"""Functions on a model, as BDH training scripts import them: ``evaluate``, ``get_grad_norm``, ``generate_samples``.

Given: a model and data. Hands on: numbers and texts. Never: leaves the model in another mode than it found it in, moves
the random numbers of training, or reads a device once per parameter or batch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sidecar.client.compat_rows import exp
from sidecar.client.compat_weights import norm_of

IGNORED = (-100,)
PROMPT_CHARS = 30


def get_grad_norm(model: Any) -> float:
    """Global L2 norm of the gradients; parameters without one are skipped; 0.0 when there is none.

    Reads the device once. Sharded gradients (DTensor) are summed over their shards: all ranks have to call it.
    Under a GradScaler call it after ``unscale_``, or it is the scaled norm.
    """
    import torch

    norms = []
    for parameter in model.parameters():
        gradient = parameter.grad
        if gradient is not None:
            norms.append(norm_of(gradient))
    if not norms:
        return 0.0
    device = norms[0].device
    return float(torch.linalg.vector_norm(torch.stack([norm.to(device, non_blocking=True) for norm in norms])))


def evaluate(
    model: Any,
    data_loader: Any,
    eval_iters: int = 100,
    *,
    batch_size: int | None = None,
    ctx: AbstractContextManager[Any] | Callable[[], AbstractContextManager[Any]] | None = None,
    device: Any = None,
) -> dict[str, float]:
    """val/loss (mean over batches), val/perplexity (exp of that) and val/accuracy (top-1, over tokens that count).

    ``data_loader`` has ``get_batch("val", batch_size)`` or yields (inputs, targets). The model returns (logits, loss)
    or an object with both. Targets of -100 are ignored. Empty when there is no batch. Without gradients; the mode is
    restored, of every module, also after an exception.
    """
    import torch

    batches = _batches(data_loader, eval_iters, batch_size)
    losses, hits, counts = [], [], []
    with _evaluating(model), torch.no_grad():
        for inputs, targets in batches:
            if device is not None:
                inputs, targets = inputs.to(device), targets.to(device)
            with ctx() if callable(ctx) else ctx or nullcontext():
                out = model(inputs, targets)
            logits, loss = (out.logits, out.loss) if hasattr(out, "logits") else (out[0], out[1])
            counted = torch.ones_like(targets, dtype=torch.bool)
            for ignored in IGNORED:
                counted &= targets != ignored
            losses.append(loss.detach().float().mean())
            hits.append(((logits.argmax(dim=-1) == targets) & counted).sum())
            counts.append(counted.sum())
    if not losses:
        return {}
    loss = float(torch.stack(losses).double().mean())
    right, total = int(torch.stack(hits).sum()), int(torch.stack(counts).sum())
    found = {"val/loss": loss, "val/perplexity": exp(loss)}
    if total:
        found["val/accuracy"] = right / total
    return found


def generate_samples(
    model: Any, prompts: Sequence[str], tokenizer: Any = None, max_tokens: int = 100, **gen_kwargs: Any
) -> dict[str, str]:
    """Prompt -> text. Bytes when ``tokenizer`` is None. ``gen_kwargs`` go to ``model.generate``.

    A number in the tokenizer's place is ``max_tokens``: ``generate_samples(model, prompts, 100)``.

    The random numbers of training do not move: their state is put back afterwards, so losses are the same with and
    without samples. ``sample_name(prompt)`` is the name to log a text under.
    """
    import torch

    if isinstance(tokenizer, int):
        tokenizer, max_tokens = None, tokenizer
    device = next(iter(model.parameters())).device
    samples = {}
    with _evaluating(model), torch.no_grad(), torch.random.fork_rng(_devices(device)):
        for prompt in prompts:
            ids = list(prompt.encode()) if tokenizer is None else tokenizer.encode(prompt)
            given = torch.tensor(ids, dtype=torch.long, device=device).unsqueeze(0)
            output = model.generate(given, max_new_tokens=max_tokens, **gen_kwargs)[0].tolist()
            if tokenizer is None:
                samples[prompt] = bytes(byte & 0xFF for byte in output).decode(errors="backslashreplace")
            else:
                samples[prompt] = tokenizer.decode(output)
    return samples


def sample_name(prompt: str) -> str:
    """``sample/<the first 30 characters>``; when there are more, with six characters of a hash, to stay unique."""
    if len(prompt) <= PROMPT_CHARS:
        return f"sample/{prompt}"
    digest = hashlib.blake2s(prompt.encode(errors="replace"), digest_size=3).hexdigest()
    return f"sample/{prompt[:PROMPT_CHARS]}-{digest}"


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    found = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(found[0][1])  # First by the model's own method: adapters merge and unmerge their weights there.
        for module, training in found:  # Then one by one: a part may have been frozen in evaluation mode.
            module.training = training


def _batches(data_loader: Any, eval_iters: int, batch_size: int | None) -> Iterator[tuple[Any, Any]]:
    """Exactly ``eval_iters`` of them, or as many as there are."""
    if hasattr(data_loader, "get_batch"):
        for _ in range(eval_iters):
            yield data_loader.get_batch("val") if batch_size is None else data_loader.get_batch("val", batch_size)
        return
    for index, batch in enumerate(data_loader):
        if index >= eval_iters:
            return
        yield batch[0], batch[1]


def _devices(device: Any) -> list[Any]:
    return [device] if device.type == "cuda" else []
