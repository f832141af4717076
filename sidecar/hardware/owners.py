"""Which training process a process on a GPU belongs to.

Given: readings of GPUs, the process ids of the local trainers. Hands on: ``trainer_pid`` on processes of their trees.
Never: raises, or guesses: a process of another pid namespace, as NVML lists them in a container, stays without.
"""

from collections.abc import Collection, Set

import psutil

from sidecar.hardware.gpufields import Fields


class Owners:
    """Looks for the trainer of a process once, when the process is first listed: each time takes 0.7 ms."""

    def __init__(self) -> None:
        self._trainers: Set[int] = frozenset()
        self._trainer_of: dict[int, int | None] = {}

    def mark(self, gpus: Collection[Fields], trainers: Set[int]) -> None:
        """Adds ``trainer_pid`` to each of ``processes`` that is a trainer or was started, at any remove, by one."""
        if trainers != self._trainers:
            self._trainers, self._trainer_of = trainers, {}
        if not trainers:
            return
        listed = [process for gpu in gpus for process in gpu.get("processes", ())]
        known = self._trainer_of
        self._trainer_of = {  # Of those listed now: a pid that was away may have become another process'.
            pid: known[pid] if pid in known else _trainer_of(pid, trainers) for pid in {each["pid"] for each in listed}
        }
        for process in listed:
            trainer = self._trainer_of[process["pid"]]
            if trainer is not None:
                process["trainer_pid"] = trainer


def _trainer_of(pid: int, trainers: Set[int]) -> int | None:
    if pid in trainers:
        return pid
    try:
        return next((parent.pid for parent in psutil.Process(pid).parents() if parent.pid in trainers), None)
    except (psutil.Error, OSError, ValueError):  # It has ended, or is none that can be seen from here.
        return None
