"""W&B's own folder, its far end and its peculiarities in trouble: only W&B stops, says why, and is made whole again."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fakes.wandb_server import WandbServer

from sidecar import wire
from sidecar.sinks import wandb_log
from sidecar.sinks.base import SinkContext
from sidecar.sinks.wandb import WandbSink

from .harness import Manager, Run, until
from .test_files import values_of
from .test_wandb_offline import history, wandb_cores
from .test_wandb_online import QUICK, global_steps, server, short_rests  # noqa: F401 - fixtures.
from .wandb_file import find, read

QUICKLY = {"wandb_confirm_seconds": 2.0}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("short_rests", "offline")
def test_a_full_disk_under_wandbs_folder_stops_only_wandb_and_is_repaired(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with small_disk(tmp_path / "small") as small:
        with Manager(run, "wandb", "jsonl", wandb_dir=str(small.folder), **QUICKLY) as manager:
            run.steps(0, 4)
            manager.drain()
            with small.full():
                run.steps(5, 9)
                manager.manager.notify("run-1")
                health = manager.health("wandb")
                until(lambda: health.failures_total >= 2 and health.state == "failing", say=lambda: str(health))
                assert health.reason in small.reasons
                manager.drain_one("jsonl")
                assert manager.health("jsonl").state == "ok"
            run.steps(10, 12)
            manager.drain()
            assert health.state == "offline"
        assert values_of(tmp_path, "jsonl") == [(step, 4.0 / (1 + step)) for step in range(13)]
        rows = [row for path in find(small.folder, "run-1") for row in read(path).history]
    assert [(row["train/global_step"], row["train/loss"]) for row in rows] == values_of(tmp_path, "jsonl")


class SmallDisk:
    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder = folder
        self._mounted = mounted
        self.reasons = [f"no space left for W&B's files in {folder}: free some, rows wait in the journal"]
        if not mounted:  # A limit on the size of files is all that is left; wandb-core dies of it.
            self.reasons = ["wandb does not write what it is given (its process is dead); starting it anew"]

    @contextmanager
    def full(self) -> Iterator[None]:
        if not self._mounted:
            for core in wandb_cores(psutil.Process()):
                core.kill()
            yield
            return
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        yield
        filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A tmpfs of 3 MB at ``folder`` where we may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield SmallDisk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.usefixtures("short_rests", "offline")
@pytest.mark.parametrize("sessions", [1, 2])
def test_a_folder_of_wandb_that_is_removed_mid_run_is_written_anew_whole(tmp_path: Path, sessions: int) -> None:
    run = Run(tmp_path)
    if sessions == 2:
        run.steps(0, 2)
        with Manager(run, "wandb") as manager:
            manager.drain()
    with Manager(run, "wandb", "jsonl") as manager:
        run.steps(3, 4)
        manager.drain()
        shutil.rmtree(tmp_path / "wandb")
        run.steps(5, 9)
        manager.drain()
        until(lambda: manager.health("wandb").restarts_total == 1, say=lambda: str(manager.health("wandb")))
        assert manager.health("jsonl").failures_total == 0
        manager.drain()
    first = 0 if sessions == 2 else 3
    assert [row["train/global_step"] for row in history(tmp_path)] == list(range(first, 10))


@pytest.fixture
def offline_run(tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    """Five steps written while offline; the server is there now, and has nothing of them."""
    run = Run(tmp_path)
    with monkeypatch.context() as away:
        away.setenv("WANDB_MODE", "offline")
        with Manager(run, "wandb") as manager:
            run.steps(0, 4)
            manager.drain()
    return run


def wandb_sync(tmp_path: Path, *words: str) -> str:
    """What the command said."""
    command = [sys.executable, "-m", "wandb", "sync", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True, timeout=60)
    return done.stderr + done.stdout


def test_what_was_written_offline_and_then_sent_is_not_sent_again_by_wandb_sync(
    tmp_path: Path, server: WandbServer, offline_run: Run  # noqa: F811
) -> None:
    assert wandb_log.unsent(tmp_path, "run-1") == find(tmp_path, "run-1")
    with Manager(offline_run, "wandb", **QUICK) as manager:
        offline_run.steps(5, 9)
        manager.drain()
    folders = [str(path.parent) for path in find(tmp_path, "run-1")]
    assert len(folders) == 2
    assert "Skipped 2 synced run(s)" in wandb_sync(tmp_path, "--include-online", *folders)
    assert global_steps(server) == list(range(10))


def test_rows_sent_by_wandb_sync_first_are_not_sent_again_by_the_sidecar(
    tmp_path: Path, server: WandbServer, offline_run: Run  # noqa: F811
) -> None:
    (path,) = find(tmp_path, "run-1")
    wandb_sync(tmp_path, str(path.parent))
    assert global_steps(server) == list(range(5))
    offline_run.steps(5, 9)
    with Manager(offline_run, "wandb", **QUICK) as manager:
        manager.drain()
    assert global_steps(server) == list(range(10))


@pytest.mark.usefixtures("offline")
def test_an_alert_is_not_repeated_by_the_child_that_follows_a_dead_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb", allow=("alerts",)) as manager:
        run.steps(0, 1, **{"train/loss": float("nan")})
        manager.drain()
        child = manager.manager._runners["run-1", "wandb"]._sink
        until(lambda: child._alerts_sent)
        os.kill(child.pid, signal.SIGKILL)
        run.steps(2, 3)
        manager.drain()
        until(lambda: manager.health("wandb").restarts_total == 1)
    records = [record for path in find(tmp_path, "run-1") for record in read(path).records]
    alerts = [record.alert.title for record in records if record.WhichOneof("record_type") == "alert"]
    assert alerts == ["loss_nonfinite"]


@pytest.mark.usefixtures("offline")
def test_names_that_wandb_refuses_are_said_and_cost_nobody_anything_else(tmp_path: Path) -> None:
    odd = [" ", "a\nb", "nul\x00x", "smile/😀", "*", "a.b[0]", "x;y", "a/b/", "/x y"]
    refused = ["", "_private", "__proto__"]
    run = Run(tmp_path)
    with Manager(run, "wandb", "jsonl") as manager:
        for step, name in enumerate([*odd, *refused]):
            run.emit(wire.Log(run.now_ns, 0, step, {name: 1.0, "beside": 2.0}))
        manager.drain()
        health = manager.health("wandb")
        assert (health.state, health.failures_total, health.dead_letters_total) == ("offline", 0, 0)
        assert "'', '__proto__', '_private'" in health.reason
        assert "rename" in health.reason
        assert manager.health("jsonl").reason is None
    rows = history(tmp_path)
    assert {name for row in rows for name in row} >= {*odd} - {"/x y"}  # That one looks like a path.
    assert [row["beside"] for row in rows] == [2.0] * 12


@pytest.mark.parametrize(("first", "sent"), [(None, True), (0, True), (5, False)])
def test_a_log_that_alone_has_what_the_journal_lost_is_left_for_wandb_sync(
    tmp_path: Path, first: int | None, sent: bool
) -> None:
    path = tmp_path / "wandb" / "offline-run-1-run-1" / "run-run-1.wandb"
    path.parent.mkdir(parents=True)
    path.touch()
    sink = WandbSink(SinkContext(sink="wandb", data_dir=str(tmp_path)))
    sink._run, sink._first = SimpleNamespace(starting_step=0), first  # The server has nothing; row 5 comes first.
    sink._note_sent(wandb_log.logs(tmp_path, "run-1"))
    assert wandb_log.is_sent(path) is sent
    assert (wandb_log.unsent(tmp_path, "run-1") == []) is sent
