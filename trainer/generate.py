"""Text from the model: continuations of prompts, and replies to them.

Given: a model, prompts, a seed. Hands on: tokens, or texts by prompt.
Never: touches the global random numbers. Everything here draws from generators of its own, so a run with samples and
one without see the same loss, bit by bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.chat import render_prompt, reply_of
from trainer.evaluate import evaluation_mode
from trainer.model import GPT, KVCache
from trainer.tasks.example import Message
from trainer.tokenizer import ASSISTANT_END, PAD, ByteTokenizer

TEMPERATURE = 0.8


def continue_tokens(
    model: GPT, prompt: Sequence[int], max_tokens: int, *, seed: int, temperature: float = TEMPERATURE
) -> list[int]:
    """``max_tokens`` tokens that follow ``prompt``. When the context is full, its end (half or more) is read again."""
    added: list[int] = []
    while len(added) < max_tokens:
        context, left = [*prompt, *added], max_tokens - len(added)
        [more] = generate_replies(model, [context], left, seed=seed + len(added), temperature=temperature, end=None)
        if not more:
            break  # A context of one token has no room for another.
        added += more
    return added


@torch.no_grad()
def generate_replies(
    model: GPT, prompts: Sequence[Sequence[int]], max_tokens: int, *, seed: int = 0, temperature: float = 1.0,
    end: int | None = ASSISTANT_END,
) -> list[list[int]]:  # fmt: skip
    """A reply to each prompt, up to and with the token ``end`` if it comes to that; greedy at temperature 0.

    All prompts go through the model together, padded on the right, where causal attention never looks; after that one
    token per reply at a time, with a KV cache. A prompt that leaves no room for a reply is cut at its front.
    """
    prompts = [fit_prompt(prompt, model, max_tokens) for prompt in prompts]
    device = model.head.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    limit = min(model.config.seq_len, longest + max_tokens)
    tokens = torch.full((len(prompts), limit), PAD)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    tokens, rows = tokens.to(device), torch.arange(len(prompts), device=device)
    cache = KVCache(len(prompts), limit, device)
    features = model.features(tokens[:, :longest], cache)[rows, lengths - 1]
    ends, running = lengths.clone(), torch.ones_like(lengths, dtype=torch.bool)
    for _ in range(max_tokens):
        next_tokens = _pick(model.head(features).float(), temperature, generator)
        running = running & (ends < limit)
        tokens[rows[running], ends[running]] = next_tokens[running]
        cache.move_to(ends.clamp(max=limit - 1))  # Finished rows still run; their output is ignored.
        ends = ends + running.long()
        running = running if end is None else running & (next_tokens != end)
        if not running.any():
            break
        features = model.features(next_tokens[:, None], cache)[:, 0]
    return [tokens[row, lengths[row] : ends[row]].tolist() for row in range(len(prompts))]


def fit_prompt(prompt: Sequence[int], model: GPT, room: int) -> Sequence[int]:
    """The end of the prompt, where the question is, with room for a reply: at most half of the context."""
    return prompt[-max(1, model.config.seq_len - min(room, model.config.seq_len // 2)) :]


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """The next token for logits of shape (..., vocabulary); any token, if a diverged model gives NaN."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = torch.nan_to_num(logits)
    logits = logits - logits.amax(-1, keepdim=True)  # Before the division: a tiny temperature must not make infinities.
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator).squeeze(-1)


def generate_samples(
    model: GPT, prompts: Sequence[str], *, max_tokens: int = 100, seed: int = 0, temperature: float = TEMPERATURE,
    chat: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Prompt -> the prompt and what the model adds; with ``chat``, what the assistant answers, after a line break."""
    if chat:
        return _answers(model, prompts, max_tokens, seed, temperature)
    tokenizer = ByteTokenizer()
    samples = {}
    with evaluation_mode(model):
        for number, prompt in enumerate(prompts):
            start = [tokenizer.bos, *tokenizer.encode(prompt)]
            samples[prompt] = prompt + tokenizer.decode(
                continue_tokens(model, start, max_tokens, seed=seed + number, temperature=temperature)
            )
    return samples


def _answers(model: GPT, prompts: Sequence[str], max_tokens: int, seed: int, temperature: float) -> dict[str, str]:
    asked = [render_prompt([Message("user", prompt)]) for prompt in prompts]
    with evaluation_mode(model):
        replies = generate_replies(model, asked, max_tokens, seed=seed, temperature=temperature)
    return {prompt: f"{prompt}\n{reply_of(reply)}" for prompt, reply in zip(prompts, replies, strict=True)}


def sample_names(prompts: Sequence[str]) -> dict[str, str]:
    """Prompt -> "sample/" and its first 30 characters in one line, numbered where two prompts begin alike."""
    names: dict[str, str] = {}
    for prompt in prompts:
        name = "sample/" + "".join(c if c.isprintable() else " " for c in prompt[:30])
        same = sum(other == name or other.startswith(f"{name} (") for other in names.values())
        names[prompt] = f"{name} ({same + 1})" if same else name
    return names
