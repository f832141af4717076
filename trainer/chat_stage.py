"""What midtraining and SFT share: a mixture of conversations, validated by loss and by answers to questions.

Given: the flags. Hands on: Batches of conversations; val/* and eval/* numbers; the facts about the data.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer import tasks
from trainer.config import ChatConfig, MidtrainConfig
from trainer.data.chats import Chats, Prepared, cached, prepare
from trainer.data.quality import Quality, statistics
from trainer.distributed import World
from trainer.evaluate import evaluate
from trainer.judge import judge
from trainer.model import GPT
from trainer.stage import Stage
from trainer.tasks.example import Example, Task, TaskMixture
from trainer.tasks.rows import Problems
from trainer.weights import DEFAULT_FOLDER

PROMPTS_MAX = 3
REPLY_TOKENS = 32
CUT_UNMENTIONED = 0.02


class ChatStage(Stage):
    chats = True
    learn_all = False
    """Learn from the questions, too."""

    def __init__(self, config: MidtrainConfig, world: World) -> None:
        loaded, problems = load_tasks(self.name, config)
        self.judged = {task.name: task.val for task in loaded}
        self.judge_examples, self.seed = config.judge_examples, config.seed
        mixture = TaskMixture({task.name: task.train for task in loaded}, config.seed)
        held_back = TaskMixture({task.name: task.val for task in loaded}, config.seed)
        prepared, reused = self._prepared(config, mixture)
        val = prepare(held_back, config.seq_len, learn_all=self.learn_all)
        share: dict[str, Any] = {
            "seq_len": config.seq_len, "batch_size": config.batch_size, "rank": world.rank, "world_size": world.size,
            "packed": config.pack, "fixed": config.compile,
        }  # fmt: skip
        self.train = Chats(prepared, name=self.name, seed=config.seed, **share)
        self.val = Chats(val, name=f"{self.name} (validation)", **share)
        self.batches_per_epoch = self.train.batches_per_epoch
        self.prompts = some_prompts(loaded)
        counts = prepared.task.bincount(minlength=len(prepared.names)).tolist()
        self.dataset_sizes = dict(zip(prepared.names, counts, strict=True))
        self.data_facts = facts(loaded, prepared.lengths().tolist(), len(prepared), len(val), problems)
        self.data_facts["dataset/truncated_samples"] = prepared.truncated
        self.data_facts["dataset/dropped_samples"] = prepared.dropped
        self.remarks = (*problems.lines(), *cuts(prepared, config.seq_len))
        if reused:
            self.remarks += ("tokens: as prepared before",)

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        self.val.rewind()
        numbers = evaluate(model, self.val.next_batch, iters, world, self.autocast)
        most, reply_tokens = self.judge_examples, min(REPLY_TOKENS, model.config.seq_len // 4)
        return numbers | judge(model, self.judged, world, most=most, seed=self.seed, reply_tokens=reply_tokens)

    def _prepared(self, config: MidtrainConfig, mixture: TaskMixture[Example]) -> tuple[Prepared, bool]:
        def make() -> Prepared:
            return prepare(mixture, config.seq_len, learn_all=self.learn_all)

        if not config.use_prepared:
            return make(), False
        parts = [(name, len(part), ends_of(part)) for name, part in mixture.parts.items()]
        key = repr((self.name, config.seq_len, config.seed, parts))
        return cached(make, key, Path(config.prepared or Path(config.out or DEFAULT_FOLDER) / "prepared"))


def ends_of(part: Sequence[Any]) -> str:
    """The first and the last example: enough to tell one version of a data set from the next."""
    return repr((part[0], part[-1])) if part else ""


def cuts(prepared: Prepared, seq_len: int) -> tuple[str, ...]:
    """What the context is too short for, if it is for much."""
    count = len(prepared) + prepared.dropped
    if prepared.truncated <= count * CUT_UNMENTIONED:
        return ()
    return (
        f"{prepared.truncated} of {count} conversations are cut to {seq_len} tokens, {prepared.dropped} of them left "
        "out because no reply remains: a larger --seq_len takes them whole",
    )


def load_tasks(stage: str, config: ChatConfig) -> tuple[list[Task[Any]], Problems]:
    problems = Problems(refuse=config.bad_rows == "refuse", quality=Quality(config.screen))
    loaded = tasks.load(
        stage, config.data, config.data_config, problems, config.val_fraction, without_hub=config.without_hub
    )
    return loaded, problems


def facts(
    loaded: Sequence[Task[Any]], lengths: Sequence[int], train: int, val: int, problems: Problems
) -> dict[str, Any]:
    """dataset/* and data/*, as the documents list them."""
    return {
        "dataset/name": " + ".join(task.name for task in loaded),
        **statistics(lengths, train, val),
        **problems.quality.metrics(),
        "data/unreadable": problems.count,
    }


def some_prompts(loaded: Sequence[Task[Any]]) -> tuple[str, ...]:
    """One question of each task, for the samples."""
    return tuple(dict.fromkeys(task.val[0].prompt[-1].content for task in loaded))[:PROMPTS_MAX]
