"""Does the reference trainer compute what the field's own tools compute? The same weights and data, both ways.

Proves, to rounding: the model is Llama's where the two have the same parts, in one pass and with a cache; losses,
gradient norms, rewards and updated weights of SFT and DPO, over several steps of micro-batches with unequal tokens, are
those of transformers' Trainer and trl's DPOTrainer; bits per byte, choices and final numbers are judged as by lm-eval.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.numerics                    # each figure's largest difference; exit code 1 beyond its bound
    python -m benchmarks.numerics --record           # keep theirs for tests/trainer/test_trainer_numerics.py

This file computes ours, numerics_peers.py theirs.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.common import REPOSITORY
from trainer.config import Config, DpoConfig, SftConfig
from trainer.data.batch import Batch
from trainer.data.windows import TokenWindows, concatenate
from trainer.distributed import World, process_group
from trainer.evaluate import evaluate
from trainer.generate import generate_replies
from trainer.loop import train_stage
from trainer.model import GPT, ModelConfig
from trainer.stages import load_stage
from trainer.task_eval import multiple_choice_correct
from trainer.tasks.formats import LETTERS, choice, gsm8k, is_correct
from trainer.weights import Weights

RECORDED = REPOSITORY / "tests" / "trainer" / "numerics.json"
SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=32, seq_len=96)
FLAGS: dict[str, Any] = {
    "n_layer": 2, "n_head": 2, "n_embd": 32, "seq_len": 96, "steps": 4, "grad_accum": 3, "batch_size": 2,
    "learning_rate": 1e-3, "warmup": 0.0, "min_lr": 1.0, "grad_clip": 0.5, "eval_iters": 1, "eval_freq": 99,
    "generate_freq": 99, "eval_examples": 1, "threads": 1, "device": "cpu", "quiet": True,
}  # fmt: skip
"""Of a run whose learning rate stays what it is, so that the peers' schedules, which end elsewhere, do not matter."""
PROMPTS = [[BYTE + 7 * row for BYTE in b"Once upon a time"] for row in range(4)]
TEXT = "".join(chr(32 + (7 * i + i * i // 5) % 90) for i in range(20 * SHAPE.seq_len))
CHOICES = [
    choice("?", [chr(33 + (n + k) * n % 90) * (1 + n % 9 * 4) for k in range(4)], LETTERS[:4], LETTERS[n * n % 5 % 4])
    for n in range(40)
]
"""Some are longer than the context."""
SOLUTION = {"question": "?", "answer": "5 + 7 = 12\n#### 12"}
REPLIES = (
    "12", "5 + 7 = 12\n#### 12", "#### 12.", "#### 12,", "#### 1,2", "#### 12%", "#### 12 apples", "#### 12/3",
    "#### 13", "#### 13\n#### 12", "#### 12\n#### 13", "#### $12", "#### -12", "#### - 12", "### 12", "12 ####", "####",
)  # fmt: skip
"""Where their numbers are spelled in another way than the solution's (12.0), lm-eval compares texts, we numbers."""

Figures = dict[str, list[float]]


def gpt() -> GPT:
    """With weights that say something and are the same with any version of torch."""
    model, begin = GPT(SHAPE), 0
    for parameter in model.parameters():
        places = torch.arange(begin, begin + parameter.numel(), dtype=torch.float64)
        parameter.data = (((places * 12.9898).sin() * 43758.5453).frac() * 0.5).float().view_as(parameter)
        begin += parameter.numel()
    return model.eval()


def write_data(folder: Path) -> None:
    """Conversations, and preferences whose prompts have replies of their own, of many different lengths."""
    asked = [
        [{"role": role, "content": f"{role} {n} " * (1 + n % 3)} for role in ("user", "assistant", "user")]
        for n in range(40)
    ]
    words = [("yes", "no") if n % 3 else ("no", "yes") for n in range(40)]
    replies = [[{"role": "assistant", "content": word * (1 + n % 5)} for word in words[n]] for n in range(40)]
    talks = [{"messages": [*before, reply]} for before, (reply, _) in zip(asked, replies, strict=True)]
    pairs = [
        {"chosen": [*before, good], "rejected": [*before, bad]}
        for before, (good, bad) in zip(asked, replies, strict=True)
    ]
    for name, rows in (("smoltalk", talks), ("preferences", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def trained(stage_name: str, kind: type[Config], folder: Path, **flags: Any) -> tuple[Figures, list[Batch]]:
    """What each step told the sidecar, and some weights after the last; and the micro-batches that it read."""
    batches: list[Batch] = []
    start, run, stage = gpt(), mock.MagicMock(), load_stage(stage_name)
    read = stage.next_batch

    def reading(self: Any) -> Batch:
        batches.append(read(self))
        return batches[-1]

    config = kind(**FLAGS, data=str(folder), **flags)
    told = mock.patch("trainer.monitoring.init_run", return_value=run)
    unmeasured = mock.patch("trainer.monitoring.measured_peak_flops", return_value=1e11)
    with told, unmeasured, mock.patch.object(stage, "next_batch", reading), process_group("cpu", 1) as world:
        weights = train_stage(stage_name, config, world, Weights("numerics", start.config, start.state_dict()))
    steps = [{**call.kwargs, **call.kwargs["metrics"]} for call in run.step.call_args_list]
    names = [name for name in steps[0] if name in ("loss", "grad_norm") or name.startswith("rewards/")]
    figures = {f"{stage_name} {name}": [step[name] for step in steps] for name in names}
    places = (("head", 101), ("blocks.0.mlp.up", 0), ("embedding", 101))
    some = [weights.tensors[f"{name}.weight"][row, :4] for name, row in places]
    return figures | {f"{stage_name} weights": torch.cat(some).tolist()}, batches


def of_model() -> Figures:
    model, prompts = gpt(), torch.tensor(PROMPTS)
    with torch.no_grad():
        logits = model(prompts)[:, -1, ::32].flatten()
    replies = generate_replies(model, PROMPTS, 40, temperature=0, end=None)
    return {"logits": logits.tolist(), "greedy tokens": [float(token) for reply in replies for token in reply]}


def of_evaluation() -> Figures:
    model, here = gpt(), World(0, 0, 1, torch.device("cpu"))
    windows = TokenWindows(concatenate([TEXT.encode()]), name="text", seq_len=SHAPE.seq_len, batch_size=20)
    numbers, solved = evaluate(model, [windows.next_batch()], here), gsm8k(SOLUTION)
    return {
        "bits per byte": [numbers["val/bits_per_byte"]],
        "perplexity": [numbers["val/perplexity"]],
        "choices that are right": [float(right) for right in multiple_choice_correct(model, CHOICES)],
        "final numbers that are right": [float(is_correct(solved, reply)) for reply in REPLIES],
    }


def ours(folder: Path) -> tuple[Figures, list[Batch], list[Batch]]:
    """(figures by name, the batches of SFT, those of DPO). DPO is asked for dropout, which it must not apply."""
    write_data(folder)
    sft, sft_batches = trained("sft", SftConfig, folder)
    dpo, dpo_batches = trained("dpo", DpoConfig, folder, dropout=0.2)
    return {**of_model(), **sft, **dpo, **of_evaluation()}, sft_batches, dpo_batches


def apart(ours: list[float], theirs: list[float]) -> float:
    """The largest difference, relative to what is larger than 1."""
    first, second = (torch.tensor(values, dtype=torch.float64) for values in (ours, theirs))
    return ((first - second).abs() / second.abs().clamp(min=1)).max().item()


def bound(name: str) -> float:
    """Whole numbers must be equal; single precision rounds the others."""
    return 0.0 if name.endswith(("tokens", "right")) else 2e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the peers' figures to {RECORDED.name}")
    record = parser.parse_args().record
    from benchmarks import numerics_peers

    with tempfile.TemporaryDirectory() as folder:
        figures, *batches = ours(Path(folder))
        theirs = numerics_peers.figures(Path(folder), *batches)
    missed = False
    for name, (peer, values) in theirs.items():
        difference = apart(figures[name], values)
        missed |= difference > bound(name)
        print(f"{'MISS' if difference > bound(name) else 'ok  '} {name:30} {peer:20} {difference:.1e}")
    if record:
        lines = [f"{json.dumps(name)}: {json.dumps(figure)}" for name, figure in theirs.items()]
        RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
