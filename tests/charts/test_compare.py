"""Runs side by side, divergence, and the gate."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from sidecar import cli
from sidecar.charts import compare_page
from sidecar.charts.compare import better, compare, overlay_figures, value_of
from sidecar.charts.data import RunData, tell_apart
from sidecar.charts.divergence import divergence
from sidecar.charts.load import load_each
from sidecar.charts.series import Point, Total, Track
from tests.charts import synthetic
from tests.charts.synthetic import T0


def drawn(seed: int, *, changed_at: int | None = None, steps: int = 1200, bad_at: int | None = None) -> RunData:
    """A loss with noise and a slow wander of its own; from ``changed_at`` on with half as much again learning rate."""
    noise, wander, shift = random.Random(seed), 0.0, 0.0
    loss, rate = Track(), Track()
    for step in range(steps):
        wander = 0.98 * wander + noise.gauss(0, 0.002)
        if changed_at is not None and step >= changed_at:
            shift = 0.2 * (1 - math.exp(-(step - changed_at) / 40))
        value = 3 + 5 * math.exp(-step / 200) + noise.gauss(0, 0.05) + wander + shift
        loss.add(Point(step, float(step), step * 10.0, float(step), math.nan if step == bad_at else value))
        higher = changed_at is not None and step >= changed_at
        rate.add(Point(step, float(step), step * 10.0, float(step), 1.5e-3 if higher else 1e-3))
    total = Total()
    total.add(3.0, steps - 1)
    return RunData(f"r{seed}", name=f"r{seed}", config={"seed": seed, "note": f"n{seed}"},
                   tracks={"train/loss": loss, "train/learning_rate": rate}, totals={"train/loss": total})


def test_twenty_pairs_that_differ_in_their_seed_alone_do_not_diverge() -> None:
    found = [divergence(drawn(2 * seed), drawn(2 * seed + 1)).at for seed in range(20)]
    assert sum(at is not None for at in found) <= 1


def test_a_learning_rate_changed_at_step_600_is_found_there_and_named_first() -> None:
    right = 0
    for seed in range(10):
        parted = divergence(drawn(2 * seed), drawn(2 * seed + 1, changed_at=600))
        right += parted.at is not None and abs(parted.at - 600) <= 30 and parted.facts[0].name == "train/learning_rate"
    assert right >= 9


@pytest.mark.parametrize(("axis", "unit", "place"), [("step", "step", 600), ("tokens", "token", 6000),
                                                     ("time", "second", 600)])
def test_divergence_is_told_on_each_axis(axis: str, unit: str, place: float) -> None:
    parted = divergence(drawn(1), drawn(2, changed_at=600), axis)
    assert parted.at == pytest.approx(place, rel=0.06)
    assert f"from {unit} " in compare_page.fact_text(parted.facts[0], axis), "a number without its unit says nothing"


def test_a_loss_that_stops_being_a_number_diverges_there() -> None:
    parted = divergence(drawn(1), drawn(2, bad_at=321))
    assert parted.at == 321
    assert "not finite" in parted.reason


def test_too_little_in_common_is_not_decided() -> None:
    parted = divergence(drawn(1), drawn(2, steps=3))
    assert (parted.at, parted.decided) == (None, False)


def test_final_and_best_values_go_the_metrics_way(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "a", steps=80, loss=(5.0, 2.0))
    synthetic.run(tmp_path, "b", steps=80, loss=(5.0, 1.0), start_ns=T0 + 1, config={"n_layer": 2, "n_embd": 64})
    runs = load_each(tmp_path, ["a", "b"])
    result = compare(runs)
    rows = {row.metric: row for row in result.rows}
    assert rows["train/loss"].better == "lower"
    assert rows["val/accuracy"].better == "higher"
    accuracy = value_of(runs[0], "val/accuracy")
    assert accuracy.best == runs[0].totals["val/accuracy"].high
    assert value_of(runs[0], "train/loss").best == runs[0].totals["train/loss"].low
    assert result.settings["n_layer"] == [12, 2]
    assert result.settings["batch_size"] == [32, None]
    assert "n_embd" in result.settings
    figures = overlay_figures(runs, "tokens")
    assert figures["train/loss"]["layout"]["xaxis"]["title"]["text"] == "Tokens"
    assert [trace["name"] for trace in figures["train/loss"]["data"]] == ["a", "b"]


def test_the_place_of_divergence_is_marked_in_the_loss_and_a_tie_is_nobodys_best(tmp_path: Path) -> None:
    ours, other = drawn(1), drawn(2, changed_at=600)
    result = compare([ours, other])
    (line,) = overlay_figures([ours, other], "step", result.divergences)["train/loss"]["layout"]["shapes"]
    assert line["x0"] == result.divergences[0].at
    page = compare_page.html(result, overlay_figures([ours, other]), [], None)
    row = page[page.index("<td>train/loss</td>"):].split("</tr>")[0]
    assert "<strong>" not in row, "both have 3"


def test_a_run_whose_beginning_is_gone_says_so_beside_the_others(tmp_path: Path) -> None:
    ours, other = drawn(1), drawn(2)
    other.removed_rows, other.removed_step = 1200, 599
    result = compare([ours, other])
    page = compare_page.html(result, {}, [], None)
    for text in ("\n".join(compare_page.lines(result, [], None)), page):
        assert "everything up to step 599 (1,200 rows)" in text
    assert "removed" not in compare_page.html(compare([ours, ours]), {}, [], None)


def test_ten_runs_can_be_laid_over_one_another(tmp_path: Path) -> None:
    for number in range(10):
        synthetic.run(tmp_path, f"r{number}", steps=20, seed=number, start_ns=T0 + number)
    runs = load_each(tmp_path, [f"r{number}" for number in range(10)])
    assert len(overlay_figures(runs)["train/loss"]["data"]) == 10
    assert len(compare(runs).divergences) == 9


def test_runs_of_one_name_are_told_apart_in_the_table_the_page_and_the_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, run_id in enumerate(("20261121-101500-aaa111", "20261121-111500-bbb111", "20261121-121500-ccc222")):
        synthetic.run(tmp_path, run_id, steps=60, name="d12", start_ns=T0 + number, seed=number)
    synthetic.run(tmp_path, "20261121-131500-ddd333", steps=60, name="d20", start_ns=T0 + 3)
    ids = ["20261121-101500-aaa111", "20261121-111500-bbb111", "20261121-121500-ccc222", "20261121-131500-ddd333"]
    rules, out = tmp_path / "rules.toml", tmp_path / "page.html"
    rules.write_text(RULES["regression"])
    assert cli.main(["compare", "--dir", str(tmp_path), *ids, "--gate", str(rules), "-o", str(out)]) == 1
    lines = capsys.readouterr().out.splitlines()
    labels = ["d12 (aaa111)", "d12 (bbb111)", "d12 (ccc222)", "d20"]
    assert re.split("  +", lines[0].strip()) == labels
    assert lines[1].split() == ["run", *ids]
    for label in labels[1:]:
        assert any(line.startswith(f"{label}: ") for line in lines), "where they part"
        assert any(line.startswith("regression") and f" {label}  " in line for line in lines), "the gate's findings"
    for label in labels:
        assert f">{label}<" in out.read_text()
    traces = overlay_figures(load_each(tmp_path, ids))["train/loss"]["data"]
    assert [trace["name"] for trace in traces] == labels
    assert [run.label for run in load_each(tmp_path, [ids[0], ids[3], ids[0]])] == ["d12", "d20", "d12"]


def test_ids_that_end_alike_or_are_short_are_told_apart_too() -> None:
    runs = [RunData(run_id, name="n") for run_id in ("job-1-rank-0001", "job-2-rank-0001", "b", "abcdef")]
    tell_apart(runs)
    assert len({run.label for run in runs}) == len(runs)


def test_which_way_is_better_is_read_from_the_name_or_left_open() -> None:
    lower = ("val/loss", "train/loss_ema", "train/eta_minutes", "performance/batch_time_ms", "val/bits_per_byte")
    higher = ("eval/mmlu_acc", "val/accuracy", "train/mfu_percent", "train/tokens_per_second", "pass@1")
    neither = ("my/number", "optimizer/beta1", "theta", "system/cpu_cores", "timestep", "grad_accumulation")
    for way, names in (("lower", lower), ("higher", higher), (None, neither)):
        assert {name: better(name) for name in names} == dict.fromkeys(names, way)


RULES = {
    "pass": '[[rule]]\nmetric = "val_loss"\nvalue = "best"\nworse_percent_max = 5.0\n',
    "regression": '[[rule]]\nmetric = "train/loss"\nmax = 0.1\n',
    "cannot tell": '[[rule]]\nmetric = "eval/gsm8k"\nmin = 0.1\n',
    "optional": '[[rule]]\nmetric = "eval/gsm8k"\nmin = 0.1\nrequired = false\n',
}


@pytest.mark.parametrize(("name", "code"), [("pass", 0), ("regression", 1), ("cannot tell", 2), ("optional", 0)])
def test_the_gate_tells_ci_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    synthetic.run(tmp_path, "a", steps=60)
    synthetic.run(tmp_path, "b", steps=60, start_ns=T0 + 1, seed=5)
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES[name])
    arguments = ["compare", "--dir", str(tmp_path), "a", "b"]
    assert cli.main([*arguments, "--gate", str(rules)]) == code
    said = capsys.readouterr().out
    assert f"gate: {name if name != 'optional' else 'pass'}" in said
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--json", "--gate", str(rules)]) == code
    lines = capsys.readouterr().out
    assert json.loads(lines[lines.index("{"):])["gate"]["verdict"] == (name if name != "optional" else "pass")


def test_a_worse_run_is_a_regression_and_a_better_one_is_not(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "good", steps=60, loss=(5.0, 2.0))
    synthetic.run(tmp_path, "bad", steps=60, loss=(5.0, 3.0), start_ns=T0 + 1)
    rules = tmp_path / "rules.toml"
    rules.write_text('divergence = "fail"\n[[rule]]\nmetric = "loss"\nworse_percent_max = 10\n')
    assert cli.main(["compare", "--dir", str(tmp_path), "good", "bad", "--gate", str(rules)]) == 1
    rules.write_text('[[rule]]\nmetric = "loss"\nworse_percent_max = 10\n')
    assert cli.main(["compare", "--dir", str(tmp_path), "bad", "good", "--gate", str(rules)]) == 0


def test_an_unfinished_run_has_no_final_value_to_judge(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "a", steps=60)
    synthetic.run(tmp_path, "b", steps=60, start_ns=T0 + 1)
    runs = load_each(tmp_path, ["a", "b"])
    runs[1].state = "running"
    from sidecar.charts.gate import Rule, Rules, Verdict, judge

    rules = Rules([Rule("train/loss", max=100.0)])
    assert judge(compare(runs), runs, rules)[0] is Verdict.CANNOT_TELL


@pytest.mark.parametrize("text", ["[[rule", "[[rule]]\nmetric = 'x'\n", "[[rule]]\nmetric='x'\nmaks=1\n", "", "\0"])
def test_rules_that_cannot_be_read_are_told_apart_from_a_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    synthetic.run(tmp_path, "a", steps=30)
    rules = tmp_path / "rules.toml"
    rules.write_text(text)
    assert cli.main(["compare", "--dir", str(tmp_path), "a", "a", "--gate", str(rules)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_one_run_alone_is_an_error_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic.run(tmp_path, "a", steps=30)
    assert cli.main(["compare", "--dir", str(tmp_path), "a"]) == 2
    assert "two runs" in capsys.readouterr().err
