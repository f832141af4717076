"""``sidecar export`` and ``sidecar runs`` on the journal of a real run."""

import contextlib
import csv
import io
import json
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
from sinks.harness import Run

from sidecar import export_format, wire
from sidecar.cli import main
from sidecar.export_format import FIXED_COLUMNS, metric_of
from sidecar.follow import Follower
from sidecar.sinks.long import finite_or_word


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_json_lines_have_every_row_in_order_with_nan_as_a_word(
    trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "latest", "--dir", str(trained), "--format", "jsonl", "-o", "-"]) == 0
    rows = lines(capfd)
    assert all(list(row) == ["run", "rank", "seq", "step", "time", "kind", "metrics"] for row in rows)
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5]
    assert [row["metrics"]["train/loss"] for row in steps] == [4.0, 2.0, "NaN", 1.0, 0.8]  # type: ignore[index]
    assert {row["metrics"]["train/num_tokens"] for row in steps} == {64}  # type: ignore[index]
    logged = [row for row in rows if row["kind"] == "log"]
    assert logged[0]["metrics"] == {"val/loss": 1.5, "odd": "Infinity"}
    assert {row["kind"] for row in rows} == {"step", "dataset", "log", "text"}
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)  # type: ignore[type-var]


def test_derived_adds_rows_of_the_same_shape(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "r1", "--dir", str(trained)]) == 0
    plain = lines(capfd)
    assert main(["export", "small", "--dir", str(trained), "--derived"]) == 0
    full = lines(capfd)
    assert [row for row in full if row["kind"] not in ("derived", "hardware")] == plain
    assert len([row for row in full if row["kind"] == "derived"]) == 5


def test_csv_has_a_column_for_each_metric_and_survives_quotes_and_newlines(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "run.csv"
    assert main(["export", "r1", "--dir", str(trained), "--format", "csv", "-o", str(target)]) == 0
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["train/loss"] for row in steps] == ["4.0", "2.0", "NaN", "1.0", "0.8"]
    assert [row["sample/hello"] for row in rows if row["kind"] == "text"] == ["he said \u201chi\u201d,\nand left"]
    assert not list(tmp_path.glob(".*.draft"))


