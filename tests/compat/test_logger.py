# ruff: noqa: E501 - scripts and tables read better on one line
import math
import subprocess
import sys

import pytest
import torch

from sidecar.client import run as runs
from sidecar.client.compat import Logger, sample_name


def test_numbers_texts_and_histograms_arrive_at_their_steps(listener) -> None:
    logger = Logger("wandb", {"n_layer": 4, "learning_rate": 1e-3}, project="bdh", entity="me", name="one")
    logger.log_metrics({"train/loss": torch.tensor(1.5), "train/lr": 0.1, "train/step": 10}, step=10)
    logger.log_metrics({"val/loss": 2.0, "val/accuracy": float("nan")}, step=10)
    logger.log_text("sample/once", "Once upon a time", step=10)
    logger.log_text("To be or not to be", "that", 10)
    logger.log_histogram("weights/wte", torch.arange(100.0), step=10)
    logger.finish()
    run = logger.run
    rows = listener.rows(run.id, ("log",))
    assert rows[0].metrics == {"train/loss": 1.5, "train/learning_rate": 0.1, "train/global_step": 10}
    assert rows[1].metrics["val/loss"] == 2.0
    assert math.isnan(rows[1].metrics["val/accuracy"])
    texts = {key: value for row in listener.rows(run.id, ("text",)) for key, value in row.metrics.items()}
    assert texts == {"sample/once": "Once upon a time", "sample/To be or not to be": "that"}
    (histogram,) = listener.rows(run.id, ("histogram",))
    assert sum(histogram.metrics["weights/wte"]["counts"]) == 100
    assert len(histogram.metrics["weights/wte"]["edges"]) == 65
    state = listener.projector(run.id)[0].state
    assert (state.project, state.entity, state.sinks) == ("bdh", "me", ["wandb"])
    assert state.config == {"n_layer": 4, "learning_rate": 1e-3}


def test_several_backends_are_several_outlets() -> None:
    assert Logger("wandb,tensorboard", log_dir="runs/a").run is not None


def test_none_is_no_run_at_all() -> None:
    logger = Logger(backend="none", config={"a": 1})
    logger.log_metrics({"a": 1}, step=0)
    logger.log_text("a", "b", 0)
    logger.log_histogram("h", [1], 0)
    logger.finish()
    assert logger.run is None
    assert runs.current() is None


def test_an_unknown_backend_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match="wandb, tensorboard, none"):
        Logger("mlflow")


def test_a_text_as_second_argument_is_the_project() -> None:
    logger = Logger("tensorboard", "bdh-training")
    assert logger.run.project == "bdh-training"


def test_no_backends_library_is_imported() -> None:
    code = "import sys; from sidecar.client.compat import Logger; Logger('wandb,tensorboard').finish(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"'wandb'", "'tensorboard'", "'torch'"} & set(done.stdout.strip("[]\n").split(", "))


def test_sample_names_stay_unique_for_equal_prefixes() -> None:
    long = "In a galaxy far, far away there "
    assert sample_name("short") == "sample/short"
    assert sample_name(long + "was") != sample_name(long + "is")
    assert sample_name(long + "was").startswith("sample/In a galaxy far, far away there"[:37])
