"""Names that training scripts use -> the names that the charts know. Applied when reading.

Given: a metric, setting or stage name as some script sent it. Hands on: the canonical one, or the name itself.
Never: renames anything that is stored: the journal keeps names as sent.

``sidecar.metrics.ALIASES`` has the aliases that every outlet knows; this adds the names of captured scripts (nanoGPT,
nanochat, transformers, Lightning, torchtitan, Megatron, lm-evaluation-harness).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sidecar import metrics

WILD = {
    "train_loss_step": "train/loss", "train/loss_step": "train/loss", "train/train_loss": "train/loss",
    "training/loss": "train/loss", "training_loss": "train/loss", "lm loss": "train/loss", "lm-loss": "train/loss",
    "loss_metrics/global_avg_loss": "train/loss", "loss/train": "train/loss", "train/lm_loss": "train/loss",
    "valid/loss": "val/loss", "validation/loss": "val/loss", "validation_loss": "val/loss", "valid_loss": "val/loss",
    "test/loss": "val/loss", "loss/val": "val/loss", "lm loss validation": "val/loss", "eval/val_loss": "val/loss",
    "val_accuracy": "val/accuracy", "val_acc": "val/accuracy", "val/acc": "val/accuracy", "accuracy": "val/accuracy",
    "eval_accuracy": "val/accuracy", "eval/acc": "val/accuracy", "validation/accuracy": "val/accuracy",
    "acc": "val/accuracy", "test/accuracy": "val/accuracy", "eval/mean_token_accuracy": "val/accuracy",
    "train_acc": "train/accuracy", "train/acc": "train/accuracy", "train_accuracy": "train/accuracy",
    "train/mean_token_accuracy": "train/accuracy", "train/rewards/accuracies": "train/accuracy",
    "rewards/accuracy": "train/accuracy", "val/rewards_accuracy": "val/accuracy",
    "rewards/accuracies": "train/accuracy", "eval/rewards/accuracies": "val/accuracy",
    "mean_acc": "eval/mean_acc", "mean_accuracy": "eval/mean_acc", "eval/mean_accuracy": "eval/mean_acc",
    "efficiency/tokens_per_sec": "train/tokens_per_second", "train/tps": "train/tokens_per_second",
    "train/tokens_per_sec": "train/tokens_per_second",
    "throughput(tps)": "train/tokens_per_second", "throughput/tokens_per_sec": "train/tokens_per_second",
    "perf/tokens_per_second": "train/tokens_per_second", "train_tokens_per_second": "train/tokens_per_second",
    "toks/s": "train/tokens_per_second", "tokens/s": "train/tokens_per_second", "tps": "train/tokens_per_second",
    "train_samples_per_second": "train/samples_per_second", "samples_per_second": "train/samples_per_second",
    "train_steps_per_second": "train/steps_per_second", "steps_per_second": "train/steps_per_second",
    "efficiency/mfu": "train/mfu_reported", "mfu(%)": "train/mfu_reported",
    "efficiency/mfu_percent": "train/mfu_reported", "mfu_percent": "train/mfu_reported",
    "perf/mfu": "train/mfu_reported", "performance/mfu": "train/mfu_reported",
    "train/gradient_norm": "train/grad_norm", "gradnorm": "train/grad_norm", "grad-norm": "train/grad_norm",
    "gradient_norm": "train/grad_norm", "optim/grad_norm": "train/grad_norm", "train/gnorm": "train/grad_norm",
    "learning-rate": "train/learning_rate", "lr-adamw": "train/learning_rate", "optim/lr": "train/learning_rate",
    "train/lrm": "train/lr_multiplier",
    "tokens_seen": "train/num_input_tokens_seen", "total_tokens": "train/num_input_tokens_seen",
    "train/tokens_seen": "train/num_input_tokens_seen", "num_input_tokens_seen": "train/num_input_tokens_seen",
    "train/total_tokens": "train/num_input_tokens_seen", "n_tokens_seen": "train/num_input_tokens_seen",
    "train/num_tokens_seen": "train/num_input_tokens_seen", "num_tokens_seen": "train/num_input_tokens_seen",
    "iter": "train/global_step", "iteration": "train/global_step", "global_step": "train/global_step",
    "trainer/global_step": "train/global_step", "train/iter": "train/global_step", "iter_num": "train/global_step",
    "train/iteration": "train/global_step",
    "system/gpu_utilization": "gpu/utilization_percent", "gpu_utilization": "gpu/utilization_percent",
    "gpu/memory_allocated_gb": "gpu/memory_used_gb", "gpu_memory_allocated_gb": "gpu/memory_used_gb",
}  # fmt: skip
"""Exact names, in lower case."""

STEP_NAMES = ("train/global_step", "trainer/global_step", "global_step", "step", "train/step", "iter", "iteration",
              "iter_num", "train/iter", "train/iteration")
"""A captured row's own step counter, the more explicit first; wandb's ``_step`` counts calls, not steps."""

TASKS = {
    "mmlu": "mmlu", "arc_easy": "arc_easy", "arc_e": "arc_easy", "arc_challenge": "arc_challenge",
    "arc_c": "arc_challenge", "gsm8k": "gsm8k", "humaneval": "humaneval", "human_eval": "humaneval",
    "hellaswag": "hellaswag", "piqa": "piqa", "winogrande": "winogrande", "boolq": "boolq", "openbookqa": "openbookqa",
    "truthfulqa": "truthfulqa", "mbpp": "mbpp", "triviaqa": "triviaqa", "spellingbee": "spellingbee", "math": "math",
}  # fmt: skip
_TASK = re.compile(
    r"(?:(?:eval|val|test|valid|validation|benchmark|benchmarks|eval_results|evaluation|lm_eval|metrics)[/_.])?"
    r"([a-z0-9_]+?)(?:[/_.](?:acc|accuracy|acc_norm|acc_none|exact_match|score|pass_1|pass@1))?"
)

STAGES = ("pretrain", "midtrain", "sft", "dpo", "ppo", "rl")
"""The order of the pipeline."""
_STAGE_NAMES = {
    "pretraining": "pretrain", "pre-training": "pretrain", "base": "pretrain", "base_train": "pretrain",
    "midtraining": "midtrain", "mid": "midtrain", "mid-training": "midtrain", "mid_train": "midtrain",
    "finetune": "sft", "finetuning": "sft", "fine-tuning": "sft", "chat_sft": "sft", "chat_rl": "rl", "grpo": "rl",
    "reinforcement": "rl", "rlhf": "ppo",
}  # fmt: skip
STAGE_KEYS = ("training_stage", "stage", "train/stage", "train_stage", "training/stage")

SETTINGS = {
    "depth": ("layers", "n_layer", "n_layers", "depth", "num_hidden_layers", "num_layers"),
    "width": ("n_embd", "model_dim", "hidden_size", "d_model", "dim", "n_embed", "width", "hidden_dim"),
    "batch_size": ("batch_size", "total_batch_size", "device_batch_size", "train_batch_size", "global_batch_size",
                   "per_device_train_batch_size", "hyperparams/batch_size", "micro_batch_size"),
    "learning_rate": ("learning_rate", "lr", "max_lr", "matrix_lr", "hyperparams/learning_rate", "base_lr"),
}  # fmt: skip
"""Settings that the hyperparameter chart needs, and their usual configuration keys, most usual first."""


@lru_cache(maxsize=20_000)
def canonical(name: str) -> str:
    """The name that the charts know; the name itself when it is unknown."""
    known = metrics.ALIASES.get(name) or WILD.get(name)
    if known is not None:
        return known
    low = name.lower().strip().replace(" ", "_").replace("-", "_")
    known = metrics.ALIASES.get(low) or WILD.get(low) or WILD.get(name.lower())
    if known is not None:
        return known
    task = task_of(low)
    return f"eval/{task}_acc" if task else name


def task_of(name: str) -> str | None:
    """The benchmark a name is the accuracy of: "eval/MMLU", "mmlu_acc", "arc_easy/acc" ... None: of none."""
    low = name.lower().replace("-", "_").replace(" ", "_")
    if low.endswith(("_normalized", "_stderr", "_loss", "/loss")):
        return None
    found = _TASK.fullmatch(low)
    return TASKS.get(found[1]) if found else None


def step_of(values: Mapping[str, Any]) -> int | None:
    """The step a row itself says it belongs to, if it does."""
    for name in STEP_NAMES:
        value = values.get(name)
        if type(value) is int and value >= 0:
            return value
        if type(value) is float and value >= 0 and value == value and value < 2**53 and value.is_integer():
            return int(value)
    return None


def stage_of(word: Any) -> str | None:
    """A stage by its short name; the user's own word as it is; None for nothing."""
    if not isinstance(word, str) or not word.strip():
        return None
    low = word.strip().lower()
    return low if low in STAGES else _STAGE_NAMES.get(low, word.strip())


def flat(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested settings as {"model.n_layer": 12}; W&B's own {"value": x} becomes x."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and set(value) <= {"value", "desc"} and "value" in value:
            value = value["value"]
        if isinstance(value, Mapping) and depth < 4:
            out |= flat(value, f"{name}.", depth + 1)
        else:
            out[name] = value
    return out


def setting(which: str, *places: Mapping[str, Any]) -> float | None:
    """A number of SETTINGS from flattened places, the first place first; ``model.n_layer`` counts as ``n_layer``."""
    for key in SETTINGS[which]:
        for place in places:
            for name, value in place.items():
                if name == key or name.rpartition(".")[2] == key:
                    if type(value) in (int, float) and value == value:
                        return float(value)
    return None
