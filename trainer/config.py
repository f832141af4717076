"""Every flag of the trainer in one table: frozen dataclasses, one per command; their field names are the flags.

    python -m trainer sft --help
    python -m trainer sft --show_config          every value, and where it comes from

Given: nothing. Hands on: the tables. flags.py fills one in: command line > environment > file > default.
``--batch_size`` and ``--batch-size`` are the same flag. What a default, a file or a variable switches on, --no-...
switches off; of what is on by default the help says what that does (``off``).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

GENERATION_PROMPTS = ("To be or not to be", "Once upon a time", "In a galaxy far, far away")
PATHS = ("data", "data_config", "from_weight", "out", "prepared", "resume")
"""Flags in which a leading ~ is the home folder."""
BACKENDS = ("wandb", "tensorboard", "none")


class Range(NamedTuple):
    """The values of a number that make sense."""

    holds: Callable[[float], bool]
    words: str


POSITIVE = Range(lambda x: 0 < x < math.inf, "a finite number above zero")
NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "a finite number from zero on")
SHARE = Range(lambda x: 0 <= x <= 1, "between 0 and 1")
PROPER_SHARE = Range(lambda x: 0 < x < 1, "above 0 and below 1")
BELOW_ONE = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")
THREADS = Range(lambda x: 1 <= x <= 1024, "between 1 and 1024")
SEED = Range(lambda x: 0 <= x < 2**31, "a number from 0 to 2147483647")


def flag(
    default: Any, help: str, group: str, *, also: tuple[str, ...] = (), off: str = "", env: str = "",
    choices: tuple[str, ...] = (), several: bool = False, range: Range = POSITIVE,
) -> Any:  # fmt: skip
    """A field that is also a flag, listed under ``group`` by --help.

    ``also``: other spellings; ``off``: what --no-FLAG does; ``env``: customary variables that set it, besides
    TRAINER_<FLAG>; ``several``: more than one of the choices may be given, with commas; ``range``: of a number.
    """
    metadata = {
        "help": help, "group": group, "also": also, "off": off, "env": env, "choices": choices, "several": several,
        "range": range,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What one run is made of. The defaults are a run of about 45 seconds on two CPU cores."""

    data: str | None = flag(None, "text, parquet, a folder of them, hub or hf://... [standard library]", "data")
    hub_files: int = flag(4, "parquet files to fetch of a set on the hub", "data")
    without_hub: str = flag(
        "refuse", "when the hub cannot be reached: end, or take what is built in", "data", choices=("refuse", "builtin")
    )
    screen: bool = flag(
        True, "leave out text with secrets, malware or copyleft licences in it", "data", off="keep it all"
    )
    bad_rows: str = flag("skip", "rows that cannot be read or understood", "data", choices=("skip", "refuse"))
    data_bytes: int = flag(4_000_000, "read at most this many bytes of text", "data")
    val_fraction: float = flag(0.1, "share of the data held out for validation", "data", range=PROPER_SHARE)

    n_layer: int = flag(4, "transformer blocks", "model")
    n_head: int = flag(4, "attention heads", "model")
    n_embd: int = flag(128, "width", "model")
    seq_len: int = flag(128, "tokens of context", "model", also=("block_size",))
    dropout: float = flag(0.0, "dropout; none in dpo and ppo", "model", range=BELOW_ONE)
    tie_weights: bool = flag(False, "use one matrix for embedding and head", "model")
    from_weight: str | None = flag(None, "start from these weights: a stage's in --out, or a path", "model")

    steps: int | None = flag(
        None, "optimizer steps [300; dpo 100, ppo 200; or what --epochs gives]", "training", also=("max_iters",)
    )
    epochs: float | None = flag(None, "passes over the training data", "training")
    batch_size: int = flag(16, "sequences per rank and micro-batch", "training")
    grad_accum: int = flag(1, "micro-batches per step", "training")
    learning_rate: float = flag(2e-3, "peak learning rate", "training")
    min_lr: float = flag(0.1, "final learning rate, as a share of the peak", "training", range=SHARE)
    warmup: float = flag(0.1, "share of the steps spent warming up", "training", range=SHARE)
    weight_decay: float = flag(0.1, "on matrices only", "training", range=NOT_NEGATIVE)
    grad_clip: float = flag(1.0, "largest gradient norm; 0: any", "training", range=NOT_NEGATIVE)
    nan_loss: str = flag(
        "skip", "when gradients are not finite: leave that step out, or end", "training", choices=("skip", "stop")
    )
    seed: int = flag(1337, "of weights, data order and samples", "training", range=SEED)

    log_train_freq: int = flag(10, "steps between console lines", "cadence", env="LOG_TRAIN_FREQ")
    log_freq: int = flag(100, "steps between lines with their mean loss", "cadence", env="LOG_FREQ")
    eval_freq: int = flag(500, "steps between validations; sooner in a shorter run", "cadence", env="EVAL_FREQ")
    eval_iters: int = flag(100, "batches per validation; fewer in a short run", "cadence", env="EVAL_ITERS")
    generate_freq: int = flag(1000, "steps between samples; sooner in a shorter run", "cadence", env="GENERATE_FREQ")
    watch_freq: int | None = flag(
        None, "steps between looks inside the model: gradients, weights, activations [never]", "cadence"
    )
    generation_prompts: tuple[str, ...] = flag(
        GENERATION_PROMPTS, "what samples begin with, separated by |", "cadence", env="GENERATION_PROMPTS"
    )

    device: str = flag("auto", "auto, cpu or cuda", "machine", choices=("auto", "cpu", "cuda"))
    dtype: str = flag("auto", "bfloat16 is autocast [on GPUs]", "machine", choices=("auto", "float32", "bfloat16"))
    prefetch: bool = flag(False, "make the next batch during a step [on GPUs]", "machine")
    compile: bool = flag(False, "torch.compile the model", "machine")
    checkpoint_activations: bool = flag(False, "compute activations twice instead of keeping them", "machine")
    threads: int | None = flag(None, "CPU threads per process [cores, at most 8]", "machine", range=THREADS)

    log_backend: str = flag(
        "wandb", "experiment trackers; as default, the sidecar's own choice", "run", env="LOG_BACKEND",
        choices=BACKENDS, several=True,
    )  # fmt: skip
    use_wandb: bool = flag(False, "the same as --log_backend wandb", "run")
    enable_wandb: bool = flag(True, "allow W&B", "run", off="never ask for W&B", env="ENABLE_WANDB")
    project: str = flag(
        "bdh-training", "project in every outlet", "run", also=("wandb_project",), env="SIDECAR_PROJECT WANDB_PROJECT"
    )
    run: str | None = flag(None, "name of the run; {n} is its number, dummy keeps it off W&B", "run")
    group: str | None = flag(None, "what belongs together, such as the stages of a pipeline", "run")
    run_id: str | None = flag(None, "id of the run", "run")
    wandb_entity: str | None = flag(None, "team in W&B", "run", env="WANDB_ENTITY")
    out: str | None = flag(None, "folder for checkpoints [that of --resume; without either none are written]", "run")
    checkpoint_freq: int | None = flag(None, "steps between checkpoints [only at the end]", "run")
    resume: str | None = flag(None, "continue from a checkpoint, or from the newest in a folder", "run")
    quiet: bool = flag(False, "print nothing but the result", "run", also=("q",))
    verbose: bool = flag(False, "print a line for each step", "run", also=("v",))

    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """Where each value comes from, for those that are no defaults: "flag", "environment" or "file"."""

    default_steps: ClassVar[int] = 300
    unused: ClassVar[frozenset[str]] = frozenset()
    """Flags of Config that this command does not have."""

    @classmethod
    def flags(cls) -> dict[str, dataclasses.Field[Any]]:
        """The fields that are flags."""
        return {f.name: f for f in dataclasses.fields(cls) if f.metadata and f.name not in cls.unused}

    def is_chosen(self, name: str) -> bool:
        """Did the user ask for this value?"""
        return name in self.origins


