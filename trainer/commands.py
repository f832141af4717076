"""The commands that train nothing: judge weights, and let them speak.

    python -m trainer eval --out runs/a --from_weight sft
    python -m trainer generate --from_weight runs/a/sft/checkpoint_000250.pt --chat --prompt "What does copy.copy do?"

Given: weights. Hands on: val/* and eval/* numbers, on the console and to the sidecar; or text on the console.
Never: changes a weight.
"""

import json
from typing import Any

from trainer import report
from trainer import weights as weights_
from trainer.chat_stage import load_tasks
from trainer.config import Config, EvalConfig, GenerateConfig
from trainer.console import Console, printable
from trainer.continuous import History
from trainer.data.chats import Chats, prepare
from trainer.distributed import World, world
from trainer.errors import UserError
from trainer.evaluate import evaluate as validated
from trainer.generate import generate_samples
from trainer.judge import judge
from trainer.loop import dtype_of
from trainer.model import GPT
from trainer.tasks.example import TaskMixture
from trainer.weights import Weights


def evaluate(config: EvalConfig) -> None:
    """Loss on held-back conversations and accuracy on their questions, as JSON; a run of its own in the sidecar."""
    with world(config.device, config.threads) as here:
        config, weights, model = _loaded(config, here)
        loaded, problems = load_tasks("eval", config)
        facts = report.model_facts(model, config, here, dtype_of(config, here))
        run = report.begin("eval", config, facts, {"from_weight": weights.origin}, 0, None, History())
        with run.phase("evaluation"):
            numbers = _validation(model, config, here, loaded)
            numbers |= judge(
                model, {task.name: task.val for task in loaded}, here, most=config.judge_examples, seed=config.seed,
                allow_code=config.allow_code, samples=config.judge_samples,
            )  # fmt: skip
        if here.is_main:
            run.log(numbers, step=0)
            for remark in problems.lines():
                Console().say(remark)
            print(json.dumps(numbers, indent=2))
        run.finish()


def generate(config: GenerateConfig) -> None:
    """What the weights say to the prompt, or to each of --generation_prompts."""
    with world(config.device, config.threads) as here:
        config, _, model = _loaded(config, here)
        prompts = (config.prompt,) if config.prompt else config.generation_prompts
        if not prompts:
            raise UserError("nothing to continue", 'give --prompt "Once upon a time"')
        texts = generate_samples(
            model, prompts, max_tokens=config.max_tokens, seed=config.seed, temperature=config.temperature,
            chat=config.chat,
        )  # fmt: skip
        if here.is_main:
            for text in texts.values():
                print("\n".join(printable(line) for line in text.split("\n")))


def _loaded(config: Any, here: World) -> tuple[Any, Weights, GPT]:
    """The flags made to fit the weights, the weights, and the model with them."""
    weights = weights_.find(config)
    if weights is None:
        raise UserError("there are no weights to look at", "give --from_weight a stage or a checkpoint_*.pt")
    config = weights_.fitted(config, weights)
    return config, weights, weights_.build_model(config, weights).to(here.device).eval()


def _validation(model: GPT, config: Config, here: World, loaded: list[Any]) -> dict[str, float]:
    """val/* of the assistant's words, over all that fits into a batch."""
    held_back = prepare(TaskMixture({task.name: task.val for task in loaded}, config.seed), config.seq_len)
    share: dict[str, Any] = {"batch_size": config.batch_size, "rank": here.rank, "world_size": here.size}
    chats = Chats(held_back, name="validation", seq_len=config.seq_len, **share)
    iters = min(config.eval_iters, chats.batches_per_epoch)
    return validated(model, chats.next_batch, iters, here)
