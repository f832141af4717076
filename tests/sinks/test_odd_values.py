"""What a script may send and no far end expects: nothing stalls on it, and what can be shown is shown."""

import math
from pathlib import Path
from typing import Any

import pytest

from sidecar import wire

from .harness import Manager, Run
from .test_otlp import serving
from .test_tensorboard import load
from .wandb_file import read_all

SIZES = {"one": 1, "many": 1_000, "odd": 1_537}


def test_histograms_of_any_size_and_words_under_an_axis_stall_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run(tmp_path)
    with serving() as receiver:
        options: dict[str, Any] = {"allow": ("histograms", "text"), "otlp_endpoint": receiver.url}
        with Manager(run, "wandb", "tensorboard", "otlp", **options) as manager:
            run.steps(1, 2)
            run.emit(wire.Histogram(run.now_ns, 0, 2, "weights/none", [], []))
            for name, size in SIZES.items():
                edges = [float(edge) for edge in range(size + 1)]
                run.emit(wire.Histogram(run.now_ns, 0, 2, f"weights/{name}", edges, [1.0] * size))
            run.emit(wire.Log(run.now_ns, 0, None, {"train/global_step": "word", "own": 1.0}))
            run.emit(wire.Log(run.now_ns, 0, None, {"train/global_step": math.nan, "own": 2.0}))
            run.emit(wire.Log(run.now_ns, 0, None, {"train/num_input_tokens_seen": "word", "own": 3.0}))
            manager.drain()
            for sink in ("wandb", "tensorboard", "otlp"):
                health = manager.health(sink)
                assert (health.failures_total, health.dead_letters_total) == (0, 0), (sink, health)
    (file,) = read_all(tmp_path, "run-1")
    axes = [(row["train/global_step"], row["train/num_input_tokens_seen"]) for row in file.history if "own" in row]
    assert axes == [(2, 2000)] * 3
    for name, size in SIZES.items():
        (row,) = [row for row in file.history if f"weights/{name}/values" in row]
        counts, edges = row[f"weights/{name}/values"], row[f"weights/{name}/bins"]
        assert (sum(counts), len(edges), edges[0], edges[-1]) == (size, len(counts) + 1, 0, size)
        assert len(counts) <= 512
        assert all(count == high - low for count, low, high in zip(counts, edges, edges[1:], strict=False))
    assert load(tmp_path).Tags()["histograms"] == [f"weights/{name}" for name in SIZES]
