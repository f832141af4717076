"""When CPUs are busy, training goes first."""

import os
from pathlib import Path

import pytest
from cli_helpers import Command, wait_until_ready


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="priorities of threads are read from /proc")
@pytest.mark.parametrize(("environ", "added"), [({}, 10), ({"SIDECAR_NICE": "0"}, 0)], ids=["default", "chosen"])
def test_every_thread_of_the_sidecar_stands_back(
    sidecar: Command, tmp_path: Path, environ: dict[str, str], added: int
) -> None:
    pid = sidecar("serve", **environ).pid
    assert wait_until_ready(tmp_path / "data")["pid"] == pid
    expected = min(19, os.getpriority(os.PRIO_PROCESS, 0) + added)
    threads = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    assert len(threads) > 5
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {expected}
