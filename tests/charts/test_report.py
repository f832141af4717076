"""One page about one run."""

import re
from pathlib import Path

import pytest

from sidecar import cli, wire
from sidecar.charts.load import load_each
from sidecar.charts.report import Report, spark
from sidecar.charts.style import short
from tests.charts import synthetic
from tests.charts.synthetic import T0, Writer


def report(directory: Path, word: str = "latest") -> Report:
    return Report(load_each(directory, [word])[0])


def test_the_page_says_what_happened_and_holds_its_curves(pipeline_directory: Path) -> None:
    text = report(pipeline_directory, "d12-sft").html()
    for expected in ("Finished at step", "Where the time went", "GSM8K", "n_layer", "peak from override", "evaluation",
                     "Environment", "eval/mmlu_acc", "2 x GPU"):
        assert expected in text, expected
    assert text.count("<svg") >= 5
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert set(tiles) >= {"last loss", "best validation loss", "tokens", "tokens per second", "MFU", "goodput"}
    widths = [float(width) for width in re.findall(r'<i style="width:([\d.]+)%', text)]
    assert sum(widths) == pytest.approx(100, abs=1), "where the time went, as one bar"
    assert "<script" not in text, "a report is read, not run"
    assert not re.search(r'(src|href)="(?!#|data:)', text)


def test_markdown_has_the_same_sections(pipeline_directory: Path) -> None:
    text = report(pipeline_directory, "d12-sft").markdown()
    sections = re.findall(r"^## (.+)$", text, re.M)
    assert sections[:3] == ["Curves", "Stage", "Where the time went"]
    assert {"Datasets", "Configuration", "Environment", "Evaluations"} <= set(sections)
    assert "▁" in text


def test_the_terminal_card_has_sparklines_and_no_control_characters(tmp_path: Path) -> None:
    synthetic.run(tmp_path, steps=60, name="red\x1b[31m")
    lines = report(tmp_path).lines()
    assert any(line.startswith("train/loss") and "█" in line for line in lines)
    assert "\x1b" not in "\n".join(lines)


def test_mfu_comes_with_its_convention_or_with_why_there_is_none(tmp_path: Path) -> None:
    synthetic.run(tmp_path, "a", steps=40)
    synthetic.run(tmp_path, "b", steps=40, facts={}, start_ns=T0 + 1)
    known, unknown = ("\n".join(report(tmp_path, word).lines()) for word in ("a", "b"))
    assert re.search(r"MFU +\d+\.\d\d % on average \(.+\); of 60 TFLOP/s x 1, peak from override", known)
    assert re.search(r"MFU +unknown: ", unknown)


def test_samples_are_shown_as_text_whatever_is_in_them(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r", name="</pre><script>alert(1)</script>|`x`")
    session = writer.greet()
    writer.add(session, wire.Step(T0, T0, 0, {"train/loss": 1.0}),
               wire.Text(T0, T0, 0, "sample/once", "</pre><script>alert(2)</script>"))
    writer.close()
    page = report(tmp_path).html()
    assert "<script" not in page
    assert "&lt;script&gt;alert(2)" in page
    markdown = report(tmp_path).markdown()
    assert "# &lt;/pre&gt;&lt;script&gt;" in markdown
    assert "    </pre><script>alert(2)</script>" in markdown, "inside a code block"


def test_a_run_with_one_step_and_nothing_else_is_reported(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r")
    session = writer.greet()
    writer.add(session, wire.Step(T0, T0, 0, {"train/loss": float("nan")}))
    writer.close()
    made = report(tmp_path)
    assert "1 value of the loss" in "\n".join(made.lines())
    assert "No curve" in made.html()
    assert "<iframe" in made._repr_html_()


def test_a_curve_goes_on_where_its_values_are_not_finite(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "r", model_facts={"params": 124_000_000})
    session = writer.greet()
    for step in range(200):
        loss = 3.0 - step / 100 if step < 100 else float("nan")
        writer.add(session, wire.Step(T0 + step * 10**8, T0, step, {"train/loss": loss}))
    writer.close()
    page = report(tmp_path).html()
    curve = page[page.index("Training loss") :].split("</svg>")[0]
    assert "not finite from step 100 on" in curve
    assert ">199</text>" in curve, "the axis ends with the run, not with its last finite value"
    assert "<title>not finite at step 150</title>" in curve
    assert "124,000,000" in page


@pytest.mark.parametrize(("outcome", "tone"), [("finished", "hero wide "), ("failed", "hero wide bad")])
def test_only_a_run_that_went_wrong_is_framed_in_red(tmp_path: Path, outcome: str, tone: str) -> None:
    writer = Writer(tmp_path, "r", stage="pretrain")
    session = writer.greet()
    writer.add(session, wire.Step(T0, T0, 0, {"train/loss": 2.0}), wire.Finished(T0 + 1, T0, outcome))
    writer.close()
    assert f'class="card {tone}"' in report(tmp_path).html()


def test_numbers_are_short_and_units_apart() -> None:
    assert [short(v) for v in (0.00031, 9_999, 12_000, 999_999, None)] == ["0.00031", "9999", "12k", "1M", "–"]
    assert short(989e12, "FLOP/s") == "989 TFLOP/s"
    assert short(float("nan"), "W") == "NaN W"


def test_sparklines_show_the_shape() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert spark([2.0, 2.0]) == "▄▄"
    assert set(spark([0.001] * 400 + [sum([0.001] * 19) / 19] * 400)) == {"▄"}
    assert len(spark(list(range(1000)))) == 32
    assert spark([]) == ""


@pytest.mark.parametrize(("name", "start"), [("r.html", "<!doctype html>"), ("r.md", "# ")])
def test_the_command_writes_what_the_name_says(tmp_path: Path, name: str, start: str) -> None:
    synthetic.run(tmp_path, steps=40)
    assert cli.main(["report", "latest", "--dir", str(tmp_path), "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_text().startswith(start)
    assert cli.main(["report", "latest", "--dir", str(tmp_path), "-o", str(tmp_path / "r.pdf")]) == 2
    assert cli.main(["report", "latest", "--dir", str(tmp_path), "-o", str(tmp_path / "no" / "r.md")]) == 73
