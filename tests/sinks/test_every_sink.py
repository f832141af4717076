"""One recorded run through every sink at once: equal steps and values, read back by each format's own reader."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sidecar import wire
from sidecar.follow import Follower
from sidecar.rows import Row

from .harness import Manager, Run
from .test_otlp import Receiver, serving
from .test_tensorboard import load
from .wandb_file import read_all

Points = list[tuple[int, float]]
SINKS = ("wandb", "tensorboard", "jsonl", "csv", "parquet", "otlp")
ODD_NAMES = ("a b", "ünï/cödé", "a.b.c", "deep/" * 37 + "er", "a/b/c/d", "0digit", "semi;colon,comma", 'quo"te', "5%",
             "{b}")  # fmt: skip
MANY = 10_000


class Delivered:
    """What each reader finds."""

    def __init__(self, directory: Path, run: Run, receiver: Receiver, health: dict[str, Any]) -> None:
        self.directory, self.receiver, self.health = directory, receiver, health
        follower = Follower(run.store.path("run-1"), "run-1", from_checkpoint=False)
        self.rows: list[Row] = [row for _, rows in follower.read(1_000_000) for row in rows]
        self.read = {
            "wandb": self._wandb(), "tensorboard": self._tensorboard(), "jsonl": self._jsonl(), "csv": self._csv(),
            "parquet": self._parquet(), "otlp": self._otlp(),
        }  # fmt: skip

    def expected(self, name: str) -> Points:
        return [(row.step or 0, number(row.metrics[name])) for row in self.rows if is_number(row.metrics.get(name))]

    def found(self, sink: str, name: str) -> Points:
        return self.read[sink].get(name, [])

    def _wandb(self) -> dict[str, Points]:
        (file,) = read_all(self.directory, "run-1")
        return gathered((row["train/global_step"], name, value) for row in file.history for name, value in row.items())

    def _tensorboard(self) -> dict[str, Points]:
        read = load(self.directory)
        return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}

    def _jsonl(self) -> dict[str, Points]:
        rows = [json.loads(line) for line in (self.directory / "files/run-1.jsonl").read_text().splitlines()]
        words = {"NaN", "Infinity", "-Infinity"}
        return gathered(
            (row["step"] or 0, name, float(value) if value in words else value)
            for row in rows for name, value in row["metrics"].items() if isinstance(value, str | int | float)
        )  # fmt: skip

    def _csv(self) -> dict[str, Points]:
        with (self.directory / "files/run-1.csv").open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["value"]]
        return gathered((int(line["step"] or 0), line["name"], float(line["value"])) for line in lines)

    def _parquet(self) -> dict[str, Points]:
        lines = pq.read_table(self.directory / "files/run-1.parquet").to_pylist()
        lines.sort(key=lambda line: line["number"])
        return gathered((line["step"] or 0, line["name"], line["value"]) for line in lines)

    def _otlp(self) -> dict[str, Points]:
        steps = dict(self.receiver.points("train/global_step"))
        return gathered((steps.get(at, 0), name, value) for name, at, value in self.receiver.every_point())


def gathered(values: Any) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for step, name, value in values:
        if is_number(value):
            found.setdefault(name, []).append((step, number(value)))
    return found


def is_number(value: object) -> bool:
    return isinstance(value, bool | int | float)


def number(value: Any) -> float:
    return float(value)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivered]:
    directory = tmp_path_factory.mktemp("every")
    run = Run(directory, model_facts={"params": 10, "flops_per_token": 6e6, "peak_flops": 1e12})
    with serving() as receiver:
        with Manager(run, *SINKS, otlp_endpoint=receiver.url) as manager:
            run.steps(0, 29)
            special = {0: math.nan, 1: math.inf, 2: -math.inf, 3: 1e-300, 4: 0.1, 5: 2**53, 6: -0.0}
            for offset, value in special.items():
                run.steps(30 + offset, 30 + offset, special=value)
            for offset, value in enumerate((1.0, "words", True, None, [1, 2], 2)):
                run.steps(40 + offset, 40 + offset, changing=value)
            run.steps(50, 50, **dict.fromkeys(ODD_NAMES, 7.0))
            run.now_ns += 1_000_000
            run.emit(wire.Log(run.now_ns, 0, 50, {"val/loss": 2.5}))
            for first in range(0, MANY, 500):
                run.now_ns += 1_000_000
                names = {f"many/{index}": float(index) for index in range(first, first + 500)}
                run.emit(wire.Log(run.now_ns, 0, 51, names))
            run.finish()
            manager.drain(120.0)
            health = {sink: manager.health(sink) for sink in SINKS}
        yield Delivered(directory, run, receiver, health)


def same(sink: str, found: Points, expected: Points) -> bool:
    """TensorBoard keeps float32."""
    kind = np.float32 if sink == "tensorboard" else np.float64
    with np.errstate(over="ignore"):
        values = [[kind(value) for _, value in points] for points in (found, expected)]
    steps = [[step for step, _ in points] for points in (found, expected)]
    return steps[0] == steps[1] and np.array_equal(*map(np.array, values), equal_nan=True)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(
    "name",
    ["train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/tokens_per_second",
     "train/mfu_percent", "train/samples_per_second", "val/loss", "special"],
)  # fmt: skip
def test_steps_and_values_are_those_of_the_journal(delivered: Delivered, sink: str, name: str) -> None:
    expected = delivered.expected(name)
    assert expected
    assert same(sink, delivered.found(sink, name), expected), (delivered.found(sink, name), expected)


@pytest.mark.parametrize("sink", SINKS)
def test_a_value_that_changes_its_type_keeps_its_numbers(delivered: Delivered, sink: str) -> None:
    assert delivered.found(sink, "changing") == [(40, 1.0), (42, 1.0), (45, 2.0)]


@pytest.mark.parametrize("sink", SINKS)
def test_odd_names_arrive(delivered: Delivered, sink: str) -> None:
    assert {name for name in ODD_NAMES if delivered.found(sink, name) != [(50, 7.0)]} == set()


@pytest.mark.parametrize("sink", SINKS)
def test_ten_thousand_names_arrive(delivered: Delivered, sink: str) -> None:
    wrong = [i for i in range(MANY) if delivered.found(sink, f"many/{i}") != [(51, float(i))]]
    assert wrong == []


@pytest.mark.parametrize("sink", SINKS)
def test_nobody_complained(delivered: Delivered, sink: str) -> None:
    health = delivered.health[sink]
    assert health.state in ("ok", "offline")
    assert (health.failures_total, health.dead_letters_total, health.lost_rows_total) == (0, 0, 0)
    assert health.delivered_rows == len(delivered.rows)
