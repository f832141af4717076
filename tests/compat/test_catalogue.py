# ruff: noqa: E501 - scripts and tables read better on one line
"""Every number the documents' functions send is in the catalogue, and arrives in W&B's and TensorBoard's files."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from sidecar import metrics
from sidecar.client.compat import ComprehensiveWandbLogger, enhance_wandb_logging, log_evaluation_metrics_3d
from sidecar.client.run import Run

NOT_IN_IT = {"dataset/current"}


def everything(logger: ComprehensiveWandbLogger) -> Run:
    """One call of each function, with every number there is."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    model(torch.ones(1, 4)).sum().backward()
    logger.log_training_metrics(train_loss=1.0, eval_loss=1.5, learning_rate=1e-3, epoch=0.5, step=1, grad_norm=0.5)
    logger.log_batch_metrics(1.0, 4, 1e-3, 0.5)
    logger.log_gradient_metrics(model)
    logger.log_weight_metrics(model)
    logger.log_data_quality_metrics(10, 0.5, {"python": 10}, 9.0, {"malicious": 1, "secrets": 1, "license": 1})
    logger.log_dataset_stats(9, 1, 5.0, 9, 1)
    logger.log_performance_metrics(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    logger.log_code_metrics(1.0, 2.0, 3.0, 4.0)
    logger.log_training_progress(1, 10, 1, 2, 60.0)
    logger.log_continuous_training_state(1, 1, 7, 10, 0.5)
    logger.log_custom({"custom/mine": 1.0})
    run = logger.run
    enhance_wandb_logging(run, 2, "cpu", 0.5, 10.0, 40.0, 1e9, 60.0, "sft", "MMLU", train_loss=1.0, lrm=0.5, num_tokens=9)
    log_evaluation_metrics_3d(run, 3, {"mmlu_acc": 0.5, "arc_easy_acc": 0.5, "gsm8k_acc": 0.5, "humaneval_acc": 0.5}, "sft")
    return run


def test_every_name_is_known_to_the_catalogue(last) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = last(everything(ComprehensiveWandbLogger("p")))
    assert len(found) > 60
    assert [name for name in found if metrics.find(name) is None and name not in NOT_IN_IT] == []


@pytest.mark.slow
def test_every_number_is_in_the_wandb_file_and_in_tensorboards(tmp_path: Path, repository: Path) -> None:
    import os
    import subprocess
    import sys

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from tests.sinks import wandb_file

    script = tmp_path / "all.py"
    script.write_text(
        "from sidecar.client.compat import ComprehensiveWandbLogger\n"
        "from tests.compat.test_catalogue import everything\n"
        "everything(ComprehensiveWandbLogger('p', name='all')).finish()\n"
    )
    data = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "run", "--dir", str(data), "--port", "0", "--sink", "wandb,tensorboard",
         "--wandb-mode", "offline", "--run-id", "all", "--", sys.executable, str(script)],
        cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    export = subprocess.run(
        [sys.executable, "-m", "sidecar", "export", "all", "--dir", str(data), "--format", "jsonl", "-o", "-"],
        cwd=repository, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in export.stdout.splitlines()]
    sent = {
        name for row in rows if row["kind"] == "log"
        for name, value in row["metrics"].items() if isinstance(value, int | float)
    }  # fmt: skip
    assert len(sent) > 60
    in_wandb = {name for path in data.rglob("run-*.wandb") for row in wandb_file.read(path).history for name in row}
    assert sorted(sent - in_wandb) == []
    in_board: set[str] = set()
    for file in data.rglob("events.out.tfevents.*"):
        board = EventAccumulator(str(file))
        board.Reload()
        in_board.update(board.Tags()["scalars"])
    assert sorted(sent - in_board) == []
