"""What is in the figures: axes, titles, colours, traces, sizes; and what is said when something is missing."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar import cli, wire
from sidecar.charts import registry
from sidecar.charts.app import VisualizationApp
from sidecar.charts.data import RunData
from sidecar.charts.film import film_data, film_figure
from sidecar.charts.hyperparameters import hyperparameters_data, hyperparameters_figure
from sidecar.charts.landscape import landscape_data, landscape_figure
from sidecar.charts.load import load_runs
from sidecar.charts.multimetric import multimetric_data, multimetric_figure
from sidecar.charts.pins import Pins
from sidecar.charts.registry import Missing, Options
from sidecar.charts.resources import resources_data, resources_figure
from sidecar.charts.series import Grid
from sidecar.charts.stages import stages_data, stages_figure
from sidecar.charts.style import STAGE_COLOURS
from sidecar.charts.trajectory import CARRIED, EVALUATED, trajectory_data, trajectory_figure
from tests.charts import synthetic
from tests.charts.synthetic import SECOND, T0, Writer

STAGES = ["pretrain", "midtrain", "sft", "rl"]


def axes(figure: dict[str, Any]) -> list[str]:
    scene = figure["layout"]["scene"]
    return [scene[name]["title"]["text"] for name in ("xaxis", "yaxis", "zaxis")]


def of_stage(figure: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if "stage" in (trace.get("meta") or {})]


def only(directory: Path) -> list[RunData]:
    return load_runs(directory)


def test_the_stage_colours_are_those_that_were_asked_for() -> None:
    assert STAGE_COLOURS == {
        "pretrain": "#e5484d", "midtrain": "#12a594", "sft": "#3e7bfa", "rl": "#30a46c", "dpo": "#7cc47f",
        "ppo": "#1f7a4d",
    }  # fmt: skip
    for stage in ("rl", "dpo", "ppo"):
        red, green, blue = (int(STAGE_COLOURS[stage][i : i + 2], 16) for i in (1, 3, 5))
        assert green > max(red, blue), stage


def test_the_trajectory_has_one_trace_per_stage_in_order_and_links_between_them(app: VisualizationApp) -> None:
    figure = app.figures["trajectory"]
    assert axes(figure) == ["Training step", "Loss", "Accuracy"]
    assert [trace["meta"]["stage"] for trace in of_stage(figure)] == STAGES
    assert [trace["line"]["color"] for trace in of_stage(figure)] == [STAGE_COLOURS[stage] for stage in STAGES]
    (links,) = [trace for trace in figure["data"] if (trace.get("meta") or {}).get("role") == "link between stages"]
    assert links["x"].count(None) == 3
    ends = [max(x for x in trace["x"] if x is not None) for trace in of_stage(figure)]
    assert ends == sorted(ends), "stages follow one another on the axis"


def test_stages_of_two_projects_are_two_pipelines(tmp_path: Path) -> None:
    for number, project in enumerate(("one", "two")):
        for later, stage in enumerate(("pretrain", "sft")):
            start = T0 + (10 * number + later) * 1000 * SECOND
            synthetic.run(tmp_path, f"{project}-{stage}", steps=40, project=project, stage=stage, start_ns=start)
    data = trajectory_data(load_runs(tmp_path, projects=["one", "two"]))
    assert len(data.links) == 2, "none from one project into the other"
    assert [path.points[0].x for path in data.paths] == [0.0, 39.0, 0.0, 39.0]


def test_evaluations_are_large_and_what_is_carried_forward_is_small_and_says_so(app: VisualizationApp) -> None:
    trace = of_stage(app.figures["trajectory"])[0]
    sizes = [size for size, x in zip(trace["marker"]["size"], trace["x"], strict=True) if x is not None]
    assert sizes.count(EVALUATED) == 7
    assert set(sizes) == {EVALUATED, CARRIED}
    for size, text in zip(trace["marker"]["size"], trace["text"], strict=True):
        assert not text or "(val/accuracy, " in text, "which accuracy it is"
        assert ("evaluated here" in text) == (size == EVALUATED)
        assert ("carried forward" in text) == (size == CARRIED)
    heights = [z for z in trace["z"] if z is not None]
    assert heights == sorted(heights), "accuracy only ever changes at an evaluation"


def test_hyperparameters_map_colour_to_best_accuracy_and_size_to_learning_rate(pipeline: list[RunData]) -> None:
    figure = hyperparameters_figure(hyperparameters_data(pipeline))
    assert figure is not None
    assert axes(figure) == ["Model depth", "Model dimension", "Batch size"]
    (trace,) = figure["data"]
    assert trace["x"] == [12.0] * 4
    assert trace["y"] == [768.0] * 4
    assert trace["z"] == [64.0, 32.0, 16.0, 8.0]
    assert trace["marker"]["colorbar"]["title"]["text"] == "Best accuracy"
    best = [max(p.value for p in run.tracks["val/accuracy"].points()) for run in pipeline]
    assert trace["marker"]["color"] == best
    assert trace["marker"]["size"] == sorted(trace["marker"]["size"], reverse=True), "learning rates fall"
    assert len(set(trace["marker"]["size"])) == 4


def test_the_landscape_is_mfu_speed_and_accuracy_coloured_by_stage(pipeline: list[RunData]) -> None:
    figure = landscape_figure(landscape_data(pipeline))
    assert figure is not None
    assert axes(figure) == ["MFU (%)", "Tokens per second", "Accuracy"]
    assert [trace["marker"]["color"] for trace in figure["data"]] == [STAGE_COLOURS[stage] for stage in STAGES]
    for trace in figure["data"]:
        assert trace["marker"]["symbol"].count("diamond") == 1, "the run as a whole"
        assert all(0 < x < 100 for x in trace["x"])


def test_benchmarks_have_the_documents_axes_and_humaneval_as_size(pipeline: list[RunData]) -> None:
    figure = multimetric_figure(multimetric_data(pipeline))
    assert figure is not None
    assert axes(figure) == ["MMLU accuracy", "ARC-Easy accuracy", "GSM8K accuracy"]
    trace = figure["data"][0]
    assert [round(x / y, 6) for x, y in zip(trace["x"], trace["y"], strict=True)] == [0.8] * 7
    assert trace["marker"]["size"] == sorted(trace["marker"]["size"]), "HumanEval rises"
    assert figure["data"][2]["marker"]["color"] == STAGE_COLOURS["sft"]


def test_a_benchmark_that_an_earlier_stage_measured_is_carried_forward_and_marked(tmp_path: Path) -> None:
    for number, (stage, values) in enumerate((("midtrain", {"eval/mmlu_acc": 0.3, "eval/gsm8k_acc": 0.1}),
                                              ("sft", {"eval/arc_easy_acc": 0.5, "eval/gsm8k_acc": 0.2}))):
        writer = Writer(tmp_path, stage, stage=stage, group="one", start_ns=T0 + number * 1000 * SECOND)
        session = writer.greet()
        for step in range(3):
            now = T0 + (number * 1000 + step) * SECOND
            writer.add(session, wire.Step(now, now, step, {"train/loss": 1.0}), wire.Log(now, now, step, values))
        writer.close()
    synthetic.run(tmp_path, "other", steps=20, stage="sft", group="two")
    data = multimetric_data(only(tmp_path))
    figure = multimetric_figure(data)
    assert figure is not None
    assert axes(figure) == ["MMLU accuracy", "ARC-Easy accuracy", "GSM8K accuracy"]
    (trace,) = figure["data"]
    assert trace["name"] == "SFT"
    assert (trace["x"], trace["y"], trace["z"]) == ([0.3] * 3, [0.5] * 3, [0.2] * 3)
    assert set(trace["marker"]["symbol"]) == {"circle-open"}
    assert "MMLU 0.3 (carried forward from midtraining)" in trace["text"][0]
    assert ("MMLU accuracy", "sft (SFT)") not in {(lack.what, lack.who) for lack in data.missing}
    assert ("ARC-Easy accuracy", "midtrain (midtraining)") in {(lack.what, lack.who) for lack in data.missing}


def test_where_the_documents_benchmarks_are_absent_others_take_their_place_and_it_is_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r", stage="sft")
    session = writer.greet()
    for step in range(3):
        now = T0 + step * SECOND
        values = {"eval/sums_acc": 0.1, "eval/modules_acc": 0.2, "val/accuracy": 0.3 + step / 10, "train/loss": 1.0}
        writer.add(session, wire.Log(now, now, step, values))
    writer.close()
    figure = multimetric_figure(multimetric_data(only(tmp_path)))
    assert figure is not None
    assert axes(figure) == ["modules accuracy", "sums accuracy", "Validation accuracy"]
    assert "No pipeline has MMLU" in figure["layout"]["meta"]["note"]


def test_datasets_are_lines_of_step_coverage_and_loss(app: VisualizationApp) -> None:
    figure = app.figures["datasets"]
    assert axes(figure) == ["Training step", "Coverage (%)", "Loss"]
    assert {trace["meta"]["dataset"] for trace in figure["data"]} == {"GSM8K", "SmolTalk"}
    assert all(trace["y"] == sorted(trace["y"]) for trace in figure["data"])
    colours = {(trace["meta"]["dataset"], trace["line"]["color"]) for trace in figure["data"]}
    assert len(colours) == 2, "a dataset keeps its colour from stage to stage"


def test_resources_are_of_the_gpu_where_there_is_one_and_of_the_host_otherwise(
    app: VisualizationApp, tmp_path: Path
) -> None:
    assert axes(app.figures["resources"]) == ["GPU utilisation (%)", "GPU memory used (GB)", "Tokens per second"]
    synthetic.run(tmp_path, steps=60)
    data = resources_data(only(tmp_path))
    figure = resources_figure(data)
    assert figure is not None
    assert axes(figure) == ["CPU utilisation (%)", "Host memory used (GB)", "Tokens per second"]
    assert [lack.what for lack in data.missing] == ["GPU utilisation and memory"]


def test_stages_share_an_axis_of_tokens_that_starts_at_nought(app: VisualizationApp, pipeline: list[RunData]) -> None:
    figure = app.figures["stages"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "Tokens since the stage began"
    assert [trace["x"][0] for trace in figure["data"]] == [0.0] * 4
    rows = stages_data(pipeline).rows
    assert [row.stage for row in rows] == STAGES
    assert rows[0].tokens == 240 * 2 * 16384
    assert rows[0].runs == 1
    assert rows[0].loss_best is not None
    assert rows[0].loss_first is not None
    assert rows[0].loss_best < rows[0].loss_first


def test_one_run_that_counts_no_tokens_puts_all_on_an_axis_of_steps(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "bare")
    session = writer.greet()
    for step in range(20):
        now = T0 + step * SECOND
        writer.add(session, wire.Step(now, now, step, {"train/loss": 3.0 - step / 10}))
    writer.close()
    data = stages_data(only(tmp_path))
    figure = stages_figure(data)
    assert not data.by_tokens
    assert figure is not None
    assert figure["layout"]["xaxis"]["title"]["text"] == "Step"
    assert [lack.what for lack in data.missing] == ["tokens"]


def test_the_film_shows_a_single_bad_step_from_far_away(tmp_path: Path) -> None:
    synthetic.run(tmp_path, steps=3000, ranks=2, slow={(1, 1777): 9.0}, seconds=0.2, accuracy=False)
    data = film_data(only(tmp_path))
    figure = film_figure(data)
    assert figure is not None
    assert axes(figure) == ["Step", "Rank", "Step time (s)"]
    surface = figure["data"][0]
    assert surface["type"] == "surface"
    assert len(surface["x"]) <= 480
    peak = max(z for row in surface["z"] for z in row if z is not None)
    assert peak == pytest.approx(9.0, rel=1e-2)
    pins = [trace for trace in figure["data"] if (trace.get("meta") or {}).get("kind") == "slow step"]
    assert pins
    assert 1777 in pins[0]["x"]
    film = figure["layout"]["meta"]["films"][0]
    assert min(v for row in film["low"] for v in row if v is not None) < 0.2 < film["median_seconds"] * 1.1


def test_a_thousand_ranks_share_rows_and_a_single_bad_step_keeps_its_rank() -> None:
    grid = Grid()
    for step in range(200):
        for rank in range(1024):
            grid.add(rank, step, 7.0 if (rank, step) == (777, 111) else 0.5)
    film = film_data([RunData("r", grid=grid)]).films[0]
    assert (len(film.ranks), film.rank_width) == (128, 8)
    assert sum(map(len, film.high)) <= 40_000
    (row, column), = [(r, c) for r, row in enumerate(film.high) for c, v in enumerate(row) if v == 7.0]
    assert film.worst_rank is not None
    assert (film.worst_rank[row][column], film.worst[row][column]) == (777, 111)
    assert film.ranks[row] <= 777 < film.ranks[row] + film.rank_width
    assert [pin.text for pin in film.pins if pin.kind == "slow step"] == ["rank 777 took 7 s, 14.0 x the median"]
    figure = film_figure(film_data([RunData("r", grid=grid)]))
    assert figure is not None
    assert max(v for row in figure["data"][0]["z"] for v in row) == 7.0
    assert len(json.dumps(figure)) < 2_500_000


def test_eight_films_share_the_room_of_the_page_and_keep_their_bad_steps() -> None:
    runs = []
    for number in range(9):
        grid = Grid()
        for step in range(30_000):
            grid.add(0, step, 9.0 if step == 17_171 else 0.5)
        runs.append(RunData(f"r{number}", grid=grid))
    films = film_data(runs).films
    assert len(films) == 8
    assert sum(len(film.steps) for film in films) <= 80_000
    for film in films:
        assert max(film.high[0]) == 9.0
        assert film.worst[0][film.high[0].index(9.0)] == 17_171
        assert film.steps == sorted(film.steps)


def test_an_evaluation_is_pinned_by_its_phase_or_by_its_numbers_but_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r")
    session = writer.greet()
    for step in range(30):
        now = T0 + step * SECOND
        writer.add(session, wire.Step(now, now, step, {"train/loss": 2.0}))
        if step in (10, 20):
            if step == 10:
                writer.add(session, wire.PhaseEntered(now, now, step, "evaluation"),
                           wire.PhaseExited(now, now, step, "evaluation", 0.2))
            writer.add(session, wire.Log(now, now, step, {"mmlu_acc": 0.3}))
        if step == 15:
            writer.add(session, wire.PhaseEntered(now, now, step, "sampling"),
                       wire.PhaseExited(now, now, step, "sampling", 0.2), wire.Log(now, now, step, {"samples/x": 1.0}))
    writer.close()
    (run,) = only(tmp_path)
    assert [(pin.step, pin.text) for pin in run.pins if pin.kind == "evaluation"] == [
        (10, "evaluation, 0.2 s"), (20, "mmlu_acc 0.3")]


def test_pins_that_come_often_are_spread_out_and_crowd_out_no_others() -> None:
    pins = Pins()
    for step in range(10_000):
        pins.add("alert", step, 0, 0, "")
    pins.add("restart", 10_000, 0, 0, "rank 0 restarted")
    kept = pins.sorted()
    assert kept[-1].kind == "restart"
    assert 40 <= len(kept) <= 98
    assert kept[-2].step > 9_000
    assert kept[0].step == 0


def test_the_film_pins_checkpoints_evaluations_restarts_and_rework(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r", stage="sft")
    now = T0
    for session, steps in ((100, range(30)), (200, range(20, 60))):
        writer.greet(0, session)
        for step in steps:
            now += SECOND // 2
            writer.add(session, wire.Step(now, now, step, {"train/loss": 2.0}))
        writer.add(session, wire.Checkpoint(now, now, step, 1.0, 10, "ck"))
        writer.flush()
    writer.add(200, wire.Step(now + SECOND, now, 30, {"train/loss": 2.0}))
    writer.close()
    (run,) = only(tmp_path)
    assert {pin.kind for pin in run.pins} >= {"checkpoint", "restart", "rework"}
    figure = film_figure(film_data([run]))
    assert figure is not None
    kinds = [trace["meta"]["kind"] for trace in figure["data"] if (trace.get("meta") or {}).get("role") == "pins"]
    assert set(kinds) >= {"checkpoint", "restart", "rework"}


def test_an_evaluation_on_one_rank_is_no_slow_step_of_the_others(pipeline: list[RunData]) -> None:
    film = film_data(pipeline[:1]).films[0]
    others = [v for i, v in enumerate(film.high[1]) if v is not None and film.worst[1][i] not in (40, 41)]
    assert max(others) < 1.5 * film.median_seconds


@pytest.mark.parametrize("key", ["batch_size", "train/grad_norm", "lr"])
def test_every_chart_takes_a_continuous_colour(pipeline_directory: Path, key: str) -> None:
    app = VisualizationApp("x", load_runs(pipeline_directory, also=[key]), Options(key))
    for name in ("trajectory", "landscape", "multimetric", "datasets", "resources"):
        assert app.figures[name]["layout"]["coloraxis"]["colorbar"]["title"]["text"] == key, name
        painted = [trace.get("line") if name == "datasets" else trace["marker"] for trace in app.figures[name]["data"]
                   if "marker" in trace or name == "datasets"]
        assert all(paint["coloraxis"] == "coloraxis" for paint in painted if isinstance(paint.get("color"), list)), name


def test_flat_lines_take_their_colour_from_the_scale_too(tmp_path: Path) -> None:
    for number, rate in enumerate((1e-4, 3e-4, 5e-4)):
        synthetic.run(tmp_path, f"r{number}", steps=30, config={"learning_rate": rate}, accuracy=False,
                      start_ns=T0 + number)
    app = VisualizationApp("x", only(tmp_path), Options("learning_rate"))
    purple_to_yellow = ["#46307a", "#1fa187", "#ffd23f"]
    for name in ("stages", "trajectory"):
        assert [trace["line"]["color"] for trace in app.figures[name]["data"]] == purple_to_yellow, name
    assert app.figures["stages"]["data"][0]["name"] == "learning_rate = 0.0001"


def test_a_key_that_no_run_has_is_said_and_the_stage_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.run(tmp_path, steps=30)
    out = tmp_path / "p.html"
    assert cli.main(["viz", "--dir", str(tmp_path), "-o", str(out), "--color-by", "no_such_<key>"]) == 0
    assert "no_such_<key>" in capsys.readouterr().err
    assert "no_such_&lt;key&gt;" in out.read_text()
    app = VisualizationApp("p", only(tmp_path), Options("no_such_key"))
    assert of_stage(app.figures["trajectory"])[0]["line"]["color"] == STAGE_COLOURS["pretrain"]


def test_a_colour_by_words_makes_one_group_per_word(tmp_path: Path) -> None:
    for number, optimizer in enumerate(("adamw", "muon", "adamw")):
        settings = {"n_layer": 4, "n_embd": 64, "batch_size": 8, "optimizer": optimizer}
        synthetic.run(tmp_path, f"r{number}", steps=60, config=settings, start_ns=T0 + number)
    figure = trajectory_figure(trajectory_data(only(tmp_path), Options("optimizer")))
    assert figure is not None
    assert [trace["name"] for trace in of_stage(figure)] == ["optimizer = adamw", "optimizer = muon"]
    assert len({trace["line"]["color"] for trace in of_stage(figure)}) == 2


def test_what_is_missing_is_named_with_who_lacks_it_and_how_to_send_it(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "bare", steps=40, accuracy=False, facts={}, config={"n_embd": 64}, stage="sft",
                  name="bare one")
    app = VisualizationApp("p", only(tmp_path))
    lacks = {one.chart.name: {lack.what for lack in one.data.missing} for one in app.drawn}
    assert lacks["trajectory"] == {"accuracy"}
    assert lacks["landscape"] == {"MFU", "accuracy"}
    assert {"best accuracy", "batch size"} <= lacks["hyperparameters"]
    assert lacks["multimetric"] == {"MMLU accuracy", "ARC-Easy accuracy", "GSM8K accuracy", "HumanEval accuracy"}
    assert lacks["datasets"] == {"dataset coverage"}
    every = [lack for one in app.drawn for lack in one.data.missing]
    assert all(lack.who == "bare one (SFT)" and lack.how for lack in every)
    assert "landscape" not in app.figures
    assert "trajectory" in app.figures


def test_without_any_accuracy_the_trajectory_is_drawn_flat_and_says_so(tmp_path: Path) -> None:
    synthetic.run(tmp_path, steps=40, accuracy=False)
    figure = trajectory_figure(trajectory_data(only(tmp_path)))
    assert figure is not None
    assert "scene" not in figure["layout"]
    assert figure["layout"]["meta"]["note"] == "drawn flat: no accuracy was recorded"


def test_runs_lacking_a_coordinate_are_listed_and_those_lacking_only_accuracy_are_grey(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "a", steps=30)
    synthetic.run(tmp_path, "b", steps=30, accuracy=False, start_ns=T0 + 1)
    synthetic.run(tmp_path, "c", steps=30, config={"n_layer": 3}, start_ns=T0 + 2)
    data = hyperparameters_data(only(tmp_path))
    assert [candidate.run for candidate in data.candidates] == ["a", "b"]
    assert {lack.who for lack in data.missing} == {"b (pretraining)", "c (pretraining)"}
    figure = hyperparameters_figure(data)
    assert figure is not None
    assert [trace["name"] for trace in figure["data"]] == ["runs", "no best accuracy"]


def test_nan_and_infinity_are_kept_apart_and_the_json_stays_json(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r")
    session = writer.greet()
    values = [3.0, math.nan, 2.0, math.inf, -math.inf, 1.0]
    for step, value in enumerate(values):
        now = T0 + step * SECOND
        writer.add(session, wire.Step(now, now, step, {"train/loss": value}))
    writer.close()
    (run,) = only(tmp_path)
    track = run.tracks["train/loss"]
    assert [kind for _, _, kind in track.bad] == ["nan", "inf", "-inf"]
    assert [point.value for point in track.points()] == [3.0, 2.0, 1.0]
    app = VisualizationApp("p", [run])
    assert app.figures["trajectory"]["data"][0]["y"] == [3.0, 2.0, 1.0]
    json.loads(msgspec.json.encode(app.figures), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def test_one_point_is_enough_for_what_can_be_drawn_with_one(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r", stage="rl")
    session = writer.greet()
    writer.add(session, wire.Step(T0, T0, 0, {"train/loss": 3.0}), wire.Log(T0, T0, 0, {"val/accuracy": 0.5}))
    writer.close()
    app = VisualizationApp("p", only(tmp_path))
    assert of_stage(app.figures["trajectory"])[0]["meta"]["stage"] == "rl"
    assert "film" not in app.figures


def test_repeated_steps_and_gaps_are_drawn_in_the_order_they_happened(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r")
    session = writer.greet()
    now = T0
    for step in [*range(0, 50), *range(30, 60), *range(500, 520)]:
        now += SECOND
        writer.add(session, wire.Step(now, now, step, {"train/loss": 1.0 + step, "val/accuracy": 0.5}))
    writer.close()
    (run,) = only(tmp_path)
    steps = [point.step for point in run.tracks["train/loss"].points()]
    assert steps == [*range(0, 50), *range(30, 60), *range(500, 520)]


def test_runs_without_stages_are_drawn_grey_and_listed(tmp_path: Path) -> None:
    synthetic.run(tmp_path, steps=40, stage=None)
    data = trajectory_data(only(tmp_path))
    figure = trajectory_figure(data)
    assert figure is not None
    assert of_stage(figure)[0]["name"] == "no stage"
    assert "stage" in {lack.what for lack in data.missing}


def test_hostile_names_are_text_in_every_figure(tmp_path: Path) -> None:
    evil = '<img src=x onerror=alert(1)>\u202e</script><a href="javascript:alert(1)">'
    synthetic.run(tmp_path, steps=40, tasks=True, datasets=True, name=evil, stage=evil, project=evil)
    app = VisualizationApp(evil, only(tmp_path), Options("n_layer"))
    text = json.dumps(app.figures)
    assert "<img" not in text
    assert "<a " not in text
    assert "\u202e" not in text
    assert "&lt;img" in text


def test_a_chart_is_added_with_one_decorated_function(app: VisualizationApp, pipeline: list[RunData]) -> None:
    class Count(msgspec.Struct):
        runs: int
        missing: list[Missing] = []

    @registry.chart("plug-in", title="How many", about="A count.", prepare=lambda runs, options: Count(len(runs)))
    def figure(data: Count) -> dict[str, Any]:
        layout = {"xaxis": {"title": {"text": "x"}}, "yaxis": {"title": {"text": "y"}}}
        return {"data": [{"type": "scatter", "x": [1], "y": [data.runs]}], "layout": layout}

    try:
        more = VisualizationApp("p", pipeline)
        assert more.figures["plug-in"]["data"][0]["y"] == [4]
        assert "How many" in more.html()
        assert list(app.figures) == [name for name in more.figures if name != "plug-in"]
    finally:
        del registry.CHARTS["plug-in"]
