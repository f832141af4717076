"""Is the answer right? Multiple choice by likelihood, word problems by exact match, programs by running their tests.

Given: a model and examples with known answers. Hands on: eval/NAME_acc, how far above chance, and the mean: the numbers
that the sidecar's 3D views are drawn from. Every rank judges its share; the result is the same on all of them.
Never: moves a random number, or runs what a model wrote without being asked to (``allow_code``).
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch

from trainer import chat, sandbox
from trainer.distributed import World
from trainer.evaluate import evaluation_mode
from trainer.model import GPT
from trainer.policy import respond
from trainer.tasks.example import Example
from trainer.tasks.formats import is_right
from trainer.tokenizer import PAD

CHUNK = 64
REPLY_TOKENS = 96
PROGRAM_TOKENS = 200


def judge(
    model: GPT,
    tasks: Mapping[str, Sequence[Example]],
    world: World,
    *,
    most: int,
    seed: int = 0,
    allow_code: bool = False,
    samples: int = 4,
    reply_tokens: int = REPLY_TOKENS,
) -> dict[str, float]:
    """Accuracy on the first ``most`` examples of each task that has answers; of programs, only with ``allow_code``,
    pass@1 and pass@``samples``."""
    numbers: dict[str, float] = {}
    accuracies, normalised = [], []
    with evaluation_mode(model):
        for name, examples in tasks.items():
            examples = [e for e in examples[:most] if e.answer or e.tests]
            if not examples or (examples[0].tests and not allow_code):
                continue
            mine = examples[world.rank :: world.size]
            right, chance, in_some = _rights(model, mine, seed + world.rank, samples, reply_tokens)
            right, chance, in_some, count = world.sums(right, chance, in_some, len(mine))
            accuracy, guessed = right / count, chance / count
            key = f"eval/{slug(name)}_acc"
            numbers[key] = accuracy
            numbers[f"{key}_normalized"] = (accuracy - guessed) / (1.0 - guessed)
            if examples[0].tests:
                numbers[f"eval/{slug(name)}_pass_at_{samples}"] = in_some / count
            accuracies.append(accuracy)
            normalised.append(numbers[f"{key}_normalized"])
    if accuracies:
        numbers["eval/mean_acc"] = sum(accuracies) / len(accuracies)
        numbers["eval/mean_acc_normalized"] = sum(normalised) / len(normalised)
    return numbers


def slug(name: str) -> str:
    """ARC-Easy -> arc_easy."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _rights(
    model: GPT, examples: Sequence[Example], seed: int, samples: int, reply_tokens: int
) -> tuple[float, float, float]:
    """(how many are right, how many guessing would get right, how many one of ``samples`` programs gets right), for
    examples of one kind."""
    if not examples:
        return 0.0, 0.0, 0.0
    if examples[0].tests:
        passed = [programs_passed(model, example, samples, seed) for example in examples]
        once, at_all = (sum(estimate_pass_at_k(samples, count, k) for count in passed) for k in (1, samples))
        return once, 0.0, at_all
    if examples[0].letters:
        chance = sum(1.0 / len(example.letters) for example in examples)
        return float(sum(choices_right(model, examples))), chance, 0.0
    return float(sum(matches(model, examples, seed, reply_tokens))), 0.0, 0.0


@torch.no_grad()
def choices_right(model: GPT, examples: Sequence[Example]) -> list[bool]:
    """Which of the letters does the model find likeliest as the reply's first token? One forward pass a chunk."""
    right = []
    device = model.head.weight.device
    for first in range(0, len(examples), CHUNK):
        chunk = examples[first : first + CHUNK]
        prompts = [_fitting(chat.render_prompt(example.prompt), model, 0) for example in chunk]
        width = max(map(len, prompts))
        tokens = torch.tensor([[*prompt, *[PAD] * (width - len(prompt))] for prompt in prompts], device=device)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        rows = torch.arange(len(chunk), device=device)
        logits = model.head(model.features(tokens)[rows, last]).float().cpu()
        for example, row in zip(chunk, logits, strict=True):
            right.append(max(example.letters, key=lambda letter: row[ord(letter[0])].item()) == example.answer)
    return right


def matches(model: GPT, examples: Sequence[Example], seed: int, reply_tokens: int = REPLY_TOKENS) -> list[bool]:
    """Is the number behind #### in the likeliest reply the right one?"""
    right = []
    for first in range(0, len(examples), CHUNK):
        chunk = examples[first : first + CHUNK]
        prompts = [_fitting(chat.render_prompt(example.prompt), model, reply_tokens) for example in chunk]
        replies = respond(model, prompts, reply_tokens, seed=seed, temperature=0)
        right += [is_right(e, chat.reply_of(reply)) for e, reply in zip(chunk, replies, strict=True)]
    return right


def programs_passed(model: GPT, example: Example, samples: int, seed: int) -> int:
    """Of ``samples`` programs that the model writes, how many pass the example's tests."""
    prompt = _fitting(chat.render_prompt(example.prompt), model, PROGRAM_TOKENS)
    replies = respond(model, [prompt] * samples, PROGRAM_TOKENS, seed=seed, temperature=0.8)
    question = example.prompt[-1].content
    return sum(sandbox.passes(f"{question}{chat.reply_of(reply)}\n{example.tests}\n") for reply in replies)


def estimate_pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that one of ``k`` programs passes: 1 - C(n - c, k) / C(n, k); Chen et al. 2021, equation 1."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def _fitting(prompt: list[int], model: GPT, room: int) -> list[int]:
    """The end of the prompt is the question: cut at the front, and leave room for the reply."""
    return prompt[-max(1, model.config.seq_len - min(room, model.config.seq_len // 2)) :]
