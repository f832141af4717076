"""The commands of one stage: train it, evaluate its weights, generate text with them.

    python -m trainer sft --out runs/a --from_weight midtrain
    python -m trainer eval --out runs/a --from_weight sft
    python -m trainer generate --from_weight runs/a/sft/checkpoint_000250.pt --chat --prompt "What does copy.copy do?"

Given: the flags. Hands on: a trained stage; or val/* and eval/* numbers, on the console and to the sidecar; or text on
the console.
"""

import dataclasses
import sys
from typing import Any

import msgspec

from trainer import checkpoint, monitoring
from trainer.chat_stage import load_tasks
from trainer.config import Config, EvalConfig, GenerateConfig
from trainer.console import QUIET, Console, printable
from trainer.data.conversations import Conversations, prepare
from trainer.distributed import World, process_group
from trainer.errors import UserError
from trainer.evaluate import evaluate as validated
from trainer.generate import generate_samples
from trainer.loop import train_stage
from trainer.model import GPT
from trainer.precision import autocast_to, dtype_of
from trainer.run_history import RunHistory
from trainer.task_eval import evaluate_tasks
from trainer.tasks.example import TaskMixture
from trainer.weights import Weights, build_model, config_for, find_weights


def run_stage(name: str, config: Config) -> None:
    """Train a stage. With --resume alone, it goes on saving in the folder that it resumes from."""
    if config.resume and not config.out:
        config = dataclasses.replace(config, out=str(checkpoint.out_folder(config.resume, name)))
    with process_group(config.device, config.threads) as world:
        train_stage(name, config, world, find_weights(config))


def evaluate(config: EvalConfig) -> None:
    """Loss on held-out conversations and accuracy on their questions, printed as JSON (NaN as null) and logged as a run
    of its own."""
    with process_group(config.device, config.threads) as world:
        config, weights, model = _loaded(config, world)
        loaded, report = load_tasks("eval", config)
        dtype = dtype_of(config, world)
        held_out = {task.name: task.val for task in loaded}
        chats = _conversations(config, world, held_out)
        facts = monitoring.model_facts(model, config, world, dtype)
        with monitoring.init_run("eval", config, facts, {"from_weight": weights.origin}, 0, None, RunHistory()) as run:
            with run.phase("evaluation"), autocast_to(dtype, world)():
                iters = min(config.eval_iters, chats.batches_per_epoch)
                numbers = validated(model, (chats.next_batch().to(world.device) for _ in range(iters)), world)
                numbers |= evaluate_tasks(
                    model, held_out, world, max_examples=config.eval_examples, seed=config.seed,
                    allow_code=config.allow_code, pass_k_samples=config.pass_k_samples,
                )  # fmt: skip
            if world.is_main:
                run.log(numbers, step=0)
        untried = [task.name for task in loaded if task.val[0].tests and not config.allow_code]
        remarks = Console.of(config, is_main=world.is_main, stream=sys.stderr)  # stdout has the JSON alone.
        for remark in (*report.lines(), *(f"{name}: left out, only --allow_code runs programs" for name in untried)):
            remarks.say(remark)
        Console.of(config, is_main=world.is_main).say(
            msgspec.json.format(msgspec.json.encode(numbers), indent=2).decode(), QUIET
        )


def generate(config: GenerateConfig) -> None:
    """What the model adds to --prompt, or to each of --generation_prompts."""
    with process_group(config.device, config.threads) as world:
        config, _, model = _loaded(config, world)
        prompts = (config.prompt,) if config.prompt else config.generation_prompts
        if not prompts:
            raise UserError("nothing to continue", 'give --prompt "Once upon a time"')
        texts = generate_samples(
            model, prompts, max_tokens=config.max_tokens, seed=config.seed, temperature=config.temperature,
            chat=config.chat,
        )  # fmt: skip
        console = Console.of(config, is_main=world.is_main)
        for text in texts.values():
            console.say("\n".join(printable(line) for line in text.split("\n")), QUIET)


def _loaded(config: Any, world: World) -> tuple[Any, Weights, GPT]:
    """(the flags with the weights' shape, the weights, the model with them)"""
    weights = find_weights(config)
    if weights is None:
        raise UserError("there are no weights to load", "give --from_weight a stage or a checkpoint_*.pt")
    config = config_for(config, weights)
    return config, weights, build_model(config, weights).to(world.device).eval()


def _conversations(config: Config, world: World, held_out: dict[str, Any]) -> Conversations:
    """The held-out ones; the assistant's words count. Raises UserError if none of them fits."""
    prepared = prepare(TaskMixture(held_out, config.seed), config.seq_len)
    share: dict[str, Any] = {"batch_size": config.batch_size, "rank": world.rank, "world_size": world.size}
    return Conversations(prepared, name="validation", seq_len=config.seq_len, shrink=True, **share)
