"""Files that grow with the run hold every row once, whatever is killed."""

import csv
import io
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sidecar import wire
from sidecar.config import load
from sidecar.export import open_run, write_jsonl
from sidecar.sinks.deadletters import file_stem

from .harness import Manager, Run


def values_of(tmp_path: Path, kind: str, name: str = "train/loss") -> list[tuple[int, float]]:
    """(step, value) of step rows, as each format's own reader sees them."""
    if kind == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "files" / "run-1.jsonl").read_text().splitlines()]
        found = [(row["step"], row["metrics"][name]) for row in rows if row["kind"] == "step"]
        return [(step, float(value)) for step, value in found]
    if kind == "csv":
        with (tmp_path / "files" / "run-1.csv").open(newline="") as file:
            lines: list[dict[str, Any]] = list(csv.DictReader(file))
    else:
        lines = pq.read_table(tmp_path / "files" / "run-1.parquet").to_pylist()
        lines.sort(key=lambda line: line["number"])
    return [
        (int(line["step"]), float(line["value"])) for line in lines if line["name"] == name and line["kind"] == "step"
    ]


KINDS = pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])


@KINDS
def test_every_value_is_there_once_over_restarts(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path)
    for first in (0, 10, 20):
        run.steps(first, first + 9)
        with Manager(run, kind) as manager:
            manager.drain()
    assert values_of(tmp_path, kind) == [(step, 4.0 / (1 + step)) for step in range(30)]


@KINDS
def test_nan_and_infinities_are_preserved(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path)
    run.steps(0, 0, **{"train/loss": math.nan, "high": math.inf})
    with Manager(run, kind) as manager:
        manager.drain()
    assert math.isnan(values_of(tmp_path, kind)[0][1])
    assert values_of(tmp_path, kind, "high") == [(0, math.inf)]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_torn_last_line_is_cut_and_its_rows_come_again(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path)
    run.steps(0, 9)
    run.emit(wire.Text(run.now_ns, 0, 9, "sample", "two\nlines"))
    with Manager(run, kind) as manager:
        manager.drain()
    path = tmp_path / "files" / f"run-1.{kind}"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with Manager(run, kind) as manager:
        manager.drain()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "tensorboard"])