DATA_HELP = "folder with data sets in their true formats, or hub [built in]"


@dataclass(frozen=True, kw_only=True)
class ChatConfig(Config):
    """What the stages that read conversations have in common."""

    data: str | None = flag(None, DATA_HELP, "data")
    data_config: str | None = flag(None, "YAML, TOML or JSON that names the data sets", "data")
    eval_examples: int = flag(50, "questions per task at a validation", "cadence")
    generation_prompts: tuple[str, ...] = flag(
        (), "what samples begin with, separated by | [a question of each set]", "cadence", env="GENERATION_PROMPTS"
    )
    seq_len: int = flag(160, "tokens of context", "model", also=("block_size",))


@dataclass(frozen=True, kw_only=True)
class MidtrainConfig(ChatConfig):
    pack: bool = flag(True, "several conversations in a row", "data", off="one conversation in a row")
    use_prepared: bool = flag(False, "keep what was tokenized, and use it again", "data")
    prepared: str | None = flag(None, "folder for it [OUT/prepared, or runs/prepared]", "data")


@dataclass(frozen=True, kw_only=True)
class SftConfig(MidtrainConfig):
    pack: bool = flag(False, "put several conversations into a row", "data")
    learning_rate: float = flag(1e-3, "peak learning rate", "training")


@dataclass(frozen=True, kw_only=True)
class DpoConfig(ChatConfig):
    default_steps = 100
    batch_size: int = flag(16, "pairs per rank and micro-batch", "training")
    learning_rate: float = flag(1e-4, "peak learning rate", "training")
    beta: float = flag(0.1, "strength of the pull towards the reference", "training")
    chosen_weight: float = flag(
        0.0, "weight of the chosen reply's own likelihood in the loss", "training", range=NOT_NEGATIVE
    )


