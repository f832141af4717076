"""What midtraining and SFT share: a mixture of conversations, validated by loss and by accuracy on questions.

Given: the flags. Hands on: Batches of conversations; val/* and eval/* metrics; facts about the data.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer import chat, tasks
from trainer.config import ChatConfig, MidtrainConfig
from trainer.data.conversations import Conversations, Prepared, cached, prepare
from trainer.data.quality import DataReport, Quality, statistics
from trainer.distributed import World
from trainer.model import GPT
from trainer.stage import Stage
from trainer.task_eval import evaluate_tasks
from trainer.tasks.example import Example, Task, TaskMixture
from trainer.tokenizer import IDENTITY
from trainer.weights import DEFAULT_FOLDER

PROMPTS_MAX = 3
TRUNCATED_SHARE_MAX = 0.02
"""More truncated conversations than this are worth a remark."""


class ChatStage(Stage):
    chats = True
    train_on_prompts = False
    """Do the user's words count in the loss, too?"""

    def __init__(self, config: MidtrainConfig, world: World) -> None:
        loaded, report = load_tasks(self.name, config)
        self.eval_tasks = {task.name: task.val for task in loaded}
        self.eval_examples, self.seed = config.eval_examples, config.seed
        self.resume_facts = {"pack": config.pack}
        mixture = TaskMixture({task.name: task.train for task in loaded}, config.seed)
        held_out = TaskMixture({task.name: task.val for task in loaded}, config.seed)
        prepared, reused = self._prepared(config, mixture)
        val = prepare(held_out, config.seq_len, train_on_prompts=self.train_on_prompts)
        share: dict[str, Any] = {
            "seq_len": config.seq_len, "batch_size": config.batch_size, "rank": world.rank, "world_size": world.size,
            "packed": config.pack, "fixed": config.compile,
        }  # fmt: skip
        self.train_loader = Conversations(prepared, name=self.name, seed=config.seed, **share)
        self.val_loader = Conversations(val, name=f"{self.name} (validation)", shrink=True, **share)
        self.batches_per_epoch = self.train_loader.batches_per_epoch
        self.prompts = sample_prompts(loaded)
        counts = prepared.task.bincount(minlength=len(prepared.names)).tolist()
        self.dataset_sizes = dict(zip(prepared.names, counts, strict=True))
        self.data_facts = dataset_facts(loaded, prepared.lengths().tolist(), len(prepared), len(val), report)
        self.data_facts["dataset/truncated_samples"] = prepared.truncated
        self.data_facts["dataset/dropped_samples"] = prepared.dropped
        self.remarks = (*report.lines(), *truncation_remark(prepared, config.seq_len))
        if reused:
            self.remarks += ("tokens: as prepared before",)

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        numbers = super().validate(model, iters, world)
        with self.autocast():
            return numbers | evaluate_tasks(
                model, self.eval_tasks, world, max_examples=self.eval_examples, seed=self.seed,
                reply_tokens=max(1, model.config.seq_len // 4),
            )  # fmt: skip

    def _prepared(self, config: MidtrainConfig, mixture: TaskMixture[Example]) -> tuple[Prepared, bool]:
        def make() -> Prepared:
            return prepare(mixture, config.seq_len, train_on_prompts=self.train_on_prompts)

        if not config.use_prepared:
            return make(), False
        parts = [(name, fingerprint(part)) for name, part in mixture.parts.items()]
        key = repr((IDENTITY, chat.TEMPLATE, self.name, config.seq_len, config.seed, parts))
        return cached(make, key, Path(config.prepared or Path(config.out or DEFAULT_FOLDER) / "prepared"))


def fingerprint(part: Sequence[Any]) -> str:
    """Of every example, so that tokens of another version of a dataset are not taken for its own."""
    digest = hashlib.blake2s()
    for example in part:
        digest.update(repr(example).encode(errors="replace"))
    return digest.hexdigest()


def truncation_remark(prepared: Prepared, seq_len: int) -> tuple[str, ...]:
    """A line for the console if the context cuts many conversations."""
    count = len(prepared) + prepared.dropped
    if prepared.truncated <= count * TRUNCATED_SHARE_MAX:
        return ()
    return (
        f"{prepared.truncated} of {count} conversations are cut to {seq_len} tokens, {prepared.dropped} of them left "
        "out because no reply remains: a larger --seq_len takes them whole",
    )


def load_tasks(stage: str, config: ChatConfig) -> tuple[list[Task[Any]], DataReport]:
    report = DataReport(refuse=config.bad_rows == "refuse", quality=Quality(config.screen))
    loaded = tasks.load(
        stage, config.data, config.data_config, report, config.val_fraction, without_hub=config.without_hub
    )
    return loaded, report


def dataset_facts(
    loaded: Sequence[Task[Any]], lengths: Sequence[int], train: int, val: int, report: DataReport
) -> dict[str, Any]:
    """dataset/* and data/* metrics. ``lengths``: tokens of each training sample; ``train``, ``val``: samples."""
    return {
        "dataset/name": " + ".join(task.name for task in loaded),
        **statistics(lengths, train, val),
        **report.quality.metrics(),
        "data/unreadable": report.count,
    }


def sample_prompts(loaded: Sequence[Task[Any]]) -> tuple[str, ...]:
    """The first held-out question of each task."""
    return tuple(dict.fromkeys(task.val[0].prompt[-1].content for task in loaded))[:PROMPTS_MAX]
