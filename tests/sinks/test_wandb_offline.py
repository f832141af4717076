"""What real wandb wrote to its own file, read back by an independent reader."""

import getpass
import math
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from sidecar import wire

from .harness import Manager, Run, until
from .wandb_file import find, read_all

TWELVE = {
    "train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/global_step",
    "train/tokens_per_second", "train/samples_per_second", "train/steps_per_second", "train/num_input_tokens_seen",
    "train/mfu_percent", "train/eta_minutes", "system/epoch_time",
}  # fmt: skip
FACTS = {"params": 1_000_000, "flops_per_token": 6e6, "peak_flops": 1e12, "device_name": "Test CPU 9000"}
CANARIES = ("canary-user", "canary-host", "canary-prompt", "canary_dataset", "CANARYKEY", "canary@example.org")


def children_of_sinks() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if "wandb-core" in process.name()]


def history(tmp_path: Path, run_id: str = "run-1") -> list[dict[str, Any]]:
    return [row for file in read_all(tmp_path, run_id) for row in file.history]


def test_the_twelve_names_of_a_run_arrive_with_their_values(tmp_path: Path) -> None:
    run = Run(tmp_path, model_facts=FACTS)
    with Manager(run, "wandb") as manager:
        run.steps(0, 30)
        manager.drain()
        health = manager.health("wandb")
        assert health.state == "offline"
        assert health.reason.startswith("offline: no key; set WANDB_API_KEY or run `wandb login`")
        assert "W&B initialized: demo/d12" in health.reason
    (file,) = read_all(tmp_path, "run-1")
    assert [row["train/global_step"] for row in file.history] == list(range(31))
    assert set(file.history[-1]) >= TWELVE
    for row in file.history:
        assert row["train/loss"] == 4.0 / (1 + row["train/global_step"])
        assert row["train/num_input_tokens_seen"] == 1000 * (1 + row["train/global_step"])
    assert file.history[-1]["train/tokens_per_second"] == pytest.approx(2000)
    assert file.history[-1]["_timestamp"] == pytest.approx(run.now_ns / 1e9, abs=1e-3)
    assert file.metrics["*"] == "train/global_step"
    assert {"train/global_step", "train/num_input_tokens_seen", "progress/elapsed_seconds"} <= file.metrics.keys()
    assert (file.run.run_id, file.run.project, file.run.display_name, file.run.job_type) == (
        "run-1", "demo", "d12", "pretrain",
    )  # fmt: skip


def test_labels_and_configuration_arrive(tmp_path: Path) -> None:
    config = {
        "model/name": "Qwen/Qwen2.5-Coder-1.5B", "model/lora_r": 16, "hyperparams/learning_rate": 1e-4,
        "hyperparams/batch_size": 8, "optimizer": "adamw", "nested": {"depth": 12, "flag": True}, "betas": [0.9, 0.95],
    }  # fmt: skip
    labels = {"group": "sweep", "tags": ["small", "cpu"], "notes": "first try", "entity": "team"}
    run = Run(tmp_path, config=config, model_facts=FACTS, **labels)
    with Manager(run, "wandb") as manager:
        run.steps(0, 1)
        manager.drain()
        run.emit(wire.ConfigChanged(run.now_ns, 0, {"warmup_steps": 5}))
        run.steps(2, 3)
        manager.drain()
    (file,) = read_all(tmp_path, "run-1")
    assert (file.run.run_group, list(file.run.tags), file.run.notes, file.run.entity) == (
        "sweep", ["small", "cpu"], "first try", "team",
    )  # fmt: skip
    flat = {key: value for key, value in config.items() if key != "nested"}
    assert file.config.items() >= flat.items()
    assert (file.config["nested/depth"], file.config["nested/flag"], file.config["warmup_steps"]) == (12, True, 5)
    assert (file.config["stage"], file.config["model/total_params"]) == ("pretrain", 1_000_000)


def test_nan_and_infinities_are_preserved(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 0, **{"train/loss": float("nan"), "train/aux": float("inf"), "train/low": float("-inf")})
        manager.drain()
    (row,) = history(tmp_path)
    assert math.isnan(row["train/loss"])
    assert (row["train/aux"], row["train/low"]) == (math.inf, -math.inf)


def test_late_repeated_and_stepless_rows_are_not_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 9)
        run.emit(wire.Log(run.now_ns, 0, 3, {"val/loss": 2.5}))
        run.emit(wire.Log(run.now_ns, 0, 4, {"captured/late": 1.0}, late=True))
        run.emit(wire.Log(run.now_ns, 0, None, {"note": 7.0}))
        run.steps(5, 12)
        manager.drain()
    rows = history(tmp_path)
    steps = [row["train/global_step"] for row in rows if "train/loss" in row]
    assert steps == [*range(10), *range(5, 13)]
    assert [row["train/global_step"] for row in rows if "val/loss" in row] == [3]
    assert [row["train/global_step"] for row in rows if "captured/late" in row] == [4]
    assert [row["note"] for row in rows if "note" in row] == [7.0]
    numbers = [row["_step"] for row in rows]
    assert numbers == sorted(set(numbers))


def test_hardware_arrives_as_system_metrics(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 4)
        reading = {"cpu_percent": 37.5, "memory_used_bytes": 8e9}
        run.emit(wire.Hardware(run.now_ns, 0, None, reading, []))
        run.steps(5, 5)
        manager.drain()
    (row,) = [row for row in history(tmp_path) if "system/cpu_percent" in row]
    assert row["system/cpu_percent"] == 37.5
    assert row["train/global_step"] == 4


