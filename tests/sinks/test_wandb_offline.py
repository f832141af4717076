"""What real wandb wrote to its own file, read back by an independent reader."""

import getpass
import json
import math
import os
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest

from sidecar import wire
from sidecar.rows import RunInfo
from sidecar.sinks import audit, wandb, wandb_account
from sidecar.sinks.privacy import Identity

from .harness import START_NS, Manager, Run, until
from .wandb_file import WandbFile, find, read_all

TWELVE = {
    "train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/global_step",
    "train/tokens_per_second", "train/samples_per_second", "train/steps_per_second", "train/num_input_tokens_seen",
    "train/mfu_percent", "train/eta_minutes", "system/epoch_time",
}  # fmt: skip
FACTS = {"params": 1_000_000, "flops_per_token": 6e6, "peak_flops": 1e12, "device_name": "Test CPU 9000"}
CANARIES = ("canary-user", "canary-host", "canary-prompt", "canary_dataset", "CANARYKEY", "canary@example.org")


def wandb_cores(parent: psutil.Process) -> list[psutil.Process]:
    return [process for process in parent.children(recursive=True) if "wandb-core" in process.name()]


def child_of(manager: Manager) -> psutil.Process:
    return psutil.Process(manager.manager._runners["run-1", "wandb"]._sink.pid)


def history(tmp_path: Path, run_id: str = "run-1") -> list[dict[str, Any]]:
    return [row for file in read_all(tmp_path, run_id) for row in file.history]


KEY = ("CANARYKEY" + "0123456789abcdef" * 2)[:40]
CONFIG = {
    "model/name": "Qwen/Qwen2.5-Coder-1.5B", "model/lora_r": 16, "hyperparams/learning_rate": 1e-4,
    "hyperparams/batch_size": 8, "optimizer": "adamw", "nested": {"depth": 12, "flag": True}, "betas": [0.9, 0.95],
}  # fmt: skip
SECRET_CONFIG = {
    "api_key": "CANARYKEY", "wandb_token": KEY, "data_path": "/data/canary_dataset/train.jsonl",
    "prompt": "canary-prompt once upon a time", "author": "canary@example.org", "node": "canary-host",
    "model/path": "/srv/canary_dataset/model", "hyperparams/owner": "canary-user",
}  # fmt: skip


