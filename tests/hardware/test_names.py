"""Every reading is in the catalogue: no outlet meets a name that it cannot explain."""

import os
import time
from pathlib import Path

import pytest

from sidecar import metrics
from sidecar.hardware.gpufields import IDENTITY
from sidecar.hardware.host import Host
from sidecar.hardware.nvml import Nvml
from sidecar.rows import display
from sidecar.web.samples import RENAMED


def family(prefix: str, field: str) -> str:
    if field.endswith("_percent"):
        return f"{prefix}{field.removesuffix('_percent')}_ratio"
    return prefix + RENAMED.get(field, field)


def host_readings(folder: Path) -> set[str]:
    host = Host([folder])
    host.set_trainers([os.getpid()])
    host.read(0.0)
    time.sleep(0.05)
    return set(host.read(1.0)) | {"memory_limit_bytes", "swap_percent"}


def test_every_host_reading_has_a_catalogue_entry_and_a_prometheus_family(tmp_path: Path) -> None:
    readings = host_readings(tmp_path)
    assert {name for name in readings if metrics.find(display("system/", name, 1)[0]) is None} == set()
    assert {family("training_host_", name) for name in readings} <= metrics.FAMILIES.keys()


@pytest.mark.usefixtures("gpus")
def test_every_gpu_reading_has_a_catalogue_entry_and_a_prometheus_family() -> None:
    [gpu, *_] = Nvml().read(0.0).gpus
    numbers = {name for name, value in gpu.items() if isinstance(value, int | float) and name not in IDENTITY}
    assert len(numbers) >= 18
    assert {name for name in numbers if metrics.find(display("system/gpu_0_", name, 1)[0]) is None} == set()
    assert {family("training_gpu_", name) for name in numbers} <= metrics.FAMILIES.keys()
