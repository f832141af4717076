"""Which training process a process on a GPU belongs to.

Given: readings of GPUs, the process ids of the local trainers. Hands on: ``trainer_pid`` on processes of their trees.
Never: raises, or guesses: a process of another pid namespace, as NVML lists them in a container, stays without.
"""

from collections.abc import Iterable, Set

import psutil

from sidecar.hardware.gpufields import Fields


def mark_trainers(gpus: Iterable[Fields], trainers: Set[int]) -> None:
    """Adds ``trainer_pid`` to each of ``processes`` that is a trainer or was started, at any remove, by one."""
    if not trainers:
        return
    for gpu in gpus:
        for process in gpu.get("processes", ()):
            trainer = _trainer_of(process["pid"], trainers)
            if trainer is not None:
                process["trainer_pid"] = trainer


def _trainer_of(pid: int, trainers: Set[int]) -> int | None:
    if pid in trainers:
        return pid
    try:
        return next((parent.pid for parent in psutil.Process(pid).parents() if parent.pid in trainers), None)
    except (psutil.Error, OSError, ValueError):  # It has ended, or is none that can be seen from here.
        return None