class Recorded(NamedTuple):
    path: Path
    file: WandbFile
    health: Any


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One run with everything in it, recorded once: starting wandb takes seconds."""
    directory = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("USER", "canary-user")
        patch.setattr(sys, "argv", ["canary-prompt", "--token", "CANARYKEY"])
        patch.chdir(directory)
        labels = {"group": "sweep", "tags": ["small", "canary-user"], "notes": "by canary@example.org"}
        run = Run(
            directory, config=CONFIG | SECRET_CONFIG, model_facts=FACTS, host="canary-host", entity="team", **labels
        )
        with Manager(run, "wandb") as manager:
            run.steps(0, 9)
            manager.drain()
            health = msgspec.structs.replace(manager.health("wandb"))
            run.emit(wire.ConfigChanged(run.now_ns, 0, {"warmup_steps": 5}))
            run.emit(wire.Hardware(run.now_ns, 0, None, {"cpu_percent": 37.5, "memory_used_bytes": 8e9}, []))
            run.emit(wire.Log(run.now_ns, 0, 3, {"val/loss": 2.5}))
            run.emit(wire.Log(run.now_ns, 0, 4, {"captured/late": 1.0}, late=True))
            run.emit(wire.Log(run.now_ns, 0, None, {"note": 7.0}))
            run.emit(wire.Text(run.now_ns, 0, 3, "sample/canary-prompt", "canary-prompt once upon a time"))
            run.emit(wire.Histogram(run.now_ns, 0, 3, "weights/wte", [0.0, 1.0, 2.0], [3.0, 4.0]))
            run.steps(5, 30)
            run.steps(31, 31, **{"word": "canary-prompt", "shape": ["canary-prompt"]})
            run.steps(32, 32, **{"train/loss": math.nan, "train/aux": math.inf, "train/low": -math.inf})
            summary = {"train/loss": {"min": 1.5}, "note": 99, "word": "canary-prompt"}
            run.emit(wire.RunChanged(run.now_ns, 0, name="renamed", summary=summary))
            run.emit(wire.Finished(run.now_ns, run.now_ns - START_NS, "failed", "out of memory"))
            manager.drain()
            run.command_ended(3)
            manager.drain()
    (path,) = find(directory, "run-1")
    return Recorded(path, read_all(directory, "run-1")[0], health)


def steps(recorded: Recorded) -> list[dict[str, Any]]:
    return [row for row in recorded.file.history if "train/loss" in row]


def test_the_twelve_names_of_a_run_arrive_with_their_values(recorded: Recorded) -> None:
    rows = steps(recorded)
    assert [row["train/global_step"] for row in rows] == [*range(10), *range(5, 33)]
    assert set(rows[-1]) >= TWELVE
    for row in rows[:-1]:
        assert row["train/loss"] == 4.0 / (1 + row["train/global_step"])
    for row in rows[:10]:
        assert row["train/num_input_tokens_seen"] == 1000 * (1 + row["train/global_step"])
    assert rows[-1]["train/tokens_per_second"] == pytest.approx(2000)


def test_without_a_connection_it_says_so_and_where_the_run_is(recorded: Recorded) -> None:
    assert recorded.health.state == "offline"
    assert recorded.health.reason == "offline: WANDB_MODE=offline (W&B initialized: demo/d12)"


def test_step_tokens_and_time_are_axes_of_every_row(recorded: Recorded) -> None:
    axes = {"train/global_step", "train/num_input_tokens_seen", "progress/elapsed_seconds"}
    assert recorded.file.metrics["*"] == "train/global_step"
    assert axes <= recorded.file.metrics.keys()
    rows = recorded.file.history
    assert all(axes <= row.keys() for row in rows)
    (val,) = [row for row in rows if "val/loss" in row]
    assert (val["train/global_step"], val["train/num_input_tokens_seen"]) == (3, 10_000)
    assert steps(recorded)[9]["progress/elapsed_seconds"] == 5.0
    assert steps(recorded)[9]["_timestamp"] == pytest.approx(START_NS / 1e9 + 5.0, abs=1e-3)


def test_labels_and_configuration_arrive(recorded: Recorded) -> None:
    file = recorded.file
    assert (file.run.run_id, file.run.project, file.run.display_name, file.run.job_type) == (
        "run-1", "demo", "renamed", "pretrain",
    )  # fmt: skip
    assert (file.run.run_group, file.run.tags[0], file.run.entity) == ("sweep", "small", "team")
    flat = {key: value for key, value in CONFIG.items() if key != "nested"}
    assert file.config.items() >= flat.items()
    assert (file.config["nested/depth"], file.config["nested/flag"], file.config["warmup_steps"]) == (12, True, 5)
    assert (file.config["stage"], file.config["model/total_params"]) == ("pretrain", 1_000_000)


def test_a_new_name_and_the_scripts_own_summary_stand_over_what_the_rows_made_of_it(recorded: Recorded) -> None:
    assert recorded.file.run.display_name == "renamed"
    told: dict[str, Any] = {}
    for record in recorded.file.records:
        if record.WhichOneof("record_type") == "summary":
            told |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
    assert (told["note"], told["train/loss"]) == (99, {"min": 1.5})
    assert "word" not in told


def test_nan_and_infinities_are_preserved(recorded: Recorded) -> None:
    row = steps(recorded)[-1]
    assert math.isnan(row["train/loss"])
    assert (row["train/aux"], row["train/low"]) == (math.inf, -math.inf)


def test_late_repeated_and_stepless_rows_are_not_dropped(recorded: Recorded) -> None:
    rows = recorded.file.history
    assert [row["train/global_step"] for row in rows if "val/loss" in row] == [3]
    assert [row["train/global_step"] for row in rows if "captured/late" in row] == [4]
    assert [row["note"] for row in rows if "note" in row] == [7.0]
    numbers = [row["_step"] for row in rows]
    assert numbers == sorted(set(numbers))


def test_hardware_arrives_as_system_metrics(recorded: Recorded) -> None:
    (row,) = [row for row in recorded.file.history if "system/cpu_percent" in row]
    assert (row["system/cpu_percent"], row["system/memory_used_gb"], row["train/global_step"]) == (37.5, 8.0, 9)


def test_a_run_that_failed_is_failed_at_wandb_too(recorded: Recorded) -> None:
    assert recorded.file.exit_codes == [3], "its command's exit code"


@pytest.mark.parametrize(
    ("end", "exit_code", "sent"), [("finished", None, 0), ("failed", None, 1), ("lost", 137, 137), (None, None, 0)]
)
def test_the_exit_code_at_wandb_is_the_commands_where_it_is_known(
    end: str | None, exit_code: int | None, sent: int
) -> None:
    assert wandb._exit_code(RunInfo("run-1", end=end, exit_code=exit_code)) == sent


def test_nothing_about_user_machine_or_program_is_in_the_file(recorded: Recorded) -> None:
    content = recorded.path.read_bytes()
    directory = str(recorded.path.parents[2])
    canaries = {*CANARIES, KEY, directory, socket.gethostname(), os.getcwd(), "weights/wte", "out of memory"}
    canaries |= {getpass.getuser()} - {"root"}
    assert b"train/loss" in content
    assert {canary for canary in canaries if canary.encode() in content} == set()
    kinds = {record.WhichOneof("record_type") for record in recorded.file.records}
    assert kinds <= {"header", "run", "telemetry", "metric", "summary", "history", "exit", "config"}
    assert not recorded.file.run.host
    assert not recorded.file.run.git.remote_url
    for written in recorded.path.parent.rglob("*"):
        if written.is_file():
            assert KEY.encode() not in written.read_bytes(), f"the key is in {written.name}"


def test_a_killed_child_and_a_dead_wandb_core_repeat_nothing_and_lose_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 4)
        manager.drain()
        (core,) = wandb_cores(child_of(manager))
        core.kill()
        run.steps(5, 9)
        manager.drain()
        until(lambda: len(history(tmp_path)) >= 10, say=lambda: str(manager.health("wandb")))
        child_of(manager).kill()
        run.steps(10, 19)
        manager.drain()
        assert manager.health("wandb").restarts_total == 2
    assert len(find(tmp_path, "run-1")) == 3
    assert [row["train/global_step"] for row in history(tmp_path)] == list(range(20))
    assert [file.exit_codes for file in read_all(tmp_path, "run-1")][-1] == [0]


def test_a_restart_of_the_sidecar_goes_on_under_the_same_id_with_what_wandb_had_not_yet_written(
    tmp_path: Path,
) -> None:
    """wandb took the rows, the cursor moved, and both were killed before wandb's file had them."""
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 9)
        manager.drain()
    (path,) = find(tmp_path, "run-1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    kept = len(history(tmp_path))
    assert 0 < kept < 10
    run.emit(wire.Hardware(run.now_ns, 0, None, {"cpu_percent": 37.5}, []))
    run.steps(10, 12)
    with Manager(run, "wandb") as manager:
        manager.drain()
    files = read_all(tmp_path, "run-1")
    (reading,) = [row for row in history(tmp_path) if "system/cpu_percent" in row]
    assert (reading["train/global_step"], reading["train/num_input_tokens_seen"]) == (9, 10_000)
    assert [file.run.run_id for file in files] == ["run-1", "run-1"]
    assert all(file.run.resume for file in files)
    assert [row["train/global_step"] for row in history(tmp_path) if "train/loss" in row] == list(range(13))


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


def test_text_histograms_and_alerts_go_when_their_owner_allows(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb", allow=("text", "histograms", "alerts")) as manager:
        run.steps(0, 0)
        run.emit(wire.Text(run.now_ns, 0, 0, "sample/one", "once upon a time"))
        run.emit(wire.Histogram(run.now_ns, 0, 0, "weights/wte", [0.0, 1.0, 2.0], [3.0, 4.0]))
        run.steps(1, 2, **{"train/loss": math.nan})
        manager.drain()
        run.finish()
        manager.drain()
    rows = history(tmp_path)
    (histogram,) = [row for row in rows if any(name.startswith("weights/wte") for name in row)]
    (text,) = [row for row in rows if any(name.startswith("sample/one") for name in row)]
    assert histogram
    assert text
    (file,) = read_all(tmp_path, "run-1")
    alerts = [record.alert for record in file.records if record.WhichOneof("record_type") == "alert"]
    assert [(alert.title, alert.level) for alert in alerts] == [("loss_nonfinite", "ERROR")]
    assert "loss is nan at step" in alerts[0].text
    report = audit.audit(tmp_path, "run-1", Identity.of("nobody-here"))
    assert report.findings == []


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


def test_a_further_node_is_a_labelled_run_of_the_same_group() -> None:
    primary = RunInfo("run-1", "demo", "d12")
    node = msgspec.structs.replace(primary, node=8)
    assert wandb_account.labels(primary, {}, {}).id == "run-1"
    labels = wandb_account.labels(node, {}, {})
    assert (labels.id, labels.name, labels.group) == ("run-1-rank8", "d12 (ranks from 8)", "d12")
    config = wandb._config(node)
    assert (config["node/first_rank"], config["node/primary_run"]) == (8, "run-1")
    assert "node/first_rank" not in wandb._config(primary)
