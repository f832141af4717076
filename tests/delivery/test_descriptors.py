"""Neither side may end because a process has used up its file descriptors: libzmq would end it with an abort."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar import descriptors

from .processes import REPOSITORY, journaled_steps, kill, wait_until

LIMIT = 256


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python code in a process of its own that may open LIMIT descriptors; killed at the end."""
    started = []

    def go(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
        )
        started.append(process)
        return process

    yield go
    for process in started:
        with process:  # Closes its pipes.
            kill(process)


INTAKE = """
import sys
from pathlib import Path
from sidecar.intake import Intake
from sidecar.store import Store
from sidecar.telemetry import Telemetry
store, telemetry = Store(Path(sys.argv[2])), Telemetry()
store.prepare()
intake = Intake(store, telemetry, streams_max=64, runs_max=16)
intake.bind(sys.argv[1])
shut = 0
while True:
    intake.round(0.02)
    if telemetry.frames_rejected_total["descriptors_short"] > shut:
        shut += 1
        print("shut", flush=True)
"""

TRAINER = """
import sys, time, sidecar
run = sidecar.init("p", run_id="r", endpoint=sys.argv[1])
for step in range(int(sys.argv[2])):
    run.step(step)
    time.sleep(0.001)
run.finish(timeout_seconds=10)
print("done", flush=True)
"""


def test_a_flood_of_connections_ends_no_intake_and_trainers_come_through_after_it(
    start: Callable[..., subprocess.Popen[str]], endpoint: str, tmp_path: Path
) -> None:
    path = endpoint.removeprefix("ipc://")
    intake = start(INTAKE, endpoint, tmp_path)
    assert wait_until(lambda: Path(path).exists())
    flood = []
    deadline = time.monotonic() + 20
    while Path(path).exists() and time.monotonic() < deadline:  # The socket is gone once nobody more is let in.
        flood.append(socket.socket(socket.AF_UNIX))
        try:
            flood[-1].connect(path)
        except OSError:
            break
        time.sleep(0.002)
    assert intake.stdout is not None
    assert intake.stdout.readline() == "shut\n"
    assert intake.poll() is None
    assert len(flood) < LIMIT
    trainer = start(TRAINER, endpoint, 50)
    for raw in flood:
        raw.close()
    assert trainer.wait(30) == 0
    assert intake.poll() is None
    assert wait_until(lambda: journaled_steps(tmp_path, "r") == list(range(50)))


def test_a_trainer_without_descriptors_goes_on_and_its_events_arrive_once_there_are_some(
    start: Callable[..., subprocess.Popen[str]], endpoint: str, tmp_path: Path
) -> None:
    for spare in (0, 3):  # With two to four left libzmq would end the process in the middle of its start.
        trainer = start(EXHAUSTED_TRAINER, endpoint, spare)
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "stepped\n", spare
        time.sleep(0.3)
        assert trainer.poll() is None
    start(INTAKE, endpoint, tmp_path)
    assert wait_until(lambda: Path(endpoint.removeprefix("ipc://")).exists())
    assert trainer.stdin is not None
    trainer.stdin.write("free them\n")
    trainer.stdin.flush()
    assert trainer.stdout.readline() == "done\n"
    assert wait_until(lambda: journaled_steps(tmp_path, "r") == [0, 1, 2])


EXHAUSTED_TRAINER = """
import os, sys, sidecar
from sidecar.client import pump
taken = []
def exhaust(start=pump.Pump.start):  # As a loader with too many workers does it, after the ring is there.
    def go(self):
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range(int(sys.argv[2])):
                os.close(taken.pop())
        start(self)
    return go
pump.Pump.start = exhaust()
run = sidecar.init("p", run_id="r", endpoint=sys.argv[1])
for step in range(3):
    run.step(step)
print("stepped", flush=True)
sys.stdin.readline()
for descriptor in taken:
    os.close(descriptor)
run.finish(timeout_seconds=10)
print("done", flush=True)
"""


def test_what_is_left_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors.left()
    with open(os.devnull), open(os.devnull):
        assert descriptors.left() == before - 2


def test_a_socket_is_opened_or_refused_however_few_descriptors_are_left(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start(EXHAUSTED)
    assert process.stdout is not None
    answers = process.stdout.read().split()
    assert process.wait(30) == 0
    needed = descriptors.NEEDED_BY_A_CONTEXT
    assert answers == ["refused"] * (needed + 1) + ["opened"] * (len(answers) - needed - 1)  # One for the context.
    assert len(answers) == 24


EXHAUSTED = """
import errno, os, zmq
from sidecar import descriptors
taken = []
for spare in range(24):
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(spare):
            os.close(taken.pop())
    try:
        descriptors.open_socket(zmq.ROUTER).context.destroy(linger=0)
        print("opened", flush=True)
    except OSError as error:
        assert error.errno == errno.EMFILE
        print("refused", flush=True)
"""
