"""Builds the stand-in for libnvidia-ml.so.1 and writes the state file that it answers from.

Used two ways: ``build(directory)`` and LD_LIBRARY_PATH=directory for a process of its own, where the real bindings
find it by its name; or ``build(directory, soname=None)`` for use inside the test process, where it must not be found
by that name later on.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("nvml.c")
LIBRARY = "libnvidia-ml.so.1"


def build(directory: Path, soname: str | None = LIBRARY) -> Path:
    """Compile into ``directory``. Raises FileNotFoundError without gcc, CalledProcessError if it does not compile."""
    library = directory / LIBRARY
    name = [f"-Wl,-soname,{soname}"] if soname else []
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", *name, "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return library


class FakeGpus:
    """The state file. Every change is written at once and atomically."""

    def __init__(self, path: Path, count: int = 8) -> None:
        self.path = path
        self.values: dict[str, Any] = {"count": count, "driver": "580.95.05"}
        for index in range(count):
            self.values.update(gpu(index))
        self.write()

    def set(self, **values: Any) -> None:
        self.update(values)

    def update(self, values: dict[str, Any]) -> None:
        """``None`` removes a line."""
        self.values.update(values)
        self.values = {key: value for key, value in self.values.items() if value is not None}
        self.write()

    def write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text("".join(f"{key}={value}\n" for key, value in self.values.items()))
        os.replace(fresh, self.path)


def gpu(index: int) -> dict[str, Any]:
    """The state of one healthy GPU; every number differs from GPU to GPU."""
    values = {
        "uuid": uuid(index),
        "name": "NVIDIA H200",
        "bus_id": f"00000000:{0x1B + index:02X}:00.0",
        "utilization": 90 + index,
        "memory_utilization": 40 + index,
        "memory_total": 150_754_820_096,
        "memory_reserved": 600_000_000 + index,
        "memory_free": 50_000_000_000 - index,
        "memory_used": 100_154_820_096,
        "power_mw": 650_500 + index,
        "power_limit_mw": 700_000,
        "energy_mj": 123_456_789_000 + index,
        "temperature": 60 + index,
        "sm_clock_mhz": 1_900 + index,
        "memory_clock_mhz": 3_201,
        "sm_clock_max_mhz": 1_980,
        "throttle": "0x4",
        "fan": 30 + index,
        "pcie_generation": 5,
        "pcie_width": 16,
        "ecc_corrected": index,
        "ecc_uncorrected": 0,
        "processes": f"{1000 + index}:{90_000_000_000 + index}",
        "field82": 70 + index,
        "field94": index,
        "field197": 10**12 + index,
        "field198": 2 * 10**12 + index,
        "field230": 0,
        "field74": 1_500_000_000 + index,
        "field76": 0,
        "field269": 2_000_000_000,
        "field270": 0,
        "field271": 0,
        "mig": 0,
    }
    return {f"{index}.{key}": value for key, value in values.items()}


def uuid(index: int) -> str:
    return f"GPU-5fb3b0d1-0000-4000-8000-{index:012x}"