@dataclass(frozen=True, kw_only=True)
class PpoConfig(ChatConfig):
    default_steps = 200
    batch_size: int = flag(32, "replies per rank and micro-batch", "training")
    learning_rate: float = flag(1e-4, "peak learning rate", "training")
    rollout_batches: int = flag(2, "batches of replies drawn at once", "training")
    ppo_epochs: int = flag(2, "passes over the replies before new ones are drawn", "training")
    max_reply: int = flag(20, "tokens of a reply", "training")
    clip: float = flag(0.2, "largest change of a probability ratio, and of a value", "training")
    value_weight: float = flag(0.5, "weight of the value loss", "training", range=NOT_NEGATIVE)
    entropy_weight: float = flag(0.0, "weight of the entropy bonus", "training", range=NOT_NEGATIVE)
    gamma: float = flag(1.0, "discount per token", "training", range=SHARE)
    gae_lambda: float = flag(0.95, "of generalised advantage estimation", "training", range=SHARE)
    kl_weight: float = flag(0.02, "initial penalty per nat of KL from the reference", "training", range=NOT_NEGATIVE)
    kl_target: float = flag(6.0, "KL per reply, in nats, that the penalty is adapted towards", "training")


TRAINING_FLAGS = frozenset({
    "steps", "epochs", "grad_accum", "learning_rate", "min_lr", "warmup", "weight_decay", "grad_clip", "nan_loss",
    "dropout", "log_train_freq", "log_freq", "eval_freq", "generate_freq", "watch_freq", "prefetch", "compile",
    "checkpoint_activations", "checkpoint_freq", "resume",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EvalConfig(ChatConfig):
    unused = TRAINING_FLAGS | {"generation_prompts"}
    from_weight: str | None = flag("sft", "weights to judge: a stage's in --out, or a path", "model")
    eval_examples: int = flag(500, "questions per task", "cadence")
    allow_code: bool = flag(False, "run programs that the model writes (pass@1)", "cadence")
    pass_k_samples: int = flag(4, "programs drawn per problem, the k of pass@k", "cadence")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(Config):
    unused = TRAINING_FLAGS | {
        "eval_iters", "batch_size", "data", "data_bytes", "hub_files", "without_hub", "screen", "bad_rows",
        "val_fraction",
    }  # fmt: skip
    from_weight: str | None = flag("sft", "weights to speak with: a stage's in --out, or a path", "model")
    generation_prompts: tuple[str, ...] = flag((), "the same for several, separated by |", "cadence")
    prompt: str | None = flag(None, "what to continue, or to answer", "cadence")
    chat: bool = flag(False, "answer the prompt as the assistant", "cadence")
    max_tokens: int = flag(100, "length of the text", "cadence")
    temperature: float = flag(0.8, "0: always the likeliest token", "cadence", range=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(PpoConfig, DpoConfig, SftConfig):
    """All five stages; a flag that is given holds for each of them."""

    unused = frozenset({"run_id"})
    of_stages: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """What the file says of single stages: stage -> flag -> value."""


CONFIGS: dict[str, type[Config]] = {
    "pretrain": Config, "midtrain": MidtrainConfig, "sft": SftConfig, "dpo": DpoConfig, "ppo": PpoConfig,
    "pipeline": PipelineConfig, "eval": EvalConfig, "generate": GenerateConfig,
}  # fmt: skip
"""The flags of each command."""
