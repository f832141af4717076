"""Checkpoint files: they stay here without the word, and arrive whole with it, whatever happens on the way."""

import getpass
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from fakes.wandb_server import WandbServer

from sidecar import wire
from sidecar.client import values
from sidecar.rows import Row
from sidecar.sinks import audit, late, wandb_artifacts
from sidecar.sinks.privacy import Gate, Identity

from .harness import Manager, Run, config, until
from .test_wandb_online import QUICK, server, short_rests  # noqa: F401 - fixtures.
from .wandb_file import find, read

ALLOW = {"allow": ("artifacts",)}
CONTENT = b"weights of somebody's model " * 1000


def save(run: Run, path: Path, step: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(CONTENT)
    run.emit(wire.Checkpoint(run.now_ns, 0, step, 0.5, len(CONTENT), path.name, str(path)))


def artifacts(tmp_path: Path) -> list[Any]:
    records = [record for path in find(tmp_path, "run-1") for record in read(path).records]
    return [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("offline")
def test_without_the_word_no_file_and_no_path_leaves_and_the_status_says_how(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb") as manager:
        run.steps(0, 1)
        save(run, tmp_path / "canary-folder" / "canary.pt", 1)
        manager.drain()
        assert manager.health("wandb").reason.endswith("checkpoint files stay here (--allow artifacts sends them)")
    (path,) = find(tmp_path, "run-1")
    assert artifacts(tmp_path) == []
    assert b"canary" not in path.read_bytes()
    assert [row["checkpoint/bytes"] for row in read(path).history if "checkpoint/bytes" in row] == [len(CONTENT)]


@pytest.mark.usefixtures("offline")
def test_with_the_word_each_checkpoint_is_a_version_in_the_offline_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb", **ALLOW) as manager:
        for step in (10, 20):
            save(run, tmp_path / "canary-folder" / f"checkpoint_{step}.pt", step)
        manager.drain()
        until(lambda: not wandb_artifacts.waiting(tmp_path, "run-1"), say=lambda: str(manager.health("wandb")))
    found = artifacts(tmp_path)
    assert [(one.name, one.type, sorted(one.aliases)) for one in found] == [
        ("checkpoint-run-1", "model", ["latest", "step-10"]), ("checkpoint-run-1", "model", ["latest", "step-20"]),
    ]  # fmt: skip
    assert [(entry.path, entry.size) for one in found for entry in one.manifest.contents] == [
        ("checkpoint_10.pt", len(CONTENT)), ("checkpoint_20.pt", len(CONTENT)),
    ]  # fmt: skip
    assert all(b"canary" not in path.read_bytes() for path in find(tmp_path, "run-1"))
    report = audit.audit(tmp_path, "run-1", Identity.of("nobody-here"))
    assert report.findings == []
    assert report.manifests[0].sent["artifact"] == 2


def test_online_the_file_itself_arrives_and_nothing_says_where_it_lay(tmp_path: Path, server: WandbServer) -> None:  # noqa: F811
    run = Run(tmp_path)
    folder = tmp_path / "canary-folder" / "step_30"
    with Manager(run, "wandb", **QUICK, **ALLOW) as manager:
        save(run, tmp_path / "canary-folder" / "checkpoint_10.pt", 10)
        folder.mkdir()
        save(run, folder / "shard.bin", 20)
        run.emit(wire.Checkpoint(run.now_ns, 0, 30, None, None, "", str(folder)))
        manager.drain()
        until(lambda: len(server.committed) == 3, say=lambda: str(manager.health("wandb")))
        until(lambda: manager.health("wandb").reason == "W&B initialized: demo/d12")
    stored = dict(server.requests)
    assert stored["/storage/checkpoint_10.pt"] == stored["/storage/shard.bin"] == CONTENT
    manifest = json.loads(stored["/storage/wandb_manifest.json"])
    assert list(manifest["contents"]) == ["shard.bin"]
    sent = b"\n".join(path.encode() + body for path, body in server.requests)
    for word in {b"canary", str(tmp_path).encode(), getpass.getuser().encode()} - {b"root"}:
        assert word not in sent


@pytest.mark.usefixtures("short_rests")
def test_a_file_that_a_killed_child_had_not_sent_is_sent_by_the_next_or_by_sync(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    run = Run(tmp_path)
    server.fault = "files_hang"
    with Manager(run, "wandb", **QUICK, **ALLOW) as manager:
        run.steps(0, 1)
        save(run, tmp_path / "checkpoint_1.pt", 1)
        manager.drain()
        until(lambda: server.refused, say=lambda: str(manager.health("wandb")))
        os.kill(manager.manager._runners["run-1", "wandb"]._sink.pid, signal.SIGKILL)
        manager.manager.close(1.0)
    assert [file.name for file in wandb_artifacts.waiting(tmp_path, "run-1")] == ["checkpoint_1.pt"]
    server.fault = None
    assert [binding.sink for binding in late.unsent(run.store)] in ([], ["wandb"])
    assert late.files_waiting(config(tmp_path), "run-1") == 1
    late.deliver_now(config(tmp_path, **QUICK, **ALLOW), run.store, [("run-1", "wandb")], timeout_seconds=30.0)
    assert late.files_waiting(config(tmp_path), "run-1") == 0
    assert len(server.committed) == 1


@pytest.mark.usefixtures("offline")
def test_a_checkpoint_that_is_gone_or_elsewhere_is_said_and_the_next_one_goes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb", **ALLOW) as manager:
        run.emit(wire.Checkpoint(run.now_ns, 0, 1, None, None, "", str(tmp_path / "never.pt")))
        manager.drain()
        until(lambda: "never.pt was not sent: it is gone" in manager.health("wandb").reason)
        run.emit(wire.Checkpoint(run.now_ns, 0, 2, None, None, "", "s3://bucket/there.pt"))
        manager.drain()
        until(lambda: "there.pt was not sent: it is no file of this machine" in manager.health("wandb").reason)
        save(run, tmp_path / "here.pt", 3)
        manager.drain()
        until(lambda: artifacts(tmp_path))
    assert [sorted(one.aliases) for one in artifacts(tmp_path)] == [["latest", "step-3"]]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (None, ""), ("a/b.pt", f"{os.getcwd()}/a/b.pt"), (Path("/x/y"), "/x/y"), ("s3://bucket/x", "s3://bucket/x"),
        ("/" + "x" * 5000, ""),
    ],
)  # fmt: skip
def test_the_trainers_word_for_a_place_becomes_an_absolute_path(given: Any, path: str) -> None:
    assert values.path(given) == path


def test_only_a_sink_that_sends_files_ever_sees_a_path(tmp_path: Path) -> None:
    row = Row("run-1", 0, 0, 1, 0.0, "checkpoint", {"checkpoint/path": "/home/ann/a.pt", "checkpoint/bytes": 5})
    for allow in ([], ["artifacts"], ["artifacts", "text"]):
        gate = Gate("run-1", "otlp", allow)
        assert gate.rows([row])[0].metrics == {"checkpoint/bytes": 5}
        assert gate.manifest().withheld == {"artifact": 1}
    assert Gate("r", "wandb", ["text"], sends_files=True).rows([row])[0].metrics["checkpoint/path"] is None
    assert Gate("r", "wandb", ["artifacts"], sends_files=True).rows([row])[0].metrics == row.metrics
