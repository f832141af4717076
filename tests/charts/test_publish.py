"""Pictures leave the machine only when that was asked for and allowed."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli
from sidecar.charts.app import VisualizationApp
from sidecar.charts.publish import publish, weave_ops
from sidecar.errors import UserError
from tests.charts import synthetic


def test_without_the_word_nothing_is_sent(
    app: VisualizationApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="not allowed"):
        publish(app, ["text", "histograms"], project="p", mode="offline", directory=str(tmp_path))
    synthetic.run(tmp_path, steps=20)
    assert cli.main(["viz", "--dir", str(tmp_path), "--publish", "wandb", "-o", str(tmp_path / "x.html")]) == 2
    assert "--allow artifacts" in capsys.readouterr().err
    assert not list(tmp_path.rglob("offline-run-*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_it_each_chart_is_a_plotly_panel_and_nothing_else_goes(
    app: VisualizationApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_USERNAME", "canary-user")
    monkeypatch.setattr(sys, "argv", ["/home/canary-home/canary-program.py", "--key", "canary-argument"])
    names = publish(app, ["artifacts"], project="p", mode="offline", directory=str(tmp_path))
    assert names == sorted(f"pictures/{name}" for name in app.figures)
    files = list(tmp_path.rglob("*.plotly.json"))
    assert len(files) == len(names)
    titles = {json.loads(file.read_text())["layout"].get("scene", {}).get("xaxis", {}).get("title", {}).get("text")
              for file in files}
    assert "MMLU accuracy" in titles
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for canary in ("canary-", socket.gethostname() if len(socket.gethostname()) > 4 else "canary-", "requirements.txt",
                   "wandb-metadata"):
        assert canary.encode() not in everything, canary


def test_a_wandb_that_cannot_be_used_is_one_line(
    app: VisualizationApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="were not published: wandb cannot be imported"):
        publish(app, ["artifacts"], project="p", mode="offline", directory=str(tmp_path))


def test_where_weave_is_not_installed_there_are_no_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "weave", None)
    assert weave_ops(["artifacts"]) == {}


def test_where_it_is_each_figure_function_becomes_an_op(
    app: VisualizationApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weave:
        @staticmethod
        def op(name: str) -> object:
            return lambda function: (name, function)

    monkeypatch.setitem(__import__("sys").modules, "weave", Weave)
    monkeypatch.setenv("SIDECAR_ALLOW", "artifacts")
    ops: dict[str, Any] = weave_ops()
    assert {"trajectory", "hyperparameters", "landscape", "multimetric"} <= set(ops)
    name, figure = ops["landscape"]
    assert name == "landscape_figure"
    drawn = next(one for one in app.drawn if one.chart.name == "landscape")
    assert figure(drawn.data) == app.figures["landscape"]


def test_weave_is_handed_nothing_without_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("", "text"):
        monkeypatch.setenv("SIDECAR_ALLOW", word)
        with pytest.raises(UserError, match="not allowed"):
            weave_ops()