def test_a_killed_child_repeats_nothing_and_loses_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 9)
        manager.drain()
        runner = manager.manager._runners["run-1", "wandb"]
        os.kill(runner._sink.pid, signal.SIGKILL)
        run.steps(10, 19)
        manager.drain()
        assert manager.health("wandb").restarts_total == 1
    assert len(find(tmp_path, "run-1")) == 2
    assert [row["train/global_step"] for row in history(tmp_path)] == list(range(20))


def test_rows_that_wandb_had_not_yet_written_come_again(tmp_path: Path) -> None:
    """wandb took them, the cursor moved, and both were killed before wandb's file had them."""
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 9)
        manager.drain()
    (path,) = find(tmp_path, "run-1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    kept = len(history(tmp_path))
    assert 0 < kept < 10
    run.steps(10, 12)
    with Manager(run, "wandb") as manager:
        manager.drain()
    assert [row["train/global_step"] for row in history(tmp_path)] == list(range(13))


def test_a_dead_wandb_core_is_noticed_and_replaced(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 4)
        manager.drain()
        (core,) = children_of_sinks()
        core.kill()
        run.steps(5, 9)
        manager.drain()
        until(lambda: len(history(tmp_path)) >= 10, say=lambda: str(manager.health("wandb")))
    assert [row["train/global_step"] for row in history(tmp_path)] == list(range(10))


def test_after_a_restart_of_the_sidecar_the_run_goes_on_under_the_same_id(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 4)
        manager.drain()
    run.steps(5, 9)
    with Manager(run, "wandb") as manager:
        manager.drain()
    files = read_all(tmp_path, "run-1")
    assert [file.run.run_id for file in files] == ["run-1", "run-1"]
    assert all(file.run.resume for file in files)
    assert [row["train/global_step"] for row in history(tmp_path)] == list(range(10))


@pytest.mark.parametrize("variable", [{"WANDB_MODE": "disabled"}, {"WANDB_DISABLED": "true"}])
def test_disabled_writes_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: dict[str, str]
) -> None:
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 1)
        manager.drain()
        health = until(lambda: manager.health("wandb").reason and manager.health("wandb"))
        assert health.state == "disabled"
        assert next(iter(variable)) in health.reason
    assert not find(tmp_path, "run-1")


def test_nothing_about_user_machine_or_program_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "CANARYKEY" + "0123456789abcdef" * 2
    monkeypatch.setenv("WANDB_API_KEY", key[:40])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("USER", "canary-user")
    monkeypatch.setattr(sys, "argv", ["canary-prompt", "--token", "CANARYKEY"])
    monkeypatch.chdir(tmp_path)
    config = {
        "api_key": "CANARYKEY", "wandb_token": key, "data_path": "/data/canary_dataset/train.jsonl", "lr": 0.5,
        "prompt": "canary-prompt once upon a time", "author": "canary@example.org", "node": "canary-host",
        "optimizer": "/home/canary-user/x", "model/name": "/srv/canary_dataset/model",
        "hyperparams/owner": "canary-user",
    }  # fmt: skip
    run = Run(tmp_path, config=config, host="canary-host", notes="by canary@example.org", tags=["canary-user"])
    with Manager(run, "wandb") as manager:
        run.steps(0, 3, **{"note": "canary-prompt", "shape": ["canary-prompt"]})
        run.emit(wire.Text(run.now_ns, 0, 3, "sample/canary-prompt", "canary-prompt once upon a time"))
        run.emit(wire.Histogram(run.now_ns, 0, 3, "weights/wte", [0.0, 1.0, 2.0], [3.0, 4.0]))
        manager.drain()
    (path,) = find(tmp_path, "run-1")
    content = path.read_bytes()
    canaries = {*CANARIES, key[:40], str(tmp_path), socket.gethostname(), os.getcwd(), "weights/wte"}
    canaries |= {getpass.getuser()} - {"root"}
    assert b"train/loss" in content
    assert {canary for canary in canaries if canary.encode() in content} == set()
    (file,) = read_all(tmp_path, "run-1")
    assert file.config["lr"] == 0.5
    kinds = {record.WhichOneof("record_type") for record in file.records}
    assert kinds <= {"header", "run", "telemetry", "metric", "summary", "history", "exit", "config"}
    assert not file.run.host
    assert not file.run.git.remote_url
    for written in path.parent.rglob("*"):
        if written.is_file():
            assert key[:40].encode() not in written.read_bytes(), f"the key is in {written.name}"


def test_text_and_histograms_go_when_their_owner_allows(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb", allow=("text", "histograms")) as manager:
        run.steps(0, 0)
        run.emit(wire.Text(run.now_ns, 0, 0, "sample/one", "once upon a time"))
        run.emit(wire.Histogram(run.now_ns, 0, 0, "weights/wte", [0.0, 1.0, 2.0], [3.0, 4.0]))
        manager.drain()
    rows = history(tmp_path)
    (histogram,) = [row for row in rows if any(name.startswith("weights/wte") for name in row)]
    (text,) = [row for row in rows if any(name.startswith("sample/one") for name in row)]
    assert histogram
    assert text


def test_a_folder_called_wandb_beside_the_user_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = tmp_path / "cwd" / "wandb"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise RuntimeError('shadow')")
    monkeypatch.chdir(shadow.parent)
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 1)
        manager.drain()
        assert manager.health("wandb").state == "offline"
    assert len(history(tmp_path)) == 2
