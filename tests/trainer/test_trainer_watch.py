"""A look inside the model, only where it is asked for, and without a trace in what is learned."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.capture.conftest import Listener, listener  # noqa: F401 - a fixture


def test_nothing_is_watched_unless_asked_for(trained) -> None:
    assert trained(steps=2).watched == []
    (watched,) = trained(steps=2, watch_freq=7).watched
    assert (watched["every"], watched["histograms"], watched["activations"]) == (7, True, True)
    assert {id(p) for g in watched["optimizer"].param_groups for p in g["params"]} == {
        id(p) for p in watched["model"].parameters()
    }
    assert isinstance(watched["model"], torch.nn.Module)


def test_what_is_seen_arrives_and_the_losses_are_the_same_to_the_last_bit(
    corpus: Path,
    repository: Path,
    tmp_path: Path,
    listener: Listener,  # noqa: F811
) -> None:
    def run(name: str, *more: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", "pretrain", "--data", str(corpus), "--steps", "6", "--n_layer", "1",
             "--n_head", "2", "--n_embd", "32", "--seq_len", "32", "--batch_size", "4", "--threads", "1",
             "--device", "cpu", "--run_id", name, "-q", *more],
            cwd=repository, env={"PATH": "/usr/bin:/bin", "SIDECAR_ENDPOINT": listener.endpoint, "HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = listener.rows(name, ("step",), wait=lambda rows: len(rows) >= 6)
        return [row.metrics["train/loss"] for row in rows]

    assert run("plain") == run("watched", "--watch_freq", "3")
    logs = listener.rows("watched")
    for name in ("gradients/global_norm", "weights/global_std", "updates/ratio"):
        assert [row.step for row in logs if name in row.metrics] == [3, 6], name
    assert any(name.startswith("activations/") for row in logs for name in row.metrics)
    bins = {name for row in listener.rows("watched", ("histogram",)) for name in row.metrics}
    assert {name.partition("/")[0] for name in bins} == {"gradients", "weights", "activations"}
    assert listener.projector("watched")[0].state.ranks[0].rejected == {}
