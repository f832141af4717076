"""Local outlets in bad places: only the one that is hit notices, it says why and what to do, and nothing is missing."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from sidecar.sinks import backoff, tensorboard
from sidecar.sinks.base import REMEDIES, Unavailable, reason_of

from .harness import Manager, Run, until
from .test_files import values_of
from .test_tensorboard import load, points

FILES = ("jsonl", "csv", "parquet")
SINKS = (*FILES, "tensorboard")
FOLDERS = {"files": FILES, "tensorboard": ("tensorboard",)}
HIT = pytest.mark.parametrize("folder", FOLDERS)


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.2)


def found(data_dir: Path, sink: str) -> list[tuple[int, float]]:
    return points(load(data_dir), "train/loss") if sink == "tensorboard" else values_of(data_dir, sink)


def assert_all_there(data_dir: Path, steps: int) -> None:
    for sink in SINKS:
        assert found(data_dir, sink) == [(step, pytest.approx(4.0 / (1 + step), rel=1e-6)) for step in range(steps)]


@HIT
def test_a_place_that_cannot_be_written_to_stops_only_its_own_outlets(tmp_path: Path, folder: str) -> None:
    run = Run(tmp_path)
    (tmp_path / folder).write_text("somebody's file")
    hit = FOLDERS[folder]
    with Manager(run, *SINKS) as manager:
        run.steps(0, 9)
        manager.manager.notify("run-1")
        for sink in SINKS:
            if sink in hit:
                until(lambda sink=sink: manager.health(sink).failures_total, 60.0)
                reason = manager.health(sink).reason
                assert str(tmp_path / folder) in reason
                assert reason.endswith("; move the file away that stands where a folder belongs")
            else:
                manager.drain_one(sink)
                assert (manager.health(sink).state, manager.health(sink).failures_total) == ("ok", 0)
        (tmp_path / folder).unlink()
        manager.drain()
        assert {manager.health(sink).state for sink in SINKS} == {"ok"}
    assert_all_there(tmp_path, 10)


@HIT
def test_a_folder_removed_while_the_run_goes_on_is_written_anew_and_others_do_not_notice(
    tmp_path: Path, folder: str
) -> None:
    run = Run(tmp_path)
    with Manager(run, *SINKS) as manager:
        run.steps(0, 4)
        manager.drain()
        shutil.rmtree(tmp_path / folder)
        again = Run(tmp_path, session=8, config={"news": 1})  # Which a sink is told of before it gets rows.
        again.now_ns = run.now_ns
        again.steps(5, 9)
        manager.drain()
        untouched = [manager.health(sink) for sink in SINKS if sink not in FOLDERS[folder]]
        assert [health.failures_total for health in untouched] == [0] * len(untouched)
        manager.manager.close(20.0)
        if folder == "files":  # It had only gathered: it learns of it when it writes, and says what to do.
            assert "`sidecar sync run-1` sends the rest" in manager.health("parquet").reason
    with Manager(run, *SINKS) as manager:
        manager.drain()
    assert_all_there(tmp_path, 10)


def test_parquet_on_a_full_disk_keeps_its_rows_and_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, *SINKS) as manager:
        run.steps(0, 9)
        manager.drain()
        parts = tmp_path / "files/run-1.parquet"
        (parts / "part-000000000000-000000000020.draft").symlink_to("/dev/full")
        manager.manager.close(20.0)
        reason = manager.health("parquet").reason
        assert "No space left on device" in reason
        assert "make room there, rows wait in the journal" in reason
        assert [manager.health(sink).state for sink in SINKS if sink != "parquet"] == ["ok"] * 3
    assert list(parts.iterdir()) == []
    with Manager(run, *SINKS) as manager:
        manager.drain()
    assert_all_there(tmp_path, 10)


def test_a_disk_that_is_full_from_the_start_leaves_no_litter_and_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, config={"lr": 0.1})
    write, full = tensorboard._write_all, [True, True, True]

    def failing(file: object, data: bytes) -> None:
        write(file, data[:10] if full else data)
        if full:
            full.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensorboard, "_write_all", failing)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 9)
        manager.drain()
        assert manager.health("tensorboard").failures_total == 3
    (file,) = (tmp_path / "tensorboard/run-1").glob("*tfevents*")
    assert b"brain.Event:2" in file.read_bytes()[:60]
    assert found(tmp_path, "tensorboard")[-1][0] == 9
    assert "config" in load(tmp_path).Tags()["tensors"]


@pytest.mark.parametrize("code", sorted(REMEDIES))
def test_an_error_of_the_system_is_said_with_its_place_and_a_remedy_in_one_line(code: int) -> None:
    reason = reason_of(OSError(code, os.strerror(code), "/somewhere/\nelse" + "x" * 400))
    assert reason.startswith(f"{os.strerror(code)}: /somewhere/")
    assert reason.endswith(f"; {REMEDIES[code]}")
    assert len(reason) <= 300
    assert "\n" not in reason


def test_other_errors_are_named_by_their_kind() -> None:
    assert reason_of(ValueError("two\nlines")) == "ValueError: two lines"
    assert reason_of(Unavailable("away; wait")) == "away; wait"
    assert reason_of(ConnectionError("no route")) == "ConnectionError: no route"
