"""A sidecar that gets no more memory keeps delivering, and answers again: what it cannot hold it can read anew."""

import contextlib
import resource
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks import common, witness
from sidecar.store import Store
from tests.delivery.processes import journaled_steps

STEPS = 600
NAMES = 6_000
PRESSURE_BYTES = 1 << 20
"""What the address space may still grow by: a single thread's stack is eight times that."""

TRAINER = f"""
import sidecar, sys, time
from pathlib import Path

run = sidecar.init("memory", run_id="r", endpoint=sys.argv[1])
run.step(0, loss=1.0)
while not Path(sys.argv[2]).exists():
    time.sleep(0.01)
for step in range(1, {STEPS}):
    run.step(step, loss=1.0)
    if step % 20 == 0:
        run.log({{f"name-{{step}}-{{i}}": float(i) for i in range({NAMES * 20 // STEPS})}}, step=step)
    time.sleep(0.002)
run.finish(timeout_seconds=30)
"""


def _address_space_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmSize")))


@pytest.mark.slow
def test_a_sidecar_that_gets_no_more_memory_loses_nothing_and_answers_when_it_is_over(tmp_path: Path) -> None:
    """Killed for it is another fault. Here allocations fail: a thread that cannot start must not block its starter."""
    with common.folder() as folder:
        sidecar = common.Sidecar(folder)
        try:
            command = [sys.executable, "-c", TRAINER, sidecar.endpoint, str(tmp_path / "go")]
            trainer = subprocess.Popen(command, env=common.environment(), stdin=subprocess.DEVNULL)
            path = Store(folder / "data").path("r")
            assert common.wait_until(lambda: bool(journaled_steps(folder / "data", "r")))
            limit = _address_space_bytes(sidecar.pid) + PRESSURE_BYTES
            resource.prlimit(sidecar.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            (tmp_path / "go").touch()
            assert trainer.wait(60) == 0
            with contextlib.suppress(OSError):  # Whatever it can answer now.
                urllib.request.urlopen(f"{sidecar.http}/status", timeout=3).close()
            if sidecar.process.poll() is not None:  # An allocation of libzmq's own failed: it aborts. As if killed.
                sidecar = common.Sidecar(folder)
            resource.prlimit(sidecar.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert common.wait_until(lambda: sidecar.status("r").get("state") == "finished", 30.0)
            assert sidecar.status("r")["step"] == STEPS - 1
        finally:
            sidecar.stop()
        found = witness.read_journal(path)
        assert list(found.steps.values()) == [list(range(STEPS))]
