# ruff: noqa: E501 - scripts and tables read better on one line
"""Every number the feature table names is in the catalogue, and arrives: journal, W&B file, TensorBoard file."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sidecar import metrics
from sidecar.client.compat import ComprehensiveWandbLogger
from tests.compat import every_name
from tests.fakes.nvml.fake import FakeGpus, build
from tests.sinks import wandb_file

LEARNING = """train/loss train/perplexity train/learning_rate train/learning_rate/1 train/grad_norm train/grad_norm/0
    train/epoch train/global_step train/lr_multiplier train/loss_ema train/num_tokens train/num_samples train/num_loss_tokens
    batch/loss batch/perplexity batch/size batch/grad_norm val/loss val/perplexity val/accuracy eval/loss eval/perplexity
    progress/step progress/step_percent progress/epoch progress/epoch_percent progress/eta_minutes progress/eta_hours
    train/eta_minutes system/epoch_time val/bits_per_byte train/loss_scale train/skipped_steps"""
EFFICIENCY = """train/tokens_per_second performance/tokens_per_second train/samples_per_second
    performance/samples_per_second train/steps_per_second train/num_input_tokens_seen train/num_loss_tokens_seen
    train/mfu_percent train/mfu_causal_percent train/mfu_reported train/flops_total train/flops_per_second
    train/total_training_time_seconds performance/batch_time_ms performance/data_loading_time_ms
    performance/forward_time_ms performance/backward_time_ms performance/optimizer_time_ms"""
MACHINE = """system/cpu_percent system/cpu_count system/memory_used_gb system/memory_available_gb system/memory_percent
    system/disk_used_gb system/disk_free_gb system/disk_percent system/gpu_0_memory_allocated_gb
    system/gpu_0_memory_reserved_gb system/gpu_0_memory_peak_gb system/gpu_0_alloc_retries system/gpu_0_ooms
    system/gpu_0_utilization system/gpu_0_memory_utilization system/gpu_7_utilization"""
INTERNALS = """gradients/global_norm gradients/mean_norm gradients/max_norm gradients/min_norm gradients/0.weight
    weights/global_mean weights/global_std weights/0.weight/mean weights/0.weight/std weights/0.weight/norm train/param_norm
    train/param_norm/0 updates/ratio updates/0.weight activations/0/mean activations/0/std activations/0/max
    activations/0/zero_ratio"""
HISTOGRAMS = "weights/0.weight/histogram gradients/0.weight/histogram activations/0/histogram"
DATA = """data/total_samples data/avg_quality_score data/avg_code_length data/language_python data/language_python_percent
    data/blocked_malicious data/blocked_secrets data/blocked_license data/blocked_total data/pass_rate data/unreadable
    dataset/train_size dataset/eval_size dataset/total_size dataset/train_eval_ratio dataset/avg_tokens_per_sample
    dataset/max_tokens dataset/min_tokens dataset/MMLU/samples_seen dataset/MMLU/tokens_seen dataset/MMLU/ratio
    dataset/MMLU/target_ratio dataset/MMLU/coverage_percent dataset/MMLU/epochs dataset/MMLU/loss code/avg_lines
    code/avg_complexity code/comments_percent code/docstrings_percent"""
CONTINUOUS = """continuous/run_number continuous/total_runs continuous/last_trained_id continuous/total_samples_trained
    continuous/uptime_hours"""
SETTINGS = """model/name model/total_params model/trainable_params model/trainable_percent model/lora_r model/lora_alpha
    hyperparams/batch_size hyperparams/learning_rate hyperparams/max_length"""
STAGES = """rewards/chosen rewards/rejected rewards/accuracy rewards/margin dpo/kl ppo/reward ppo/response_length ppo/kl
    ppo/kl_weight ppo/policy_loss ppo/value_loss ppo/entropy ppo/clip_fraction val/rewards_margin val/rewards_accuracy
    samples/length samples/distinct_2 samples/repetition samples/entropy samples/perplexity"""
FUNCTIONS = """eval/mmlu_acc eval/arc_easy_acc eval/gsm8k_acc eval/humaneval_acc eval/mmlu_acc_normalized eval/mean_acc
    custom/mine checkpoint/seconds checkpoint/bytes"""
NUMBERS = " ".join((LEARNING, EFFICIENCY, MACHINE, INTERNALS, DATA, CONTINUOUS, STAGES, FUNCTIONS)).split()


class Arrived(NamedTuple):
    journal: set[str]
    wandb: set[str]
    wandb_config: dict[str, Any]
    board: set[str]
    board_histograms: set[str]
    board_texts: str


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Arrived:
    """One launch with eight fake GPUs, of a script that sends everything there is."""
    if shutil.which("gcc") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("gcc not installed: apt-get install gcc")
    folder = tmp_path_factory.mktemp("every")
    data = folder / "data"
    environ = {
        **os.environ, "PYTHONPATH": str(repository), "FAKE_NVML_STATE": str(FakeGpus(folder / "gpus").path),
        "LD_LIBRARY_PATH": str(build(folder).parent), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "sidecar"]
    done = subprocess.run(
        [*command, "run", "--dir", str(data), "--port", "0", "--sink", "wandb,tensorboard", "--wandb-mode", "offline",
         "--allow", "text,histograms", "--", sys.executable, str(Path(every_name.__file__))],
        cwd=repository, env=environ, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([*command, "runs", "--dir", str(data), "--json"], cwd=repository, capture_output=True, text=True,
                            timeout=60, check=True)  # fmt: skip
    journal: set[str] = set()
    for run in json.loads(listed.stdout):
        export = subprocess.run(
            [*command, "export", run["run_id"], "--dir", str(data), "--format", "jsonl", "-o", "-", "--derived"],
            cwd=repository, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        journal.update(name for line in export.stdout.splitlines() for name in json.loads(line)["metrics"])
    files = [wandb_file.read(path) for path in data.rglob("run-*.wandb")]
    boards = [EventAccumulator(str(file), size_guidance={"tensors": 0}) for file in data.rglob("events.out.tfevents.*")]
    for board in boards:
        board.Reload()
    texts = [value.tensor_proto.string_val for board in boards for tag in board.Tags()["tensors"] for value in board.Tensors(tag)]
    return Arrived(
        journal,
        {name for file in files for row in file.history for name in row},
        {key: value for file in files for key, value in file.config.items()},
        {tag for board in boards for tag in board.Tags()["scalars"]},
        {tag for board in boards for tag in board.Tags()["histograms"]},
        "\n".join(part.decode() for text in texts for part in text),
    )


@pytest.mark.slow
def test_every_number_arrives_in_the_journal_in_wandbs_file_and_in_tensorboards(arrived: Arrived) -> None:
    wanted = set(NUMBERS)
    assert len(wanted) == len(NUMBERS) > 140
    assert sorted(wanted - arrived.journal) == []
    assert sorted(wanted - arrived.wandb) == []
    assert sorted(wanted - arrived.board) == []


@pytest.mark.slow
def test_histograms_and_texts_arrive_where_they_are_allowed(arrived: Arrived) -> None:
    wanted = set(HISTOGRAMS.split())
    assert sorted(wanted - arrived.journal) == []
    assert sorted(wanted - arrived.board_histograms) == []
    for name in (*wanted, "sample/once upon"):  # W&B's files hold them as a map under this name.
        assert any(found.startswith(f"{name}/") for found in arrived.wandb), name
    assert "a time" in arrived.board_texts


@pytest.mark.slow
def test_settings_arrive_in_wandbs_configuration_and_as_text(arrived: Arrived) -> None:
    for name in SETTINGS.split():
        assert name in arrived.wandb_config, name
        assert f"| {name} |" in arrived.board_texts, name


def test_every_name_is_in_the_catalogue() -> None:
    names = [*NUMBERS, *HISTOGRAMS.split(), *SETTINGS.split()]
    assert [name for name in names if metrics.find(name) is None] == []


def test_every_name_the_compat_functions_send_is_in_the_catalogue(last) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = last(every_name.call_all(ComprehensiveWandbLogger("p")))
    assert len(found) > 60
    assert [name for name in found if metrics.find(name) is None] == []


def test_every_name_the_reference_trainer_sends_is_in_the_catalogue(repository: Path) -> None:
    spaces = "batch|continuous|data|dpo|eval|ppo|rewards|samples|train|val"
    names = {
        name for file in (repository / "trainer").rglob("*.py")
        for name in re.findall(rf'"((?:{spaces})/[a-z_0-9]+)"', file.read_text()) if name != "val/rewards"  # A beginning.
    }  # fmt: skip
    assert len(names) > 25
    assert [name for name in names if metrics.find(name) is None] == []
