"""What the model says: text from fixed prompts, and numbers that show when it only stammers.

Given: a model, prompts, a seed. Hands on: prompt -> continuation, and samples/* scores.
Never: touches the global random numbers: each prompt draws from a generator of its own, so a run with samples
and one without see the same loss, bit by bit.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.chat import render_prompt, reply_of
from trainer.evaluate import evaluation_mode
from trainer.model import GPT
from trainer.policy import respond
from trainer.tasks.example import Message
from trainer.tokenizer import ByteTokenizer

TEMPERATURE = 0.8


def continue_tokens(
    model: GPT, prompt: Sequence[int], max_tokens: int, *, seed: int, temperature: float = TEMPERATURE
) -> list[int]:
    """``max_tokens`` tokens that follow ``prompt``; at temperature 0 the most likely ones."""
    device = model.head.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.tensor([list(prompt)], device=device)
    for _ in range(max_tokens):
        logits = model(tokens[:, -model.config.seq_len :])[0, -1].float()
        tokens = torch.cat((tokens, _pick(logits, temperature, generator).view(1, 1)), dim=1)
    return tokens[0, len(prompt) :].tolist()


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax()
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)


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
        replies = respond(model, asked, max_tokens, seed=seed, temperature=temperature)
    return {prompt: f"{prompt}\n{reply_of(reply)}" for prompt, reply in zip(prompts, replies, strict=True)}


def sample_names(prompts: Sequence[str]) -> dict[str, str]:
    """Prompt -> "sample/" and its first 30 characters, numbered where two prompts begin alike."""
    names: dict[str, str] = {}
    for prompt in prompts:
        name = f"sample/{prompt[:30]}"
        same = sum(other == name or other.startswith(f"{name} (") for other in names.values())
        names[prompt] = f"{name} ({same + 1})" if same else name
    return names


def scores(continuations: Sequence[str]) -> dict[str, float]:
    """Means over the texts: length in characters, share of different word pairs, share of characters that only repeat,
    bits per character.

    A model that degenerates ("the the the ...") shows as distinct_2 falling to 0 and repetition rising to 1.
    """
    if not continuations:
        return {}
    count = len(continuations)
    return {
        "samples/length": sum(map(len, continuations)) / count,
        "samples/distinct_2": sum(map(distinct_2, continuations)) / count,
        "samples/repetition": sum(map(repetition, continuations)) / count,
        "samples/entropy": sum(map(entropy, continuations)) / count,
    }


def distinct_2(text: str) -> float:
    """Different pairs of neighbouring words over all pairs (Li et al. 2016); 1 for a text of less than two words."""
    words = text.split()
    pairs = list(zip(words, words[1:], strict=False))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def entropy(text: str) -> float:
    """Bits per character if characters were drawn one by one; 0 for a text of one kind of character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values()) if text else 0.0


def repetition(text: str, size: int = 8) -> float:
    """Share of the 8-character pieces that occurred before in the text; 0 for one shorter than that."""
    pieces = [text[i : i + size] for i in range(len(text) - size + 1)]
    return 1.0 - len(set(pieces)) / len(pieces) if pieces else 0.0