def test_parquet_has_typed_columns_and_true_nans(trained: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "run.parquet"
    assert main(["export", "r1", "--dir", str(trained), "--format", "parquet", "-o", str(target)]) == 0
    table = parquet.read_table(target)
    steps = [row for row in table.to_pylist() if row["kind"] == "step"]
    assert str(table.schema.field("train/loss").type) == "double"
    assert str(table.schema.field("train/num_tokens").type) == "int64"
    assert steps[2]["train/loss"] != steps[2]["train/loss"]
    assert steps[4]["train/loss"] == 0.8


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_metric_named_like_a_fixed_column_has_a_column_of_its_own(tmp_path: Path, kind: str) -> None:
    """Captured scripts log their step as a metric: wandb.log({"step": 7, "loss": 1.0})."""
    parquet = pytest.importorskip("pyarrow.parquet")
    run = Run(tmp_path)
    run.emit(wire.Log(run.now_ns, 1, step=2, metrics={"step": 7, "metrics.step": 8, "loss": 1.5}))
    target = tmp_path / f"run.{kind}"
    assert main(["export", "run-1", "--dir", str(tmp_path), "--format", kind, "-o", str(target)]) == 0
    if kind == "csv":
        [row] = csv.DictReader(io.StringIO(target.read_text()))
    else:
        [row] = parquet.read_table(target).to_pylist()
    shown = {name: float(row[name]) for name in ("step", "metrics.step", "metrics.metrics.step", "loss")}
    assert shown == {"step": 2, "metrics.step": 7, "metrics.metrics.step": 8, "loss": 1.5}
    assert {metric_of(name) for name in row} == {*FIXED_COLUMNS, "step", "metrics.step", "loss"}


def test_runs_for_programs_has_exactly_the_promised_fields(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json", "--dir", str(trained)]) == 0
    [run] = json.loads(capfd.readouterr().out)
    assert list(run) == ["run_id", "project", "name", "stage", "state", "last_step"]
    assert list(run.values()) == ["r1", "tests", "small", "pretrain", "finished", 5]


def test_runs_of_another_project_are_left_out(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json", "--dir", str(trained), "--project", "other"]) == 0
    assert json.loads(capfd.readouterr().out) == []


def test_damaged_rows_are_told_and_the_others_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    run.steps(1, 3)
    path = run.journal.path
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE frames SET records = ? WHERE row = 2", (b"garbage",))
        database.commit()
    assert main(["export", "latest", "--dir", str(tmp_path)]) == 0
    out, said = capfd.readouterr()
    assert [json.loads(line)["step"] for line in out.splitlines()] == [1, 3]
    assert said == f"warning: 1 row of the journal, of up to 128 events, is damaged and left out ({path})\n"


def test_a_journal_that_cannot_be_read_is_an_error_in_words(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (source,) = (trained / "runs").glob("*.sqlite")
    (tmp_path / "runs" / "r.sqlite").write_bytes(source.read_bytes()[:4096] + bytes(40_960))
    assert main(["export", "r", "--dir", str(tmp_path)]) == 3
    assert capfd.readouterr().err.startswith("error: the journal of 'r' is damaged, or cannot be read: ")


def test_run_that_does_not_exist_is_named_with_those_that_do(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "r2", "--dir", str(trained)]) == 3
    assert capfd.readouterr().err == f"error: no run 'r2' in {trained}\nfix: there are: r1\n"


def test_file_that_cannot_be_written_leaves_nothing_behind(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "missing" / "run.csv"
    assert main(["export", "r1", "--dir", str(trained), "-o", str(target)]) == 73
    assert "No such file or directory" in capfd.readouterr().err


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    run = Run(tmp_path / "data")
    run.steps(1, 3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    assert main(["export", "run-1", "--dir", str(tmp_path / "data"), "-o", str(pipe)]) == 0
    out, _ = reader.communicate(timeout=30)
    assert [json.loads(line)["step"] for line in out.splitlines()] == [1, 2, 3]
    assert pipe.is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "pipe"}


def test_the_name_of_an_open_file_gets_the_rows_and_nothing_beside_it(tmp_path: Path) -> None:
    """As /dev/stdout in a shell that writes to a file."""
    run = Run(tmp_path / "data", project="demo")
    run.steps(1, 3)
    (tmp_path / "dev").mkdir()
    stdout = tmp_path / "dev" / "stdout"
    with (tmp_path / "rows.csv").open("wb") as opened:
        stdout.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        assert main(["export", "run-1", "--dir", str(tmp_path / "data"), "--format", "csv", "-o", str(stdout)]) == 0
    assert (tmp_path / "rows.csv").read_text().startswith("run,rank,seq")
    assert list(stdout.parent.iterdir()) == [stdout]


def test_a_full_disk_is_an_error_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    run.steps(1, 3)
    for kind in ("jsonl", "csv", "parquet"):
        link = tmp_path / f"full.{kind}"
        link.symlink_to("/dev/full")
        assert main(["export", "run-1", "--dir", str(tmp_path), "--format", kind, "-o", str(link)]) == 73
        assert "No space left on device" in capfd.readouterr().err


def test_nan_becomes_a_word_inside_lists_and_maps_too() -> None:
    value = {"a": [float("nan"), 1.0, {"b": float("-inf")}], "c": "text", "d": True}
    assert finite_or_word(value) == {"a": ["NaN", 1.0, {"b": "-Infinity"}], "c": "text", "d": True}


@pytest.mark.parametrize("left", [0, 5])
def test_totals_go_on_where_retention_removed_the_oldest_events(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], left: int
) -> None:
    run = Run(tmp_path, model_facts={"flops_per_token": 6e6, "peak_flops": 1e12})
    run.steps(1, 20 - left)
    follower = Follower(run.store.path("run-1"), "run-1")
    list(follower.read(1000))
    checkpoint = follower.checkpoint()
    assert checkpoint is not None
    run.journal.checkpoint(checkpoint)
    run.steps(21 - left, 20)
    assert main(["export", "run-1", "--dir", str(tmp_path), "--derived"]) == 0
    whole = lines(capfd)
    run.journal.drop_through(checkpoint.row)
    if left == 0:
        run.steps(21, 22)
    assert main(["export", "run-1", "--dir", str(tmp_path), "--derived"]) == 0
    rest = lines(capfd)
    if left:
        assert rest == whole[-2 * left :]
    seen = [row["metrics"]["train/num_input_tokens_seen"] for row in rest if row["kind"] == "derived"]  # type: ignore[index]
    assert seen[-1] == 1000 * (20 if left else 22)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_is_known_of_the_run_goes_with_the_file_and_adds_no_row(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    config = {"lr": 0.5, "deep": {"layers": [1, 2]}, "api_key": "canary", "tokenizer": "gpt2", "url": "x://u:pw@h/"}
    run = Run(tmp_path / "data", config=config, model_facts={"params": 10}, tags=["t"])
    run.steps(1, 3)
    target = tmp_path / f"out.{kind}"
    assert main(["export", "run-1", "--dir", str(tmp_path / "data"), "--format", kind, "-o", str(target)]) == 0
    facts = export_format.read(target)
    assert facts is not None
    assert (facts.run_id, facts.project, facts.name, facts.stage) == ("run-1", "demo", "d12", "pretrain")
    assert (facts.total_steps, facts.model_facts, facts.tags) == (100, {"params": 10}, ["t"])
    redacted = {"api_key": "[redacted]", "url": "[redacted]"}
    assert facts.config == {"lr": 0.5, "deep": {"layers": [1, 2]}, "tokenizer": "gpt2"} | redacted
    written = {target.name} if kind == "parquet" else {target.name, "out.run.json"}
    assert {path.name for path in tmp_path.glob("out*")} == written
    assert main(["export", "run-1", "--dir", str(tmp_path / "data"), "--format", "jsonl", "-o", "-"]) == 0
    assert [row["kind"] for row in lines(capfd)] == ["step"] * 3


def test_an_export_without_facts_has_none(tmp_path: Path) -> None:
    assert export_format.read(tmp_path / "none.jsonl") is None
    (tmp_path / "torn.run.json").write_text("{")
    assert export_format.read(tmp_path / "torn.csv") is None
    assert export_format.read(tmp_path / "missing.parquet") is None
