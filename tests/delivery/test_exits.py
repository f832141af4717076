"""However a training process ends, it ends soon, with its own exit code, and nothing it emitted is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.delivery.conftest import rings_of
from tests.delivery.processes import REPOSITORY, journaled_steps, kill, start, wait_until

EVENTS = 300
ENDS_SECONDS_MAX = 15.0  # The flush limit of 10 s and generous time for a busy machine.

PROGRAM = """
import multiprocessing, os, signal, sys, time
import sidecar

def emit(run):
    for step in range({events}):
        run.step(step, loss=1.0)
    print("emitted", flush=True)

def main():
    run = sidecar.init("exits", run_id="r", endpoint={endpoint!r})
    emit(run)
    {end}

{call}
"""

# (how it ends, its code, its exit status; a negative one is the signal that ended it)
ENDS = {
    "normal_exit_without_finish": ("pass", 0),
    "finish": ("run.finish()", 0),
    "finish_twice": ("run.finish(); run.finish()", 0),
    "calls_after_finish": ("run.finish(); run.step(1); run.log({'x': 1}); run.text('a', 'b')", 0),
    "exception": ("raise ValueError('x')", 1),
    "sys_exit": ("sys.exit(5)", 5),
    "os_exit": ("os._exit(6)", 6),
    "out_of_scope": ("del run", 0),
    "sigterm": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)", -signal.SIGTERM),
    "sigkill": ("os.kill(os.getpid(), signal.SIGKILL); time.sleep(30)", -signal.SIGKILL),
    "keyboard_interrupt": ("raise KeyboardInterrupt", -signal.SIGINT),
    "context_manager": ("run.__exit__(None, None, None)", 0),
    "forked_child_ends_first": (
        "pid = os.fork()\n    if pid == 0:\n        run.step(1)\n        sys.exit(0)\n    os.waitpid(pid, 0)", 0,
    ),
    "forked_child_by_os_exit": (
        "pid = os.fork()\n    if pid == 0:\n        run.finish()\n        os._exit(0)\n    os.waitpid(pid, 0)", 0,
    ),
}  # fmt: skip


Launch = Callable[[str, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def launch() -> Iterator[Launch]:
    programs: list[subprocess.Popen[bytes]] = []

    def start_program(endpoint: str, end: str) -> subprocess.Popen[bytes]:
        code = PROGRAM.format(events=EVENTS, endpoint=endpoint, end=end, call="main()")
        environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
        return programs[-1]

    yield start_program
    for program in programs:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("name", ENDS)
def test_every_way_to_end_with_a_sidecar(launch: Launch, endpoint: str, tmp_path: Path, name: str) -> None:
    end, code = ENDS[name]
    intake = start("intake", endpoint, tmp_path / "data")
    program = launch(endpoint, end)
    assert program.wait(ENDS_SECONDS_MAX) == code
    assert wait_until(lambda: not rings_of(endpoint)), "nothing is left behind"
    kill(intake)
    assert journaled_steps(tmp_path / "data", "r") == list(range(EVENTS))


@pytest.mark.parametrize("name", ["normal_exit_without_finish", "exception", "os_exit", "sigterm", "finish"])
def test_every_way_to_end_without_a_sidecar(launch: Launch, endpoint: str, tmp_path: Path, name: str) -> None:
    end, code = ENDS[name]
    assert launch(endpoint, end).wait(ENDS_SECONDS_MAX) == code
    intake = start("intake", endpoint, tmp_path / "data")
    assert wait_until(lambda: not rings_of(endpoint))
    kill(intake)
    assert journaled_steps(tmp_path / "data", "r") == list(range(EVENTS))


def test_a_second_ctrl_c_ends_a_flush_that_waits_for_a_stopped_sidecar(
    launch: Launch, endpoint: str, tmp_path: Path
) -> None:
    intake = start("intake", endpoint, tmp_path / "data")
    program = launch(endpoint, "time.sleep(1); input()")
    assert program.stdout is not None
    program.stdout.readline()
    time.sleep(1.0)
    intake.send_signal(signal.SIGSTOP)
    for _ in range(2):
        program.send_signal(signal.SIGINT)
        time.sleep(0.3)
    program.wait(ENDS_SECONDS_MAX)
    intake.send_signal(signal.SIGCONT)
    assert wait_until(lambda: not rings_of(endpoint))
    kill(intake)
    assert journaled_steps(tmp_path / "data", "r") == list(range(EVENTS))


def test_a_worker_that_outlives_its_killed_trainer_does_not_keep_the_ring(
    launch: Launch, endpoint: str, tmp_path: Path
) -> None:
    """Forked data loader workers hold the connection and the descriptors open; the record lock is not theirs."""
    end = "pid = os.fork()\n    if pid == 0:\n        time.sleep(20)\n        os._exit(0)\n"
    end += "    print(pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)"
    program = launch(endpoint, end)
    assert program.stdout is not None
    program.stdout.readline()
    worker = int(program.stdout.readline())
    program.wait(ENDS_SECONDS_MAX)
    intake = start("intake", endpoint, tmp_path / "data")
    try:
        assert wait_until(lambda: not rings_of(endpoint))
    finally:
        os.kill(worker, signal.SIGKILL)
        kill(intake)
    assert journaled_steps(tmp_path / "data", "r") == list(range(EVENTS))
