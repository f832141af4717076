"""Where runs come from, and that reading them stays bounded."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from sidecar import charts, cli, wire
from sidecar.charts.app import VisualizationApp
from sidecar.charts.data import Collector
from sidecar.charts.load import load_each, load_runs
from sidecar.charts.report import Report
from sidecar.charts.series import BUCKETS_MAX, Grid, Point, Track, thin
from sidecar.errors import UserError
from sidecar.export import OpenRun
from sidecar.follow import Follower
from sidecar.journal import Journal
from sidecar.journal_reader import JournalReader
from sidecar.store import Store
from tests.charts import synthetic
from tests.charts.synthetic import SECOND, T0, Writer


def test_a_track_keeps_every_extreme_of_a_million_values_in_bounded_points() -> None:
    track = Track()
    for step in range(100_000):
        track.add(Point(step, float(step), None, 0.0, 99.0 if step == 54_321 else -7.0 if step == 77 else 1.0))
    points = track.points()
    assert len(points) <= 4 * BUCKETS_MAX
    assert track.count == 100_000
    assert (54_321, 99.0) in {(point.step, point.value) for point in points}
    assert (77, -7.0) in {(point.step, point.value) for point in thin(points, 100)}
    assert points == sorted(points)
    assert points[0].step == 0
    assert points[-1].step == 99_999


def test_a_run_that_keeps_going_back_is_bounded_too() -> None:
    track = Track(64)
    for number in range(20_000):
        track.add(Point(number, float(number % 2 * 10**6), None, 0.0, 1.0))
    assert len(track.points()) <= 4 * 64


def test_a_million_steps_cost_no_more_memory_than_a_hundred_thousand() -> None:
    def kept(steps: int) -> int:
        grid = Grid()
        for step in range(0, steps, 7):
            grid.add(step % 8, step, 1.0)
        return sum(len(cells) for _, cells in grid.columns())

    assert kept(1_000_000) <= 40_000
    assert kept(100_000) <= 40_000


def test_a_project_is_read_and_others_are_not(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "mine", steps=20, project="mine")
    synthetic.run(tmp_path, "other", steps=20, project="other")
    assert [run.run_id for run in load_runs(tmp_path, projects=["mine"])] == ["mine"]
    assert {run.run_id for run in load_runs(tmp_path, projects=["mine", "other"])} == {"mine", "other"}
    assert [run.run_id for run in load_runs(tmp_path, runs=["other"])] == ["other"]


def test_an_unknown_project_ends_with_exit_code_3_the_known_ones_and_the_checklist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.run(tmp_path, steps=20, project="nanochat")
    assert cli.main(["viz", "--dir", str(tmp_path), "--project", "nanochta"]) == 3
    said = capsys.readouterr().err
    assert "unknown project 'nanochta'" in said
    assert "known projects: nanochat" in said
    assert_is_the_checklist(said)


def assert_is_the_checklist(said: str) -> None:
    """One thing to look at a line, each short enough to be read at a glance."""
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "fix", *["check"] * 4]
    asked = ("was the run recorded", "are metrics logged", "is the project's name", "--dir PATH")
    assert all(text in line for text, line in zip(asked, lines[2:], strict=True))
    assert max(map(len, lines)) <= 100


def test_an_empty_directory_gives_the_checklist_a_line_for_each_thing_to_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["viz", "--dir", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: no run to draw: nothing was recorded yet\nfix: record a run first")
    assert_is_the_checklist(said)


def test_the_known_projects_are_those_of_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic.run(tmp_path / "a", steps=20, project="nanochat")
    command = ["viz", str(tmp_path / "a"), "--dir", str(tmp_path / "b"), "-o", str(tmp_path / "x.html"), "--project"]
    assert cli.main([*command, "nanochta"]) == 3
    assert "known projects: nanochat" in capsys.readouterr().err
    assert cli.main([*command, "nanochat"]) == 0


def test_an_empty_directory_ends_with_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["viz", "--dir", str(tmp_path), "-o", str(tmp_path / "x.html")]) == 3
    assert cli.main(["report", "--dir", str(tmp_path), "latest"]) == 3
    assert cli.main(["compare", "--dir", str(tmp_path), "a", "b"]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_export_gives_the_curves_of_the_journal_and_computes_the_rest_again(tmp_path: Path, kind: str) -> None:
    synthetic.run(tmp_path / "d", "r1", steps=60, tasks=True)
    (journal,) = load_runs(tmp_path / "d")
    for derived in ([], ["--derived"]):
        out = tmp_path / f"{kind}{len(derived)}" / f"r1.{kind}"
        out.parent.mkdir()
        command = ["export", "r1", "--dir", str(tmp_path / "d"), "--format", kind, "-o", str(out), *derived]
        assert cli.main(command) == 0
        (run,) = load_runs(None, paths=[out.parent])
        assert run.run_id == "r1"
        for name in ("train/loss", "val/accuracy", "eval/mmlu_acc", "train/tokens_per_second"):
            ours, theirs = run.tracks[name].points(), journal.tracks[name].points()
            assert [p.step for p in ours] == [p.step for p in theirs], (name, derived)
            # An export's time has microseconds.
            assert [p.value for p in ours] == pytest.approx([p.value for p in theirs], rel=1e-4), (name, derived)


def open_run(directory: Path) -> OpenRun:
    entry = Store(directory).find("r1")
    assert entry is not None
    return OpenRun(entry)


def exported(tmp_path: Path, kind: str, *more: str) -> Path:
    out = tmp_path / f"out-{kind}" / f"r1.{kind}"
    out.parent.mkdir(exist_ok=True)
    assert cli.main(["export", "r1", "--dir", str(tmp_path / "d"), "--format", kind, "-o", str(out), *more]) == 0
    return out


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_export_says_project_stage_and_configuration_as_the_journal_does(tmp_path: Path, kind: str) -> None:
    synthetic.run(tmp_path / "d", "r1", steps=40, stage="sft", project="nanochat", name="d12 sft", tasks=True)
    (journal,) = load_runs(tmp_path / "d")
    (run,) = load_runs(None, paths=[exported(tmp_path, kind).parent], projects=["nanochat"])
    for what in ("run_id", "project", "name", "stage", "state", "config", "facts"):
        assert getattr(run, what) == getattr(journal, what), what
    ours, theirs = (VisualizationApp("p", [one]).figures for one in (run, journal))
    assert list(ours) == [name for name in theirs if name != "resources"], "hardware is in no plain export"
    assert ours["hyperparameters"]["data"][0]["x"] == [12.0]
    with pytest.raises(UserError):
        load_runs(None, paths=[exported(tmp_path, kind).parent], projects=["other"])


def test_an_export_without_facts_is_named_by_its_file_and_by_what_was_logged(tmp_path: Path) -> None:
    rows = [{"run": "x", "rank": 0, "seq": step, "step": step, "time": 1.7e9 + step, "kind": "log", "metrics": {
        "train_loss": 3.0 - step / 100, "mmlu_acc": 0.1, "train/tok_per_sec": 5e4, "hyperparams/batch_size": 16,
        "model/n_layer": 6, "model/n_embd": 384}} for step in range(60)]
    (tmp_path / "d12-sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = load_runs(None, paths=[tmp_path])
    assert (run.label, run.stage, run.project) == ("d12-sft", "sft", "")
    figures = VisualizationApp("p", [run]).figures
    assert {"trajectory", "hyperparameters", "film"} <= set(figures), "its rows are its steps"
    assert figures["hyperparameters"]["data"][0]["z"] == [16.0]


def test_the_parts_that_the_parquet_sink_writes_are_a_run(tmp_path: Path) -> None:
    from sidecar.rows import RunInfo
    from sidecar.sinks.base import SinkContext
    from sidecar.sinks.parquet import ParquetSink

    synthetic.run(tmp_path / "d", "r1", steps=50, stage="rl", tasks=True, project="nanochat")
    with open_run(tmp_path / "d") as run:
        rows = list(run.rows(derived=True))
        sink = ParquetSink(SinkContext(sink="parquet", data_dir=str(tmp_path)))
        sink.open(RunInfo("r1", "nanochat", stage="rl", config={"n_layer": 12}))
        for number, row in enumerate(rows):
            sink.deliver([row], number)
            if number == 60:
                sink.close()
        sink.close()
    (journal,) = load_runs(tmp_path / "d")
    (loaded,) = load_runs(None, paths=[tmp_path / "files"])
    assert len(list((tmp_path / "files").rglob("part-*.parquet"))) == 2
    assert (loaded.run_id, loaded.stage, loaded.project, loaded.config) == ("r1", "rl", "nanochat", {"n_layer": 12})
    for name in ("train/loss", "eval/mmlu_acc", "train/tokens_per_second", "system/cpu_percent"):
        assert [p.value for p in loaded.tracks[name].points()] == pytest.approx(
            [p.value for p in journal.tracks[name].points()]), name
    assert [run.label for run in load_each(tmp_path / "d", [str(tmp_path / "files" / "r1.parquet")])] == ["r1"]


def test_a_run_that_lies_there_in_two_formats_counts_once(tmp_path: Path) -> None:
    synthetic.run(tmp_path / "d", "r1", steps=20)
    plain, full = exported(tmp_path, "jsonl"), exported(tmp_path, "parquet", "--derived")
    (run,) = load_runs(None, paths=[plain, full])
    assert run.source == "r1.parquet"
    (run,) = load_runs(None, paths=[plain, full, tmp_path / "d"])
    assert run.source.endswith(".sqlite")


def test_a_file_that_is_no_parquet_or_none_of_ours_ends_with_exit_code_3(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    for name in ("a", "b"):
        assert cli.main(["viz", str(tmp_path / f"{name}.parquet"), "-o", str(tmp_path / "x.html")]) == 3


def test_a_folder_of_journals_is_enough(tmp_path: Path) -> None:
    synthetic.run(tmp_path / "d", "r1", steps=20)
    shutil.copytree(tmp_path / "d" / "runs", tmp_path / "copied")
    assert [run.run_id for run in load_runs(None, paths=[tmp_path / "copied"])] == ["r1"]
    assert [run.run_id for run in load_runs(None, paths=[tmp_path / "d"])] == ["r1"]
    with pytest.raises(UserError, match="there is no"):
        load_runs(None, paths=[tmp_path / "nowhere"])


def test_one_copied_file_is_the_whole_run_though_somebody_was_reading_at_its_end(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "d", "r1")
    session = writer.greet()
    for step in range(50):
        writer.add(session, wire.Step(T0 + step * SECOND, T0, step, {"train/loss": 3.0}))
    (entry,) = Store(tmp_path / "d").runs()
    with contextlib.closing(JournalReader(entry.path)) as reader:
        reader.last_row()
        writer.close()
    (tmp_path / "copied").mkdir()
    shutil.copy(entry.path, tmp_path / "copied")
    (run,) = load_runs(None, paths=[tmp_path / "copied"])
    assert run.tracks["train/loss"].count == 50


def test_a_broken_line_at_the_end_of_an_export_is_no_obstacle(tmp_path: Path) -> None:
    row = {"run": "r", "rank": 0, "seq": 0, "step": 1, "time": 1.7e9, "kind": "step", "metrics": {"train/loss": "NaN"}}
    good = row | {"seq": 1, "step": 2, "metrics": {"train/loss": 2.0}}
    (tmp_path / "r.jsonl").write_text(f'{json.dumps(row)}\n{json.dumps(good)}\n{{"run": "r", "ra')
    (run,) = load_runs(None, paths=[tmp_path / "r.jsonl"])
    assert run.tracks["train/loss"].bad_total == 1
    assert run.tracks["train/loss"].count == 1


def test_one_file_of_a_folder_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"run": "r", "rank": 0, "seq": 0, "step": 1, "time": 1.7e9, "kind": "step", "metrics": {"train/loss": 2.0}}
    (tmp_path / "a.parquet").write_bytes(b"damaged")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(UserError):
        load_runs(None, paths=[tmp_path])
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    assert [run.run_id for run in load_runs(None, paths=[tmp_path])] == ["r"]
    assert "a.parquet" in caplog.text
    assert "cannot read" in caplog.text
    assert "b.jsonl" in caplog.text


def test_rows_that_nobody_of_ours_wrote_are_passed_over(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"run": "r", "rank": 0, "seq": 0, "step": 1, "time": 1.7e9, "kind": "step", "metrics": {"train/loss": 2.0}}
    rows = [row | {"time": 1e300}, row, row | {"time": -1e300}, row | {"rank": 2**40, "step": 10**18, "seq": 2**63}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (run,) = load_runs(None, paths=[tmp_path / "r.jsonl"])
    assert run.tracks["train/loss"].count == 1

    columns = {"run": ["r", "r"], "rank": [0, None], "seq": [0, 1], "step": [1, 2], "time": [1.7e9, None],
               "kind": ["step", None], "train/loss": [2.0, 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "wide.parquet")
    (run,) = load_runs(None, paths=[tmp_path / "wide.parquet"])
    assert run.tracks["train/loss"].count == 1


def test_a_journal_still_being_written_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "live", stage="sft")
    session = writer.greet()
    for step in range(30):
        now = T0 + step * SECOND
        writer.add(session, wire.Step(now, now, step, {"train/loss": 3.0, "val/accuracy": 0.1}))
    writer.flush()
    (first,) = load_each(tmp_path, ["live"])
    writer.add(session, wire.Step(T0 + 31 * SECOND, T0, 30, {"train/loss": 2.0}))
    writer.flush()
    (second,) = load_each(tmp_path, ["live"])
    assert (first.tracks["train/loss"].count, second.tracks["train/loss"].count) == (30, 31)
    assert "trajectory" in VisualizationApp("p", [second]).figures
    writer.journal.close()


def test_a_journal_that_has_lost_its_oldest_events_says_where_it_begins(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "r1", steps=900, datasets=True, name="long one")
    (entry,) = Store(tmp_path).runs()
    with contextlib.closing(Follower(entry.path, "r1")) as follower:
        for _ in follower.read(4):
            pass
        checkpoint = follower.checkpoint()
    journal = Journal(entry.path)
    assert checkpoint is not None
    journal.checkpoint(checkpoint)
    assert journal.drop_through(checkpoint.row) > 0
    journal.close()
    (run,) = load_runs(tmp_path)
    assert run.removed_rows == checkpoint.number
    first = run.tracks["train/loss"].points()[0].step
    assert run.removed_step is not None
    assert first - 2 <= run.removed_step <= first
    assert run.totals["train/num_input_tokens_seen"].high == 900 * 16384, "totals go on from what was counted"
    said = f"everything up to step {run.removed_step:,} ({run.removed_rows:,} rows)"
    app = VisualizationApp("p", [run])
    lacks = {one.chart.name: {(lack.what, lack.who) for lack in one.data.missing} for one in app.drawn}
    for name in ("trajectory", "stages", "datasets", "film"):
        assert (said, "long one (pretraining)") in lacks[name], name
    assert said in app.html()
    assert said in "\n".join(Report(run).lines())


def test_a_captured_script_with_other_names_fills_the_same_charts(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "nano", captured="wandb", config={"depth": 12, "model_dim": 768, "device_batch_size": 32})
    session = writer.greet()
    for call in range(60):
        now, step = T0 + call * SECOND, call * 10
        row = {"step": step, "train_loss": 5.0 - call / 20, "train/tok_per_sec": 1e5 + call, "mfu": 0.4, "lr": 1e-3}
        if call % 10 == 9:
            row |= {"mmlu_acc": 0.3, "arc_easy_acc": 0.4, "gsm8k_acc": 0.1, "humaneval_acc": 0.2}
        writer.add(session, wire.Log(now, now, call, row | {"training_stage": "midtraining"}))
    writer.close()
    runs = load_runs(tmp_path)
    assert runs[0].stage == "midtrain"
    assert runs[0].tracks["train/loss"].points()[-1].step == 590
    assert runs[0].sent_as["train/loss"] == "train_loss", "the journal keeps the name as sent"
    figures = VisualizationApp("p", runs).figures
    assert {"trajectory", "hyperparameters", "landscape", "multimetric", "film"} <= set(figures)
    assert "40.00 % on average, as the script itself claims" in "\n".join(Report(runs[0]).lines())
    assert figures["landscape"]["data"][0]["x"][0] == pytest.approx(40.0)
    assert "claimed by the script" in figures["landscape"]["data"][0]["text"][0]


def test_values_of_all_ranks_make_one_line_the_joined_one(tmp_path: Path) -> None:
    synthetic.run(tmp_path, steps=300, ranks=4, accuracy=False)
    (run,) = load_runs(tmp_path)
    points = run.tracks["train/loss"].points()
    steps = [point.step for point in points]
    assert steps == sorted(set(steps)), "one value a step"


def test_names_beyond_the_limits_are_not_kept() -> None:
    collector = Collector("r")
    from sidecar.rows import Row

    for number in range(6000):
        collector.row(Row("r", 0, number, number, 1.0, "log", {f"val/{number}": 1.0, f"val/x{number}/loss": 2.0}))
    assert len(collector.run.totals) <= 5000
    assert len(collector.run.tracks) <= 160


def test_the_functions_that_existing_scripts_call_can_be_imported(tmp_path: Path) -> None:
    synthetic.run(tmp_path, steps=40, tasks=True, project="nanochat")
    out = tmp_path / "app.html"
    app = charts.create_complete_visualization_app("nanochat", directory=tmp_path, output=out)
    assert set(app.figures) >= {"trajectory", "hyperparameters", "landscape", "multimetric"}
    assert out.read_text().startswith("<!doctype html>")
    assert "<iframe" in app._repr_html_()
    data = charts.prepare_training_trajectory(app.runs)
    assert charts.trajectory_figure(data) == app.figures["trajectory"]
    with pytest.raises(UserError) as error:
        charts.create_complete_visualization_app("other", directory=tmp_path)
    assert error.value.exit_code == 3


def test_damaged_rows_of_a_journal_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    synthetic.run(tmp_path, "r1", steps=300, name="scratched")
    (entry,) = Store(tmp_path).runs()
    with contextlib.closing(sqlite3.connect(entry.path)) as database:
        database.execute("UPDATE frames SET records = ? WHERE row = 2", (b"garbage",))
        database.commit()
    (run,) = load_runs(tmp_path)
    said = "1 row of the journal, of up to 128 events, is damaged and left out"
    assert run.damaged_rows == 1
    assert said in caplog.text
    assert f"scratched: {said}" in VisualizationApp("p", [run]).html()
    assert said in Report(run).markdown()
