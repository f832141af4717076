"""All five stages under a real sidecar: what arrived there, read from its journal, is what the documents list."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lives import run_lives
from prometheus_client.parser import text_string_to_metric_families
from test_trainer_command import flags_of

from trainer.__main__ import main
from trainer.config import PipelineConfig, PpoConfig
from trainer.stages import STAGES, pipeline_config

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
EXPOSED = {
    "train/loss": "training_loss", "train/learning_rate": "training_learning_rate",
    "train/grad_norm": "training_grad_norm", "train/epoch": "training_epoch", "train/global_step": "training_step",
    "train/tokens_per_second": "training_tokens_per_second", "train/mfu_percent": "training_mfu_ratio",
    "train/samples_per_second": "training_samples_per_second", "train/eta_minutes": "training_eta_seconds",
    "train/steps_per_second": "training_steps_per_second", "train/num_input_tokens_seen": "training_tokens_total",
}  # fmt: skip
STEPS = 12
KILLS = {"pretrain": 7, "midtrain": 11, "sft": 6, "dpo": 9, "ppo": 8}
"""Stage -> the step after which rank 0 gets SIGKILL; checkpoints are at 5, 10 and 12."""
FLAGS = {
    "n_layer": 1, "n_head": 2, "n_embd": 32, "steps": STEPS, "batch_size": 4, "threads": 1, "eval_iters": 1,
    "max_reply": 6, "eval_examples": 4, "eval_freq": 4, "generate_freq": 100, "data_bytes": 300_000,
    "project": "nano", "checkpoint_freq": 5, "dropout": 0.1,
}  # fmt: skip
RANKS = (1, 2)


ETA = "training_eta_seconds"


class Observed(NamedTuple):
    """What is known of one pipeline of which every stage was killed once and resumed."""

    out: Path
    whole: list[list[dict[str, Any]]]
    """Rank -> what each stage said in a pipeline that nobody killed, as recorded in the trainer."""
    said: str
    dir: Path
    runs: dict[str, dict[str, Any]]
    """Stage -> what the sidecar lists."""
    rows: dict[str, list[dict[str, Any]]]
    """Stage -> its journal."""
    exposed: dict[str, set[str]]
    """Stage -> the names in /metrics; of training_metric, its label."""


def lives_of(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """One pipeline in peace, before a recorder; and one before the sidecar that dies in each stage and goes on."""
    flags = {**FLAGS, "out": f"whole{ranks}", "quiet": True}
    whole = {"arguments": ["pipeline", *flags_of(flags)], "ranks": ranks, "record": str(folder / f"told{ranks}")}
    flags = {**FLAGS, "out": f"out{ranks}", "resume": f"out{ranks}", "log_backend": "wandb", "run": f"of{ranks}"}
    words = ["pipeline", *flags_of(flags)]
    dying = [{"arguments": words, "ranks": ranks, "kill": kill} for kill in KILLS.items()]
    return [whole, *dying, {"arguments": words, "ranks": ranks}]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Observed]:
    """Number of ranks -> what a real sidecar saw."""
    folder = tmp_path_factory.mktemp("p")
    with sidecar_serving(folder) as (command, environment, http):
        found, codes, said = {}, {}, {}
        with scraping(http) as exposed:
            for ranks in RANKS:
                (folder / f"told{ranks}").mkdir()
                codes[ranks], said[ranks] = run_lives(lives_of(folder, ranks), folder, **environment)
            runs = until_all_is_delivered(http, len(STAGES) * len(RANKS))
        for ranks in RANKS:
            killed = [[-signal.SIGKILL] * ranks] * len(KILLS)
            assert codes[ranks] == [[0] * ranks, *killed, [0] * ranks], said[ranks]
            mine = {run["stage"]: run for run in runs if run["name"].startswith(f"of{ranks}-")}
            rows = {
                stage: exported(command("export", run["run_id"], "--format", "jsonl", "--derived", "-o", "-"))
                for stage, run in mine.items()
            }
            told = [json.loads((folder / f"told{ranks}" / f"rank{r}.json").read_text())["runs"] for r in range(ranks)]
            names = {stage: exposed[run["run_id"]] for stage, run in mine.items()}
            found[ranks] = Observed(folder / f"out{ranks}", told, said[ranks], folder / "dir", mine, rows, names)
    return found


@contextlib.contextmanager
def sidecar_serving(folder: Path) -> Iterator[tuple[Callable[..., str], dict[str, str], str]]:
    """A sidecar in a home of its own: (its commands, the environment of its trainers, its address)."""
    home, repository = folder / "home", Path(__file__).resolve().parents[2]
    home.mkdir()
    settings = {
        "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home), "SIDECAR_DIR": str(folder / "dir"),
        "SIDECAR_ENDPOINT": f"ipc://{folder}/events", "WANDB_MODE": "offline", "PYTHONPATH": str(repository),
    }  # fmt: skip
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("TRAINER_")}, **settings}

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    with (folder / "sidecar.log").open("wb") as log:
        words = [sys.executable, "-m", "sidecar", "serve", "--port", "0"]
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        file = folder / "dir" / "endpoints.json"
        until(file.exists, "a sidecar")
        yield command, settings, json.loads(file.read_text())["http"]
    finally:
        process.terminate()
        process.wait(60)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within two minutes"
        time.sleep(0.1)


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def until_all_is_delivered(http: str, count: int) -> list[dict[str, Any]]:
    """The runs, once they are finished and their trackers have everything."""

    def delivered() -> bool:
        runs = json.loads(fetched(f"{http}/status"))["runs"]
        finished = len(runs) == count and all(run["state"] == "finished" for run in runs)
        statuses = (json.loads(fetched(f"{http}/status?run={run['run_id']}")) for run in runs)
        return finished and all(status["sinks"]["wandb"]["lag_events"] == 0 for status in statuses)

    until(delivered, "all runs at an end")
    return json.loads(fetched(f"{http}/status"))["runs"]


@contextlib.contextmanager
def scraping(http: str) -> Iterator[dict[str, set[str]]]:
    """Scrape as Prometheus does, but more often: run id -> every name that was there; of training_metric its label."""
    found: dict[str, set[str]] = {}
    ended = threading.Event()

    def scrape() -> None:
        for family in text_string_to_metric_families(fetched(f"{http}/metrics").decode()):
            for sample in family.samples:
                name = sample.labels["name"] if family.name == "training_metric" else sample.name
                found.setdefault(sample.labels.get("run", ""), set()).add(name)

    def scrape_on() -> None:
        while not ended.wait(0.2):
            scrape()

    scraper = threading.Thread(target=scrape_on, daemon=True)
    scraper.start()
    try:
        yield found
    finally:
        ended.set()
        scraper.join()
        scrape()


def exported(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


each_stage = pytest.mark.parametrize("stage", STAGES)
each_size = pytest.mark.parametrize("ranks", RANKS)


@each_size
def test_each_stage_is_a_run_of_its_own_in_one_project(observed, ranks: int) -> None:
    assert set(observed[ranks].runs) == set(STAGES)
    for run in observed[ranks].runs.values():
        assert run["project"] == "nano"
        assert (run["state"], run["last_step"]) == ("finished", STEPS)
    assert "pipeline: 5 stages in" in observed[ranks].said


@each_size
@each_stage
def test_the_journal_has_the_twelve_metrics_and_the_stages_own(observed, stage: str, ranks: int) -> None:
    names = {name for row in observed[ranks].rows[stage] for name in row["metrics"]}
    assert names >= TWELVE
    assert names >= OWN[stage]
    assert names >= {"dataset/train_size", "data/pass_rate", "continuous/total_samples_trained"}


@each_size
@each_stage
def test_the_tracker_that_the_trainer_asked_for_has_them_too(observed, stage: str, ranks: int) -> None:
    files = wandb_file().read_all(observed[ranks].dir, observed[ranks].runs[stage]["run_id"])
    names = {name for file in files for row in file.history for name in row}
    assert names >= TWELVE
    assert names >= {name for name in OWN[stage] if not name.startswith("samples/")}
    assert files[0].config["hyperparams/batch_size"] == 4
    assert files[0].run.run_group.startswith("pipeline-")


@each_size
@each_stage
def test_prometheus_has_them_too(observed, stage: str, ranks: int) -> None:
    """Under the families of the catalogue, and what has no family of its own under training_metric."""
    wanted = {EXPOSED.get(name, name) for name in TWELVE | OWN[stage]}
    assert observed[ranks].exposed[stage] >= wanted - {ETA}


def test_prometheus_has_the_time_to_go_while_a_stage_runs(observed) -> None:
    """A stage of a second may begin and end between two scrapes: not every one must have been seen."""
    assert any(ETA in names for one in observed.values() for names in one.exposed.values())


@each_size
@each_stage
def test_what_a_killed_stage_did_after_its_resume_is_bit_equal_to_a_run_in_peace(observed, stage, ranks: int) -> None:
    """Every step of every rank, those between the last checkpoint and the kill twice; and every validation."""
    seen, place = observed[ranks], list(STAGES).index(stage)
    for rank in range(ranks):
        said = {step["step"]: step for step in seen.whole[rank][place]["steps"]}
        rows = [row for row in seen.rows[stage] if row["kind"] == "step" and row["rank"] == rank]
        checkpoint = max(step for step in (5, 10) if step <= KILLS[stage])
        again = range(checkpoint + 1, STEPS + 1)
        reached = [row["step"] for row in rows]
        assert reached[: KILLS[stage]] == list(range(1, KILLS[stage] + 1)), "what was emitted before the kill is there"
        assert reached[-len(again) :] == list(again)
        for row in rows:
            told = said[row["step"]]
            expected = {"train/loss": told["loss"], "train/grad_norm": told["grad_norm"], **told["metrics"]}
            assert {name: row["metrics"][name] for name in expected} == expected
    logs = [row for row in seen.rows[stage] if row["kind"] == "log" and "val/loss" in row["metrics"]]
    expected = {at: told["val/loss"] for at, told in seen.whole[0][place]["logs"] if "val/loss" in told}
    assert {row["step"]: row["metrics"]["val/loss"] for row in logs} == expected


def wandb_file() -> Any:
    """The sinks' tests have an independent reader of such files."""
    path = Path(__file__).parents[1] / "sinks" / "wandb_file.py"
    spec = importlib.util.spec_from_file_location("wandb_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_stage
def test_the_journal_has_every_sample_checkpoint_and_dataset(observed, stage: str) -> None:
    rows = observed[1].rows[stage]
    texts = [name for row in rows if row["kind"] == "text" for name in row["metrics"]]
    assert texts
    assert all(name.startswith("sample/") for name in texts)
    checkpoints = [row["step"] for row in rows if row["kind"] == "checkpoint"]
    assert set(checkpoints) == {5, 10, STEPS}
    assert len([row for row in rows if row["kind"] == "dataset"]) >= STEPS


@each_size
def test_the_weights_were_handed_on_and_kept(observed, ranks: int) -> None:
    out = observed[ranks].out
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(STAGES)
    assert not list(out.rglob("*.tmp")), "nothing half-written is left, whoever was killed"
    assert json.loads((out / "runs.json").read_text())["total_runs"] == 5


def test_the_weights_can_be_judged_and_speak(observed, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trainer.monitoring.measured_peak_flops", lambda *_: 1e11)
    monkeypatch.setenv("SIDECAR_ENDPOINT", f"ipc://{tmp_path}/nobody")
    out = str(observed[1].out)
    few = ["--eval_examples", "4", "--threads", "1", "--eval_iters", "1", "--seq_len", "128"]
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
    for name in STAGES:
        settings = pipeline_config(given, name, "g")
        assert (settings.steps, settings.n_layer, settings.group) == (7, 2, "g")
    (tmp_path / "fineweb-edu").mkdir()
    local = PipelineConfig(data=str(tmp_path), origins={"data": "flag"})
    assert pipeline_config(local, "pretrain", "g").data == str(tmp_path), "where it finds fineweb-edu"
    assert pipeline_config(local, "sft", "g").data == str(tmp_path)
    (tmp_path / "fineweb-edu").rmdir()
    assert pipeline_config(local, "pretrain", "g").data is None, "without text there, the standard library"
    plain = pipeline_config(PipelineConfig(), "ppo", "g")
    assert plain.steps == STAGES["ppo"].in_pipeline["steps"]
    assert isinstance(plain, PpoConfig)
    assert plain.rollout_batches == PpoConfig().rollout_batches
    assert pipeline_config(PipelineConfig(run="night"), "sft", "g").run == "night-sft"
    assert pipeline_config(PipelineConfig(run="dummy"), "sft", "g").run == "dummy", "kept off W&B in every stage"
