"""The service around the intake: starting on a full disk, stopping beside trainers that go on, who is alive."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import descriptors, service, wire
from sidecar.config import Config
from sidecar.errors import Exit, UserError
from sidecar.ring import process_started_seconds
from sidecar.service import Service
from sidecar.store import Store
from sidecar.trainers import Trainers


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Service]:
    made = Service(Config(dir=str(tmp_path), endpoint=f"ipc://{tmp_path}/s", port=0, sinks=()))
    yield made
    made._sinks.close(timeout_seconds=5.0)


def test_stopping_ends_beside_trainers_that_send_without_end(made: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "INTAKE_DRAIN_SECONDS_MAX", 0.05)
    monkeypatch.setattr(made._intake, "round", lambda poll_seconds=0.0: True)
    made._drain_intake()


def test_an_intake_that_keeps_failing_rests_between_its_rounds_and_is_logged_once(
    made: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rests: list[float] = []

    def failing() -> bool:
        raise MemoryError

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        if len(rests) == 3:
            made._stop.set()
        return False

    made._connect_parts(f"ipc://{made._config.dir}/s")
    monkeypatch.setattr(made._intake, "round", failing)
    monkeypatch.setattr(made._stop, "wait", rest)
    made._serve_events()
    assert rests == [service.FAULT_SECONDS] * 3
    assert sum("round of the intake" in record.message for record in caplog.records) == 1


def test_a_service_that_starts_on_a_full_disk_announces_itself_when_there_is_space(
    made: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as outage:
        outage.setattr(service, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):  # Caught in the loop that tries again.
            made._announce()
    made._announce()
    assert (tmp_path / "endpoints.json").exists()


def test_a_hardware_reading_has_the_step_of_the_run_whose_journal_it_is_in(
    made: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    journaled: dict[str, int | None] = {}
    monkeypatch.setattr(made._pipeline, "live_run_ids", lambda: ["a", "b", "c"])
    monkeypatch.setattr(made._intake, "submit", lambda run_id, reading: journaled.update({run_id: reading.step}))
    made._journal_hardware(wire.Hardware(1, 1), {"a": 160, "b": 3, "ended": 7})
    assert journaled == {"a": 160, "b": 3, "c": None}


def test_the_pid_in_the_lock_file_is_not_worth_failing_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    store.lock()
    with pytest.raises(UserError, match="another sidecar"):
        Store(tmp_path).lock()
    store.unlock()


def test_an_endpoint_that_cannot_be_there_is_refused_in_words(made: Service) -> None:
    with pytest.raises(UserError, match="No such file") as refused:
        made._lock_endpoint("ipc:///no/such/folder/events")
    assert refused.value.exit_code == Exit.PORT


def test_too_few_descriptors_for_the_intake_are_refused_in_words(
    made: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "NEEDED_BY_A_CONTEXT", 1_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 16, hard))
    try:
        with pytest.raises(UserError, match="too few file descriptors") as refused:
            made._bind_events()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in refused.value.remedy
    assert refused.value.exit_code == Exit.FAILED


def hello(session: int, pid: int, started: float, host: str | None = None) -> wire.Hello:
    return wire.Hello(
        run_id="r", rank=0, session=session, time_ns=1, mono_ns=1, project="p", pid=pid, pid_started=started,
        host=socket.gethostname() if host is None else host,
    )  # fmt: skip


def test_only_processes_that_live_here_count_as_trainers() -> None:
    trainers, here = Trainers(), os.getpid()
    started = process_started_seconds(here)
    trainers.greet(hello(1, here, started + 5.0))  # The pid was used again, or is of another namespace.
    trainers.greet(hello(2, here, started, host="elsewhere"))
    assert trainers.pids() == []
    trainers.greet(hello(3, here, started))
    trainers.greet(hello(4, here, 0.0))
    assert trainers.pids() == [here]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        trainers.greet(hello(5, child.pid, process_started_seconds(child.pid)))
        assert trainers.pids() == sorted([here, child.pid])
    assert trainers.pids() == [here]
    trainers.ended(hello(3, here, started))
    trainers.ended(hello(4, here, 0.0))
    assert trainers.pids() == []
