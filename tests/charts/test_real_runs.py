"""The four main charts from real runs: the reference pipeline, and a captured script with names of its own.

Both are watched by a real sidecar; what is asserted is the JSON embedded in the page that `sidecar viz` writes.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli
from sidecar.charts.style import STAGE_COLOURS

pytestmark = pytest.mark.slow

CHARTS = {
    "trajectory": ["Training step", "Loss", "Accuracy"],
    "hyperparameters": ["Model depth", "Model dimension", "Batch size"],
    "landscape": ["MFU (%)", "Tokens per second", "Accuracy"],
    "multimetric": ["MMLU accuracy", "ARC-Easy accuracy", "GSM8K accuracy"],
}
STAGES = ("pretrain", "midtrain", "sft", "dpo", "ppo")
TITLES = ["pretraining", "midtraining", "SFT", "DPO", "PPO"]
FLAGS = ("--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--steps", "6", "--batch_size", "4", "--threads", "1",
         "--eval_iters", "1", "--eval_freq", "2", "--generate_freq", "100", "--max_reply", "4", "--eval_examples", "4",
         "--data_bytes", "100000")  # fmt: skip

SCRIPT = '''
import time, wandb

for stage, start in (("pretraining", 6.0), ("midtraining", 3.0), ("sft", 2.0), ("rl", 1.5)):
    run = wandb.init(project="theirs", name="speedrun-" + stage, config={
        "depth": 20, "model_dim": 1280, "device_batch_size": 32, "matrix_lr": 0.02, "training_stage": stage})
    for step in range(30):
        row = {"step": step, "train_loss": start - step / 40, "train/tok_per_sec": 1e5 + 100 * step, "train/mfu": 41.5,
               "train/lrm": 1.0}
        if step % 10 == 9:
            share = (step + 1) / 60
            row.update(mmlu_acc=share, arc_easy_acc=share + 0.1, gsm8k_acc=share / 2, humaneval_acc=share / 3)
        wandb.log(row)
        time.sleep(0.003)
    run.finish()
'''


def watched(directory: Path, *words: str) -> None:
    """``sidecar run`` in a home of its own."""
    root = Path(__file__).resolve().parents[2]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINER_", "SIDECAR_"))}
    environment = {**kept, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory), "WANDB_MODE": "offline",
                   "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "sidecar", "run", "--dir", str(directory / "d"), "--port", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=directory, timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def embedded(directory: Path, *words: str) -> dict[str, dict[str, Any]]:
    """Chart -> the figure in the page."""
    out = directory / "pictures.html"
    assert cli.main(["viz", "--dir", str(directory / "d"), "-o", str(out), *words]) == 0
    found = re.findall(r'<script type="application/json" id="figure-([\w-]+)">(.*?)</script>', out.read_text(), re.S)
    return {name: json.loads(body) for name, body in found}


def axes(figure: dict[str, Any]) -> list[str]:
    return [figure["layout"]["scene"][name]["title"]["text"] for name in ("xaxis", "yaxis", "zaxis")]


def stages_of(figure: dict[str, Any]) -> list[str]:
    return [trace["meta"]["stage"] for trace in figure["data"] if "stage" in (trace.get("meta") or {})]


def colours_of(figure: dict[str, Any]) -> list[str]:
    return [trace["marker"]["color"] for trace in figure["data"] if "stage" in (trace.get("meta") or {})]


def data_sets(folder: Path) -> Path:
    """The documents' data sets in their own formats, a few rows of each."""
    choices = [f"How many are {n} and {n} together, counted one by one and without a mistake?" for n in range(160)]
    sets: dict[str, list[dict[str, Any]]] = {
        "mmlu": [{"question": q, "choices": ["1", "2", "3", "4"], "answer": i % 4} for i, q in enumerate(choices)],
        "arc-easy": [{"question": q, "choices": {"text": ["1", "2"], "label": ["A", "B"]}, "answerKey": "AB"[i % 2]}
                     for i, q in enumerate(choices)],
        "gsm8k": [{"question": q, "answer": f"#### {2 * i}"} for i, q in enumerate(choices)],
        "smoltalk": [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}]}
                     for q in choices],
        "preferences": [{"prompt": q, "chosen": "Yes, it is.", "rejected": "No."} for q in choices],
    }
    folder.mkdir()
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("pipeline")
    watched(directory, "--project", "nanochat", "--", sys.executable, "-m", "trainer", "pipeline",
            "--data", str(data_sets(directory / "sets")), *FLAGS)
    return embedded(directory, "--project", "nanochat")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("captured")
    (directory / "theirs.py").write_text(SCRIPT)
    watched(directory, "--capture", "wandb", "--", sys.executable, "theirs.py")
    return embedded(directory, "--project", "theirs")