def test_a_run_that_was_sent_whole_is_not_sent_again_however_often_its_outlet_is_opened(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.steps(0, 4)
    run.emit(wire.Log(run.now_ns, 0, 5, {}))  # In CSV and Parquet it has no line that could tell of it.
    run.finish()
    delivered = []
    for _ in range(3):
        with Manager(run, kind) as manager:
            manager.drain()
            delivered.append(manager.health(kind).delivered_rows)
    assert delivered == [11, 0, 0]
    assert not caplog.records


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_after_a_kill_or_a_power_cut_the_file_is_repaired_and_not_believed(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path)
    run.steps(0, 9)
    path, noted = tmp_path / "files" / f"run-1.{kind}", tmp_path / "files" / f".run-1.{kind}.place"
    with Manager(run, kind) as manager:
        manager.drain()
        assert not noted.exists(), "while it is open, a kill may tear what is written"
    whole = path.read_bytes()
    for content in (whole[:-40] + bytes(40), bytes(len(whole)), whole + whole[-40:]):
        assert noted.exists()
        path.write_bytes(content)
        with Manager(run, kind) as manager:
            manager.drain()
        assert path.read_bytes() == whole
    noted.unlink()
    with Manager(run, kind) as manager:
        manager.drain()
        assert manager.health(kind).delivered_rows == 1
    assert path.read_bytes() == whole


@pytest.mark.parametrize("left", [b"", b"PAR1", b"PAR1" + bytes(500)])
def test_parquet_parts_that_a_power_cut_emptied_are_written_again(tmp_path: Path, left: bytes) -> None:
    run = Run(tmp_path)
    for first in (0, 5, 10):
        run.steps(first, first + 4)
        with Manager(run, "parquet") as manager:
            manager.drain()
    parts = sorted((tmp_path / "files" / "run-1.parquet").iterdir())
    assert len(parts) == 3
    for path in parts[1:]:
        path.write_bytes(left)
    with Manager(run, "parquet") as manager:
        manager.drain()
    assert values_of(tmp_path, "parquet") == [(step, 4.0 / (1 + step)) for step in range(15)]


def test_a_killed_parquet_child_loses_nothing_that_it_had_gathered(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "parquet") as manager:
        run.steps(0, 9)
        manager.drain()
        os.kill(manager.manager._runners["run-1", "parquet"]._sink.pid, signal.SIGKILL)
        run.steps(10, 19)
        manager.drain()
    assert values_of(tmp_path, "parquet") == [(step, 4.0 / (1 + step)) for step in range(20)]


def test_text_and_histograms_are_kept_as_text(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.emit(wire.Text(run.now_ns, 0, 1, "sample", "once"))
    run.emit(wire.Histogram(run.now_ns, 0, 1, "w", [0.0, 1.0], [2.0]))
    with Manager(run, "parquet") as manager:
        manager.drain()
    found = {line["name"]: line["text"] for line in pq.read_table(tmp_path / "files" / "run-1.parquet").to_pylist()}
    assert found["sample"] == "once"
    assert json.loads(found["w"]) == {"edges": [0.0, 1.0], "counts": [2.0]}


def test_a_removed_file_is_written_anew_from_the_first_row(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "jsonl") as manager:
        run.steps(0, 4)
        manager.drain()
    (tmp_path / "files" / "run-1.jsonl").unlink()
    run.steps(5, 9)
    with Manager(run, "jsonl") as manager:
        manager.drain()
    assert [step for step, _ in values_of(tmp_path, "jsonl")] == list(range(10))


@KINDS
def test_a_growing_file_has_every_row_of_every_kind_that_an_export_has(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path)
    run.steps(0, 4)
    now = run.now_ns
    run.emit(
        wire.Text(now, 0, 4, "sample", "once"), wire.Histogram(now, 0, 4, "w", [0.0, 1.0], [math.inf]),
        wire.PhaseExited(now, 0, 4, "evaluation", 1.5), wire.Consumed(now, 0, 4, {"web": (2, 64)}),
        wire.Checkpoint(now, 0, 4, 2.0, 1024, "last"), wire.Log(now, 0, 1, {"val/loss": math.nan, "flag": True}, True),
        wire.Hardware(now, 0, 4, {"cpu_percent": 12.5}, [{"index": 0, "uuid": "GPU-0", "power_watts": 300.0}]),
    )  # fmt: skip
    run.finish()
    with Manager(run, kind) as manager:
        manager.drain()
    out = io.BytesIO()
    with open_run(load({"dir": str(tmp_path)}, {}).config, "run-1") as opened:
        write_jsonl(opened, out, derived=True)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    kinds = {"step", "derived", "text", "histogram", "phase", "dataset", "checkpoint", "late", "hardware"}
    assert {row["kind"] for row in rows} == kinds
    path = tmp_path / "files" / f"run-1.{kind}"
    if kind == "jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line.pop("number") for line in lines] == list(range(len(rows)))
        assert lines == rows
        return
    if kind == "csv":
        with path.open(newline="") as file:
            found = [(int(line["number"]), line["kind"], line["name"]) for line in csv.DictReader(file)]
    else:
        found = [(line["number"], line["kind"], line["name"]) for line in pq.read_table(path).to_pylist()]
    assert found == [(number, row["kind"], name) for number, row in enumerate(rows) for name in row["metrics"]]


def test_runs_whose_ids_look_alike_as_file_names_do_not_share_a_file(tmp_path: Path) -> None:
    ids = ["a_b", "a/b", "a:b", "../a_b", ".a_b", "", "x" * 120, "x" * 121, "x" * 122, "\udcff"]
    stems = {file_stem(run_id) for run_id in ids}
    assert len(stems) == len(ids)
    assert {"a_b", "x" * 120} <= stems
    assert all(stem.isascii() and "/" not in stem and stem[0] != "." and len(stem) <= 120 for stem in stems)
    for number, run_id in enumerate(("a_b", "a/b")):
        run = Run(tmp_path, run_id=run_id, session=number + 7)
        run.steps(number, number + 2)
        with Manager(run, "jsonl", "tensorboard") as manager:
            manager.drain()
    files = [path.read_text() for path in (tmp_path / "files").glob("*.jsonl")]
    assert sorted(text.count('"kind":"step"') for text in files) == [3, 3]
