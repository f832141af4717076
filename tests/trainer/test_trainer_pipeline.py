"""All five stages under a real sidecar: what arrived there, read from its journal, is what the documents list."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main
from trainer.config import PipelineConfig, PpoConfig
from trainer.pipeline import PARTS, settings_of

TWELVE = {
    "train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/global_step",
    "train/tokens_per_second", "train/samples_per_second", "train/steps_per_second", "train/num_input_tokens_seen",
    "train/mfu_percent", "train/eta_minutes", "system/epoch_time",
}  # fmt: skip
"""The second document's list, for every stage."""
OWN = {
    "pretrain": {"val/loss", "val/perplexity", "val/accuracy", "val/bits_per_byte", "samples/perplexity"},
    "midtrain": {"val/loss", "eval/modules_acc", "eval/sums_acc_normalized", "eval/mean_acc", "samples/distinct_2"},
    "sft": {"val/loss", "eval/modules_acc", "eval/sums_acc_normalized", "eval/mean_acc", "train/num_loss_tokens"},
    "dpo": {"rewards/chosen", "rewards/rejected", "rewards/accuracy", "rewards/margin", "dpo/kl", "val/loss"},
    "ppo": {"ppo/reward", "ppo/kl", "ppo/clip_fraction", "ppo/value_loss", "ppo/entropy", "ppo/response_length"},
}
STEPS = 12


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pipeline on tiny settings as a child of `sidecar run`: rows by stage, and the list of runs."""
    folder = tmp_path_factory.mktemp("pipeline")
    home, root = folder / "home", Path(__file__).resolve().parents[2]
    home.mkdir()
    foreign = ("SIDECAR_", "WANDB_", "TRAINER_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home), "SIDECAR_DIR": str(folder / "dir"),
        "PYTHONPATH": str(root), "WANDB_MODE": "offline",
    }  # fmt: skip

    def sidecar(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=150,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    flags = (
        f"--n_layer 1 --n_head 2 --n_embd 32 --steps {STEPS} --batch_size 4 --threads 1 --eval_iters 1 --max_reply 6"
    )
    flags += " --judge_examples 4 --eval_freq 100 --generate_freq 100 --data_bytes 300000 --project nano --out out"
    flags += " --log_backend wandb"
    said = sidecar(
        "run", "--port", "0", "--grace", "20", "--", sys.executable, "-m", "trainer", "pipeline", *flags.split()
    )
    runs = json.loads(sidecar("runs", "--json"))
    rows = {
        run["stage"]: [
            json.loads(line)
            for line in sidecar("export", run["run_id"], "--format", "jsonl", "--derived", "-o", "-").splitlines()
        ]
        for run in runs
    }
    return {"said": said, "runs": runs, "rows": rows, "out": folder / "out", "dir": folder / "dir"}


def test_each_stage_is_a_run_of_its_own_in_one_project(observed) -> None:
    stages = {run["stage"]: run for run in observed["runs"]}
    assert set(stages) == set(PARTS)
    for run in stages.values():
        assert run["project"] == "nano"
        assert (run["state"], run["last_step"]) == ("finished", STEPS)
    assert "pipeline: 5 stages in" in observed["said"]


@pytest.mark.parametrize("stage", PARTS)
def test_every_stage_has_the_twelve_metrics_and_its_own(observed, stage: str) -> None:
    names = {name for row in observed["rows"][stage] for name in row["metrics"]}
    assert names >= TWELVE
    assert names >= OWN[stage]
    assert names >= {"dataset/train_size", "data/pass_rate", "continuous/total_samples_trained"}


@pytest.mark.parametrize("stage", PARTS)
def test_the_tracker_that_the_trainer_asked_for_has_them_too(observed, stage: str) -> None:
    (run,) = (run for run in observed["runs"] if run["stage"] == stage)
    (file,) = wandb_file().read_all(observed["dir"], run["run_id"])
    names = {name for row in file.history for name in row}
    assert names >= TWELVE
    assert names >= {name for name in OWN[stage] if not name.startswith("samples/")}
    assert file.config["hyperparams/batch_size"] == 4
    assert file.run.run_group.startswith("pipeline-")


def wandb_file() -> Any:
    """The sinks' tests have an independent reader of such files."""
    path = Path(__file__).parents[1] / "sinks" / "wandb_file.py"
    spec = importlib.util.spec_from_file_location("wandb_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("stage", PARTS)
def test_the_journal_has_every_step_sample_phase_and_checkpoint(observed, stage: str) -> None:
    rows = observed["rows"][stage]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    texts = [name for row in rows if row["kind"] == "text" for name in row["metrics"]]
    assert texts
    assert all(name.startswith("sample/") for name in texts)
    checkpoints = [row for row in rows if row["kind"] == "checkpoint"]
    assert [row["step"] for row in checkpoints] == [STEPS]
    consumed = [row for row in rows if row["kind"] == "dataset"]
    assert len(consumed) >= STEPS


def test_the_weights_were_handed_on_and_kept(observed) -> None:
    assert sorted(path.name for path in observed["out"].iterdir() if path.is_dir()) == sorted(PARTS)
    books = json.loads((observed["out"] / "runs.json").read_text())
    assert (books["run_number"], books["total_runs"]) == (5, 5)


def test_the_weights_can_be_judged_and_speak(observed, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trainer.report.measured_peak_flops", lambda *_: 1e11)
    monkeypatch.setenv("SIDECAR_ENDPOINT", f"ipc://{tmp_path}/nobody")
    out = str(observed["out"])
    few = ["--judge_examples", "4", "--threads", "1", "--eval_iters", "1", "--seq_len", "128"]
    assert main(["eval", "--out", out, "--from_weight", "ppo", *few]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert {"val/loss", "eval/modules_acc", "eval/sums_acc", "eval/mean_acc_normalized"} <= set(numbers)
    speak = ["generate", "--out", out, "--from_weight", "sft", "--prompt", "hello", "--max_tokens", "5"]
    assert main([*speak, "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("hello")
    assert main([*speak, "--chat", "--threads", "1"]) == 0
    assert main(["generate", "--out", out, "--from_weight", "sft"]) == 2
    assert "nothing to continue" in capsys.readouterr().err


def test_a_flag_that_is_given_holds_for_every_stage_and_wins_over_the_pipelines_own(tmp_path: Path) -> None:
    given = PipelineConfig(steps=7, n_layer=2, origins={"steps": "flag", "n_layer": "environment"})
    for name in PARTS:
        settings = settings_of(given, name, "g")
        assert (settings.steps, settings.n_layer, settings.group) == (7, 2, "g")
    (tmp_path / "fineweb-edu").mkdir()
    local = PipelineConfig(data=str(tmp_path), origins={"data": "flag"})
    assert settings_of(local, "pretrain", "g").data == str(tmp_path / "fineweb-edu")
    assert settings_of(local, "sft", "g").data == str(tmp_path)
    plain = settings_of(PipelineConfig(), "ppo", "g")
    assert plain.steps == PARTS["ppo"].settings["steps"]
    assert isinstance(plain, PpoConfig)
    assert plain.rollout_batches == PpoConfig().rollout_batches
    assert settings_of(PipelineConfig(run="night"), "sft", "g").run == "night-sft"
    assert settings_of(PipelineConfig(run="dummy"), "sft", "g").run == "dummy", "kept off W&B in every stage"
