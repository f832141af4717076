"""Whose a process on a GPU is: found once, and looked for again when it may have changed."""

import os
import subprocess

import psutil
import pytest

from sidecar.hardware.gpufields import Fields
from sidecar.hardware.owners import Owners

STRANGER = 2**22 + 1
"""No process has this pid."""


def test_a_process_is_looked_for_once_while_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    parents = psutil.Process.parents
    monkeypatch.setattr(psutil.Process, "parents", lambda self: looked.append(self.pid) or parents(self))
    owners, me = Owners(), os.getpid()
    with subprocess.Popen(["sleep", "600"]) as child:

        def marked(trainers: set[int], *pids: int) -> list[int | None]:
            gpus: list[Fields] = [{"processes": [{"pid": pid}]} for pid in pids] + [{"uuid": "without processes"}]
            owners.mark(gpus, trainers)
            return [gpu["processes"][0].get("trainer_pid") for gpu in gpus[:-1]]

        for _ in range(3):
            assert marked({me}, me, child.pid, STRANGER, child.pid) == [me, me, None, me]
        assert looked == [child.pid]
        assert marked({me, child.pid}, child.pid) == [child.pid], "it is a trainer itself now"
        assert marked({me}, child.pid) == [me]
        assert looked == [child.pid] * 2
        assert marked({me}, me) == [me]
        assert marked({me}, child.pid) == [me]
        assert looked == [child.pid] * 3, "it was away, so it could have been another"
        assert marked(set(), me, child.pid) == [None, None]
        child.kill()
