"""Real processes for the delivery tests: an intake that can be killed, and a trainer that counts what it emitted.

Run as a command: ``python processes.py intake ENDPOINT DIR`` or ``... train ENDPOINT RUN COUNTER EVENTS PAUSE END``.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import witness
from benchmarks.witness import emitted
from sidecar.store import Store

__all__ = ["emitted", "journaled_steps", "kill", "start", "wait_until"]
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def start(
    *arguments: object, env: dict[str, str] | None = None, host: str | None = None
) -> subprocess.Popen[bytes]:
    """``host`` is a network namespace."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})}
    elsewhere = ["ip", "netns", "exec", host] if host else []
    command = [*elsewhere, sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def journaled_steps(directory: Path, run_id: str) -> list[int]:
    """The steps in a run's journal, in its order, read without any of the writer's code."""
    try:
        events = [event for *_, event in witness.events(Store(directory).path(run_id))]
    except sqlite3.OperationalError:  # Not there yet, or just being made.
        return []
    assert witness.DAMAGED not in events
    return [event[3] for event in events if event[0] == "step"]


def wait_until(condition, timeout_seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _intake(endpoint: str, directory: str) -> None:
    from sidecar.intake import Intake
    from sidecar.recovery import Recovery
    from sidecar.telemetry import Telemetry

    store, telemetry = Store(Path(directory)), Telemetry()
    store.prepare()
    store.lock()
    intake = Intake(store, telemetry, streams_max=64, runs_max=16)
    intake.bind(endpoint)
    recovery = Recovery(intake, telemetry, endpoint)
    while True:
        recovery.scan()
        for _ in range(20):
            intake.round(0.05)


def _train(endpoint: str, run_id: str, path: str, events: str, pause: str, end: str) -> None:
    import sidecar

    shared = witness.counter(Path(path))
    run = sidecar.init("delivery", run_id=run_id, endpoint=endpoint)
    first = emitted(Path(path))
    for step in range(first, first + int(events)):
        run.step(step, loss=float(step), tokens=1)
        witness.count(shared, step + 1)
        if float(pause):
            time.sleep(float(pause))
    if end == "finish":
        run.finish()
    elif end == "os_exit":
        os._exit(7)
    elif end == "exception":
        raise RuntimeError("as asked")
    elif end == "sys_exit":
        sys.exit(3)
    elif end == "wait":
        time.sleep(60)


if __name__ == "__main__":
    {"intake": _intake, "train": _train}[sys.argv[1]](*sys.argv[2:])
