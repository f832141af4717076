"""Functions of nanochat-style scripts: ``enhance_wandb_logging``, ``DatasetTracker``, ``log_evaluation_metrics_3d``.

Given: the arguments such scripts pass. Hands on: rows under the canonical names; dataset consumption.
Never: asks NVML or the host anything (the sidecar does), or sends what was not measured.
"""

import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.client import allocator
from sidecar.client import compat_rows as rows
from sidecar.client.cuda_phases import cuda
from sidecar.client.mixture import MixtureTracker
from sidecar.client.run import Run

EXTRAS = {
    "train_loss": "train/loss", "train_lrm": "train/lr_multiplier", "lrm": "train/lr_multiplier",
    "num_tokens": "train/num_tokens", "val_loss": "val/loss", "learning_rate": "train/learning_rate",
    "lr": "train/learning_rate", "grad_norm": "train/grad_norm", "epoch": "train/epoch",
}  # fmt: skip
CHANCE: dict[str, float] = {
    "mmlu": 0.25, "arc_easy": 0.25, "arc_challenge": 0.25, "hellaswag": 0.25, "openbookqa": 0.25, "piqa": 0.5,
    "winogrande": 0.5, "boolq": 0.5,
}  # fmt: skip
"""Accuracy of guessing, by task; 0 for all others (free answers)."""

_stages_reported: "weakref.WeakKeyDictionary[Run, str | None]" = weakref.WeakKeyDictionary()


@rows.never_raises
def enhance_wandb_logging(
    wandb_run: Any,
    step: int,
    device: Any = None,
    dt: float | None = None,
    tokens_per_sec: float | None = None,
    mfu: float | None = None,
    flops_so_far: float | None = None,
    total_training_time: float | None = None,
    training_stage: str = "pretraining",
    dataset_name: str | None = None,
    **additional_metrics: Any,
) -> None:
    """One row of training: ``dt`` in seconds, ``mfu`` in percent, as nanochat computes them.

    The sidecar computes throughput and MFU itself; what the script says arrives as train/mfu_reported, so both can be
    compared. A 0.0 is taken as "not measured" and left out. Further keywords arrive as train/<name> or, when they hold
    a slash, as they are.
    """
    run = rows.run_for(wandb_run, stage=training_stage)
    given = rows.measured(
        {
            "performance/batch_time_ms": rows.milliseconds(dt),
            "train/tokens_per_second": tokens_per_sec,
            "train/mfu_reported": mfu,
            "train/flops_total": flops_so_far,
            "train/total_training_time_seconds": total_training_time,
        },
        "enhance_wandb_logging",
    )
    for name, value in additional_metrics.items():
        given[EXTRAS.get(name, name if "/" in name else f"train/{name}")] = value
    with run._guard("failed_allocator"):
        given.update(_allocator(device))
    _report_stage(run, training_stage)
    if dataset_name:
        given["dataset/current"] = dataset_name
    rows.log(run, given, step, texts=True)


@rows.never_raises
def log_evaluation_metrics_3d(
    wandb_run: Any,
    step: int,
    metrics: Mapping[str, Any],
    training_stage: str = "pretraining",
    *,
    chance: Mapping[str, float] | None = None,
) -> None:
    """Accuracies ``<task>_acc`` (0..1) as eval/<task>_acc, normalised against guessing, and their mean.

    Normalised: (accuracy - chance) / (1 - chance), with CHANCE unless ``chance`` says otherwise.
    """
    run = rows.run_for(wandb_run, stage=training_stage)
    row = _accuracies(metrics, {**CHANCE, **(chance or {})})
    _report_stage(run, training_stage)
    rows.log(run, row, step)


def _accuracies(metrics: Mapping[str, Any], levels: Mapping[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    accuracies = []
    for name, value in metrics.items():
        accuracy = rows.number(value)
        if accuracy is None or not isinstance(name, str) or not name.endswith("_acc"):
            row[name] = value
            continue
        task = name.removeprefix("eval/").removesuffix("_acc")
        guessed = levels.get(task, 0.0)
        row[f"eval/{task}_acc"] = accuracy
        row[f"eval/{task}_acc_normalized"] = rows.ratio(accuracy - guessed, 1.0 - guessed)
        accuracies.append(accuracy)
    if accuracies:
        row["eval/mean_acc"] = sum(accuracies) / len(accuracies)
    return row


class DatasetTracker:
    """Which datasets a mixture has given: ``increment`` where an example is read, ``log_step`` once a step.

    What was read counts as consumed when ``log_step`` is reached; the sidecar sums over ranks and computes shares,
    coverage and epochs from the sizes.
    """

    def __init__(self, task_names: Sequence[str], task_sizes: Sequence[int], *, strict: bool = False) -> None:
        """Raises ValueError for unequal lengths or sizes that are not positive."""
        self._tracker = MixtureTracker(task_names, task_sizes, strict=strict)
        self.task_names, self.task_sizes = self._tracker.names, self._tracker.sizes

    @property
    def examples_seen(self) -> dict[str, int]:
        """Read so far on this rank, by dataset."""
        queued = self._tracker.queued
        totals = {name: counts[0] for name, counts in self._tracker.seen.items()}
        for name, counts in queued.items():
            totals[name] = totals.get(name, 0) + counts[0]
        return totals

    @property
    def current(self) -> str | None:
        return self._tracker.current

    def increment(self, dataset_name: str, count: int = 1, tokens: int = 0) -> None:
        """Raises KeyError for an unknown name only when ``strict``; otherwise it counts under "unknown"."""
        self._tracker.increment(dataset_name, count, tokens)

    @rows.never_raises
    def log_step(
        self, wandb_run: Any, step: int, current_dataset_name: str | None = None, log_every: int = 100
    ) -> None:
        """Reports on multiples of ``log_every`` only."""
        if log_every > 0 and step % log_every != 0:
            return
        if isinstance(current_dataset_name, int):  # log_step(run, step, 10): older scripts pass log_every here.
            current_dataset_name = None
        run = rows.run_for(wandb_run)
        self._tracker.flush(run)
        if run._last_step is None:  # Nobody reports steps that would carry it.
            run._emit_consumed(step, run._take_datasets())
        name = current_dataset_name or self._tracker.current
        if name:
            rows.log(run, {"dataset/current": name}, step, texts=True)


def _report_stage(run: Run, stage: str | None) -> None:
    """The stage belongs to the run, which has begun: a stage that comes later goes into its configuration."""
    if stage and stage != _stages_reported.get(run, run.stage):
        run.config({"training_stage": stage})
    _stages_reported[run] = stage


def _allocator(device: Any) -> dict[str, float]:
    """What torch's allocator holds, which no other process can see. Asks no device."""
    found = cuda()
    if found is None or not str(device).startswith("cuda"):
        return {}
    return allocator.readings(found, device=sys.modules["torch"].device(device).index)
