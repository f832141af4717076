"""The figures of benchmarks/numerics.py as transformers, trl and lm-eval compute them.

Given: the weights, data and batches of numerics.py. Hands on: figure -> (peer, numbers).
Never: calls our model, losses or judges.
"""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "",
    "LOGLEVEL": "ERROR",
}  # fmt: skip

import datasets
import lm_eval
import torch
import torch.nn.functional as F
import transformers
import trl
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from benchmarks.numerics import CHOICES, FLAGS, PROMPTS, REPLIES, SHAPE, SOLUTION, TEXT, gpt
from trainer import chat
from trainer.data.batch import IGNORE, Batch
from trainer.tokenizer import BOS, PAD

Found = dict[str, tuple[str, list[float]]]


def figures(folder: Path, sft_batches: list[Batch], dpo_batches: list[Batch]) -> Found:
    return {**of_model(), **of_sft(folder, sft_batches), **of_dpo(folder, dpo_batches), **of_evaluation()}


def by(package: str, found: dict[str, list[float]]) -> Found:
    return {name: (f"{package} {version(package)}", values) for name, values in found.items()}


def llama() -> Any:
    """Our network out of transformers' parts: relu(u) * u is a squared ReLU if gate and up are one matrix."""
    model = gpt()
    config = transformers.LlamaConfig(
        vocab_size=SHAPE.vocab_size, hidden_size=SHAPE.n_embd, intermediate_size=4 * SHAPE.n_embd,
        num_hidden_layers=SHAPE.n_layer, num_attention_heads=SHAPE.n_head, hidden_act="relu",
        max_position_embeddings=SHAPE.seq_len, rms_norm_eps=torch.finfo(torch.float32).eps, pad_token_id=PAD,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    twin = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        twin.model.embed_tokens.weight.copy_(model.embedding.weight)
        twin.lm_head.weight.copy_(model.head.weight)
        for theirs, ours in zip(twin.model.layers, model.blocks, strict=True):
            theirs.mlp.gate_proj = theirs.mlp.up_proj
            theirs.mlp.up_proj.weight.copy_(ours.mlp.up.weight)
            theirs.mlp.down_proj.weight.copy_(ours.mlp.down.weight)
            for part, weight in zip("qkv", ours.attention.qkv.weight.chunk(3), strict=True):
                getattr(theirs.self_attn, f"{part}_proj").weight.copy_(weight)
            theirs.self_attn.o_proj.weight.copy_(ours.attention.out.weight)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_("norm" not in name)  # Ours have no weights: these stay at 1.
    twin.model.embed_tokens.register_forward_hook(lambda module, tokens, x: F.rms_norm(x, x.shape[-1:]))
    return twin.eval()


def of_model() -> Found:
    twin, prompts = llama(), torch.tensor(PROMPTS)
    with torch.no_grad():
        logits = twin(prompts).logits[:, -1, ::32].flatten()
        written = twin.generate(prompts, max_new_tokens=40, do_sample=False)[:, prompts.size(1) :]
    return by("transformers", {"logits": logits.tolist(), "greedy tokens": written.flatten().double().tolist()})


# -- training ----------------------------------------------------------------------------------------------------------


def settings(kind: Any, folder: Path, **more: Any) -> Any:
    """Our flags in their words."""
    return kind(
        output_dir=str(folder), max_steps=FLAGS["steps"], per_device_train_batch_size=FLAGS["batch_size"],
        gradient_accumulation_steps=FLAGS["grad_accum"], learning_rate=FLAGS["learning_rate"],
        max_grad_norm=FLAGS["grad_clip"], lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95,
        train_sampling_strategy="sequential", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
        bf16=False, disable_tqdm=True, remove_unused_columns=False, **more,
    )  # fmt: skip


def trained(name: str, trainer: Any, names: dict[str, str]) -> dict[str, list[float]]:
    """What each step logged, and some weights after the last. ``names``: ours -> theirs."""
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    head, body = trainer.model.lm_head, trainer.model.model
    some = [head.weight[101, :4], body.layers[0].mlp.up_proj.weight[0, :4], body.embed_tokens.weight[101, :4]]
    found = {f"{name} {our}": [row[their] for row in logged] for our, their in names.items()}
    return found | {f"{name} weights": torch.cat(some).tolist()}


def of_sft(folder: Path, batches: list[Batch]) -> Found:
    def row(inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        room = SHAPE.seq_len - len(inputs)
        labels = F.pad(targets, (1, room), value=IGNORE)  # Trainer shifts them by one itself.
        return {"input_ids": F.pad(inputs, (0, room + 1), value=PAD), "labels": labels}

    rows = [row(*pair) for batch in batches for pair in zip(batch.inputs, batch.targets, strict=True)]
    trainer = transformers.Trainer(llama(), settings(transformers.TrainingArguments, folder), train_dataset=rows)
    return by("transformers", trained("sft", trainer, {"loss": "loss", "grad_norm": "grad_norm"}))


def of_dpo(folder: Path, batches: list[Batch]) -> Found:
    class Trainer(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # It is tokens already.

    trainer = Trainer(
        llama(), llama(), settings(trl.DPOConfig, folder, beta=0.1, max_length=None),
        train_dataset=datasets.Dataset.from_list([row for batch in batches for row in pairs(batch)]),
        processing_class=transformers.ByT5Tokenizer(),
    )  # fmt: skip
    names = {
        "loss": "loss", "grad_norm": "grad_norm", "rewards/chosen": "rewards/chosen",
        "rewards/rejected": "rewards/rejected", "rewards/accuracy": "rewards/accuracies",
        "rewards/margin": "rewards/margins",
    }  # fmt: skip
    return by("trl", trained("dpo", trainer, names))


def pairs(batch: Batch) -> Iterator[dict[str, list[int]]]:
    """A reply begins where the assistant does so for the last time."""
    full = []
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        end = int((targets != IGNORE).nonzero().max())
        full.append([*inputs[: end + 1].tolist(), int(targets[end])])
    for chosen, rejected in zip(full[: batch.samples], full[batch.samples :], strict=True):
        begin = len(chosen) - chosen[::-1].index(chat.ASSISTANT_START)
        yield {"prompt_ids": chosen[:begin], "chosen_ids": chosen[begin:], "rejected_ids": rejected[begin:]}


# -- evaluation --------------------------------------------------------------------------------------------------------


def of_evaluation() -> Found:
    questions = [
        {"prompt": as_text(chat.render_prompt(q.prompt)), "letters": list(q.letters), "gold": q.letters.index(q.answer)}
        for q in CHOICES
    ]
    text = {"doc_to_text": "", "doc_to_target": "{{text}}", "output_type": "loglikelihood_rolling"}
    choices = {
        "doc_to_text": "{{prompt}}", "doc_to_choice": "{{letters}}", "doc_to_target": "{{gold}}",
        "target_delimiter": "", "output_type": "multiple_choice",
    }  # fmt: skip
    found = lm_eval.simple_evaluate(judge(), bootstrap_iters=0, tasks=[
        task("text", [{"text": TEXT}], ["bits_per_byte", "byte_perplexity"], text),
        task("choices", questions, ["acc"], choices),
    ])  # fmt: skip
    return by("lm-eval", {
        "bits per byte": [found["results"]["text"]["bits_per_byte,none"]],
        "perplexity": [found["results"]["text"]["byte_perplexity,none"]],
        "choices that are right": [float(sample["acc"]) for sample in found["samples"]["choices"]],
        "final numbers that are right": [float(strict_match(reply)) for reply in REPLIES],
    })  # fmt: skip


def judge() -> Any:
    """lm-eval reads texts: here by ByT5's bytes, which are ours moved by three places; its extra ids are our marks."""
    twin = llama()
    with torch.no_grad():
        for weight in (twin.model.embed_tokens.weight, twin.lm_head.weight):
            weight.copy_(weight.roll(3, 0))
    tokenizer = transformers.ByT5Tokenizer()
    return HFLM(twin, tokenizer=tokenizer, max_length=SHAPE.seq_len, prefix_token_id=BOS + 3, add_bos_token=False)


def as_text(tokens: list[int]) -> str:
    return "".join(chr(token) if token < BOS else f"<extra_id_{token - BOS}>" for token in tokens)


def task(name: str, rows: list[dict[str, Any]], metrics: list[str], config: dict[str, str]) -> Any:
    data = {"test": datasets.Dataset.from_list(rows)}
    return ConfigurableTask(config={
        "task": name, "custom_dataset": lambda **_: data, "test_split": "test",
        "metric_list": [{"metric": metric} for metric in metrics], **config,
    })  # fmt: skip


def strict_match(reply: str) -> bool:
    """By the rules of lm-eval's own gsm8k.yaml."""
    rules = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    [pattern] = [rule["filter"][0]["regex_pattern"] for rule in rules["filter_list"] if rule["name"] == "strict-match"]
    [[found]] = RegexFilter(pattern).apply([[reply]], [{}])
    how = {name: rules["metric_list"][0][name] for name in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
    return bool(exact_match_hf_evaluate([found], [SOLUTION["answer"]], **how)["exact_match"])
