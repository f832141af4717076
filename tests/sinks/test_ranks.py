"""Of what several ranks log under one name, W&B and TensorBoard draw the lowest rank's; files keep all."""

from pathlib import Path
from typing import Any

import pytest

from sidecar import wire
from sidecar.rows import Row
from sidecar.sinks.ranks import LowestRank

from .harness import Manager, Run
from .test_tensorboard import load, points


def row(rank: int, kind: str = "log", **metrics: Any) -> Row:
    return Row("r", rank, 0, 1, 0.0, kind, metrics)


def test_a_name_is_the_lowest_ranks_that_tells_it() -> None:
    lowest = LowestRank()
    batches = [
        [row(2, a=1, b=1), row(0, a=2)], [row(2, a=3, b=3), row(1, a=4, c=4)], [row(0, b=5)],
        [row(2, b=6), row(1, c=7)],
    ]  # fmt: skip
    kept = [[each.metrics for each in lowest.feed(batch)] for batch in batches]
    assert kept == [[{"b": 1}, {"a": 2}], [{"b": 3}, {"c": 4}], [{"b": 5}], [{}, {"c": 7}]]
    assert batches[0][0].metrics == {"a": 1, "b": 1}


@pytest.mark.parametrize("kind", ["step", "derived", "hardware"])
def test_steps_and_what_the_sidecar_tells_pass(kind: str) -> None:
    rows = [row(0, kind, a=1), row(3, kind, a=2), row(-1, kind, a=3)]
    assert LowestRank().feed(rows) == rows


def test_probes_of_all_ranks_are_one_line_in_tensorboard_and_all_there_in_the_file(tmp_path: Path) -> None:
    run = Run(tmp_path, world_size=2)
    other = Run(tmp_path, session=8, rank=1, world_size=2)
    with Manager(run, "tensorboard", "jsonl") as manager:
        for step in (1, 2):
            for each in (run, other):
                each.now_ns = run.now_ns
                each.emit(each.step_event(step, {}))
                each.emit(wire.Log(each.now_ns, 0, step, {"gradients/global_norm": float(each.session)}))
                each.emit(wire.Histogram(each.now_ns, 0, step, "weights/w", [0.0, 1.0], [float(each.session)]))
        manager.drain()
    read = load(tmp_path)
    assert points(read, "gradients/global_norm") == [(1, 7.0), (2, 7.0)]
    assert [step for step, _ in points(read, "train/loss")] == [1, 2]
    assert [event.histogram_value.num for event in read.Histograms("weights/w")] == [7.0, 7.0]
    written = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert written.count('"gradients/global_norm"') == 4
