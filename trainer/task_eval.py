"""Accuracy on tasks: multiple choice by likelihood, word problems by exact match, programs by running their tests.

Given: a model and examples with known answers. Hands on: eval/NAME_acc, the same normalised to 0 at chance, and means.
(Normalised as DCLM's and nanochat's CORE. lm-eval's acc_norm is for answers of different lengths; letters have one.)
Every rank evaluates its share; the result is the same on all of them.
Never: touches the global random numbers, or runs what a model wrote without being asked to (``allow_code``).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from trainer import chat, sandbox
from trainer.distributed import World
from trainer.evaluate import evaluation_mode
from trainer.generate import fit_prompt, generate_replies
from trainer.model import GPT
from trainer.tasks.example import Example
from trainer.tasks.formats import is_correct
from trainer.tokenizer import PAD

CHUNK = 64
CODE_BLOCK = re.compile(r"```[a-z]*[ \t]*\n(.*?)(?:```|$)", re.DOTALL)


def evaluate_tasks(
    model: GPT,
    tasks: Mapping[str, Sequence[Example]],
    world: World,
    *,
    max_examples: int,
    seed: int = 0,
    allow_code: bool = False,
    pass_k_samples: int = 4,
    reply_tokens: int | None = None,
) -> dict[str, float]:
    """Accuracy on at most ``max_examples`` examples of each task that has answers; for programs, and only with
    ``allow_code``, pass@1 and pass@``pass_k_samples``. Replies may have ``reply_tokens``; None: half of the context."""
    reply_tokens = reply_tokens or max(1, model.config.seq_len // 2)
    numbers: dict[str, float] = {}
    accuracies, normalized = [], []
    with evaluation_mode(model):
        for name, examples in tasks.items():
            examples = spread([e for e in examples if e.answer or e.tests], max_examples)
            if not examples or (examples[0].tests and not allow_code):
                continue
            mine = examples[world.rank :: world.size]
            scored = _score(model, mine, seed + world.rank, pass_k_samples, reply_tokens)
            correct, by_chance, passed, count = world.sum_over_ranks(*scored, len(mine))
            accuracy, chance = correct / count, by_chance / count
            key = f"eval/{slug(name)}_acc"
            numbers[key] = accuracy
            numbers[f"{key}_normalized"] = (accuracy - chance) / (1.0 - chance)
            if examples[0].tests:
                numbers[f"eval/{slug(name)}_pass_at_{pass_k_samples}"] = passed / count
            accuracies.append(accuracy)
            normalized.append(numbers[f"{key}_normalized"])
    if accuracies:
        numbers["eval/mean_acc"] = sum(accuracies) / len(accuracies)
        numbers["eval/mean_acc_normalized"] = sum(normalized) / len(normalized)
    return numbers


def spread(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """At most ``count``, from the first to nearly the last, evenly: MMLU's files go subject by subject."""
    if len(examples) <= count:
        return examples
    return [examples[number * len(examples) // count] for number in range(count)]


def slug(name: str) -> str:
    """ARC-Easy -> arc_easy."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


class Score(NamedTuple):
    """Sums over examples of one kind."""

    correct: float = 0.0
    by_chance: float = 0.0
    """How many guessing would get right."""
    passed: float = 0.0
    """Programming problems that at least one of the model's programs solves."""


def _score(model: GPT, examples: Sequence[Example], seed: int, pass_k_samples: int, reply_tokens: int) -> Score:
    if not examples:
        return Score()
    if examples[0].tests:
        k = pass_k_samples
        passing = [count_passing_programs(model, example, k, seed, reply_tokens) for example in examples]
        return Score(
            correct=sum(estimate_pass_at_k(k, n, 1) for n in passing),
            passed=sum(estimate_pass_at_k(k, n, k) for n in passing),
        )
    if examples[0].letters:
        by_chance = sum(1.0 / len(example.letters) for example in examples)
        return Score(sum(multiple_choice_correct(model, examples)), by_chance)
    return Score(sum(exact_match_correct(model, examples, seed, reply_tokens)))


@torch.no_grad()
def multiple_choice_correct(model: GPT, examples: Sequence[Example]) -> list[bool]:
    """Is the right letter the likeliest first token of the reply, among those on offer? One forward pass a chunk."""
    correct = []
    device = model.head.weight.device
    for first in range(0, len(examples), CHUNK):
        chunk = examples[first : first + CHUNK]
        prompts = [fit_prompt(chat.render_prompt(example.prompt), model, 0) for example in chunk]
        width = max(map(len, prompts))
        tokens = torch.tensor([[*prompt, *[PAD] * (width - len(prompt))] for prompt in prompts], device=device)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        rows = torch.arange(len(chunk), device=device)
        logits = model.head(model.features(tokens)[rows, last]).float().cpu()
        for example, row in zip(chunk, logits, strict=True):
            correct.append(max(example.letters, key=lambda letter: row[ord(letter[0])].item()) == example.answer)
    return correct


def exact_match_correct(model: GPT, examples: Sequence[Example], seed: int, reply_tokens: int) -> list[bool]:
    """Is the number behind #### in the greedy reply the right one?"""
    correct = []
    for first in range(0, len(examples), CHUNK):
        chunk = examples[first : first + CHUNK]
        prompts = [chat.render_prompt(example.prompt) for example in chunk]
        replies = generate_replies(model, prompts, reply_tokens, seed=seed, temperature=0)
        correct += [is_correct(e, chat.reply_of(reply)) for e, reply in zip(chunk, replies, strict=True)]
    return correct


def count_passing_programs(model: GPT, example: Example, samples: int, seed: int, reply_tokens: int) -> int:
    """How many of ``samples`` programs that the model writes pass the example's tests."""
    prompt = chat.render_prompt(example.prompt)
    replies = generate_replies(model, [prompt] * samples, reply_tokens, seed=seed, temperature=0.8)
    question = example.prompt[-1].content
    programs = [program_of(chat.reply_of(reply)) for reply in replies]
    return sum(sandbox.passes(f"{question}{program}\n{example.tests}\n") for program in programs)


def program_of(reply: str) -> str:
    """The first code block of a reply that has one, as chat models write them, else all of it. It follows the
    question's def and docstring, and may be that function's body or define it anew."""
    block = CODE_BLOCK.search(reply)
    return block[1] if block else reply


def estimate_pass_at_k(samples: int, passed: int, k: int) -> float:
    """The probability that one of ``k`` programs passes: 1 - C(n - c, k) / C(n, k); Chen et al. 2021, equation 1."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)