def test_the_reference_pipeline_fills_the_documents_four_charts(pipeline: dict[str, dict[str, Any]]) -> None:
    assert {name: axes(pipeline[name]) for name in CHARTS} == CHARTS
    trajectory, landscape = pipeline["trajectory"], pipeline["landscape"]
    assert stages_of(trajectory) == list(STAGES)
    assert colours_of(trajectory) == colours_of(landscape) == [STAGE_COLOURS[stage] for stage in STAGES]
    assert [trace["name"] for trace in landscape["data"]] == TITLES
    (links,) = [t for t in trajectory["data"] if (t.get("meta") or {}).get("role") == "link between stages"]
    assert links["x"].count(None) == 4
    ends = [max(x for x in trace["x"] if x is not None) for trace in trajectory["data"][:5]]
    assert ends == sorted(ends)
    assert all(0 < x < 1000 and y > 0 and 0 <= z <= 1 for trace in landscape["data"]
               for x, y, z in zip(trace["x"], trace["y"], trace["z"], strict=True))


def test_its_hyperparameters_have_one_point_a_stage_with_accuracy_and_learning_rate(
    pipeline: dict[str, dict[str, Any]]
) -> None:
    (trace,) = pipeline["hyperparameters"]["data"]
    assert (trace["x"], trace["y"], trace["z"]) == ([1.0] * 5, [32.0] * 5, [4.0] * 5)
    assert trace["marker"]["colorbar"]["title"]["text"] == "Best accuracy"
    assert all(0 <= share <= 1 for share in trace["marker"]["color"])
    assert len(trace["marker"]["size"]) == 5
    assert trace["marker"]["sizemode"] == "diameter"


def test_its_benchmarks_are_mmlu_arc_and_gsm8k_with_those_of_earlier_stages_carried_forward(
    pipeline: dict[str, dict[str, Any]]
) -> None:
    figure = pipeline["multimetric"]
    assert "note" not in (figure["layout"].get("meta") or {}), "nothing stands in for them"
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert list(by_name) == ["SFT", "PPO"], "from there on all three are known"
    assert by_name["SFT"]["marker"]["color"] == STAGE_COLOURS["sft"]
    assert "(carried forward from midtraining)" in by_name["SFT"]["text"][0]
    assert "ARC-Easy" in by_name["PPO"]["text"][0]


def test_a_captured_script_with_names_of_its_own_fills_them_too(captured: dict[str, dict[str, Any]]) -> None:
    assert {name: axes(captured[name]) for name in CHARTS} == CHARTS
    order = ["pretrain", "midtrain", "sft", "rl"]
    assert stages_of(captured["trajectory"]) == order
    for name in ("trajectory", "landscape"):
        assert colours_of(captured[name]) == [STAGE_COLOURS[stage] for stage in order], name
    (points,) = captured["hyperparameters"]["data"]
    assert (points["x"], points["y"], points["z"]) == ([20.0] * 4, [1280.0] * 4, [32.0] * 4)
    assert points["marker"]["color"] == pytest.approx([0.6] * 4)
    assert all(x == pytest.approx(41.5) for trace in captured["landscape"]["data"] for x in trace["x"])
    assert "claimed by the script" in captured["landscape"]["data"][0]["text"][0]


def test_its_benchmarks_have_humaneval_as_size_and_its_steps_make_a_film(captured: dict[str, dict[str, Any]]) -> None:
    traces = captured["multimetric"]["data"]
    assert [trace["name"] for trace in traces] == ["pretraining", "midtraining", "SFT", "RL"]
    for trace in traces:
        assert trace["x"] == pytest.approx([1 / 6, 1 / 3, 1 / 2])
        assert trace["y"] == pytest.approx([1 / 6 + 0.1, 1 / 3 + 0.1, 1 / 2 + 0.1])
        assert trace["z"] == pytest.approx([1 / 12, 1 / 6, 1 / 4])
        assert trace["marker"]["size"] == sorted(set(trace["marker"]["size"]))
    films = captured["film"]["layout"]["meta"]["films"]
    assert [len(film["steps"]) for film in films] == [29] * 4
    assert {pin["kind"] for film in films for pin in film["pins"]} >= {"evaluation"}
