"""When readings are taken, and what the rest sees when a collector is in trouble."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pynvml
import pytest

from sidecar import wire
from sidecar.hardware import host as host_module
from sidecar.hardware import sampler as sampler_module
from sidecar.hardware.nvml import Nvml, Reading
from sidecar.hardware.sampler import Sampler, next_due
from sidecar.telemetry import GpuHealth, Telemetry
from tests.fakes.nvml.fake import FakeGpus, uuid

PATIENCE_SECONDS = 30.0


class Readings:
    """Collects what is emitted, as run r gets it; ``wait`` gives the first reading, from ``after`` on, that fits."""

    def __init__(self) -> None:
        self.all: list[wire.Hardware] = []
        self._changed = threading.Condition()

    def __call__(self, reading: wire.Hardware, steps: Mapping[str, int]) -> None:
        with self._changed:
            self.all.append(msgspec.structs.replace(reading, step=steps.get("r")))
            self._changed.notify_all()

    def wait(self, fits: Callable[[wire.Hardware], bool] = lambda _: True, after: int = 0) -> wire.Hardware:
        found: list[wire.Hardware] = []

        def look() -> bool:
            found[:] = [reading for reading in self.all[after:] if fits(reading)]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(look, PATIENCE_SECONDS), "no such reading"
        return found[0]

    def count(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= number, PATIENCE_SECONDS)


@pytest.fixture
def telemetry(tmp_path: Path) -> Telemetry:
    return Telemetry(data_dir=str(tmp_path))


@pytest.fixture
def readings() -> Readings:
    return Readings()


@pytest.fixture
def start(telemetry: Telemetry, readings: Readings) -> Iterator[Callable[..., Sampler]]:
    started: list[Sampler] = []

    def make(emit: Callable[..., None] = readings, period_seconds: float = 0.02, **options: object) -> Sampler:
        sampler = Sampler(telemetry, emit, period_seconds, **options)  # type: ignore[arg-type]
        started.append(sampler)
        sampler.start()
        return sampler

    yield make
    for sampler in started:
        sampler.stop()


class NoGpus(Nvml):
    def read(self, now_seconds: float) -> Reading:
        return Reading(False, "none here")


def test_readings_by_the_clock_carry_host_and_gpus_and_no_step(
    gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings, telemetry: Telemetry
) -> None:
    start()
    readings.count(3)
    reading = readings.all[2]
    assert reading.step is None
    assert reading.host["memory_total_bytes"] > 0
    assert reading.host["disk_free_bytes"] > 0
    assert [gpu["power_watts"] for gpu in reading.gpus][3] == pytest.approx(650.503)
    assert abs(reading.time_ns - time.time_ns()) < 60e9
    for name in ("host", "nvml"):
        health = telemetry.collectors[name]
        assert health.success
        assert health.reason is None
        assert health.duration_seconds > 0
        assert health.last_success_ns is not None


def test_a_reading_survives_the_journal(gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings) -> None:
    start()
    reading = readings.wait()
    assert wire.decode_event(wire.encode_event(reading)) == reading


@pytest.mark.parametrize(("now", "expected"), [
    (9.9, 10.0),  # A snapshot taken before the reading that is due does not move it.
    (10.0, 12.0),
    (10.7, 12.0),  # Lateness does not add up.
    (11.999, 12.0),
    (12.0, 14.0),
    (17.3, 18.0),  # What was missed is left out, and the grid stays.
])
def test_readings_keep_to_a_fixed_grid(now: float, expected: float) -> None:
    assert next_due(10.0, now, 2.0) == expected


def test_a_snapshot_is_taken_for_the_step_asked_for_without_waiting_for_the_clock(
    start: Callable[..., Sampler], readings: Readings
) -> None:
    sampler = start(period_seconds=3600.0, nvml=NoGpus())
    readings.count(1)
    sampler.request_snapshot("r", 10)
    assert readings.wait(lambda reading: reading.step == 10).host["memory_total_bytes"] > 0
    sampler.request_snapshot("r", 20)
    readings.wait(lambda reading: reading.step == 20)
    assert [reading.step for reading in readings.all] == [None, 10, 20]


def test_a_snapshot_rides_on_a_reading_by_the_clock(
    start: Callable[..., Sampler], readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "SNAPSHOT_SECONDS_MAX", 3600.0)
    sampler = start(period_seconds=0.02, nvml=NoGpus())
    readings.count(1)
    sampler.request_snapshot("r", 10)
    sampler.request_snapshot("r", 20)
    readings.wait(lambda reading: reading.step == 20)
    readings.count(len(readings.all) + 2)
    assert [reading.step for reading in readings.all if reading.step is not None] == [20]


def test_one_reading_is_the_snapshot_of_each_run_that_asked_for_its_own_step(start: Callable[..., Sampler]) -> None:
    asked: list[Mapping[str, int]] = []
    entered, leave, done = threading.Event(), threading.Event(), threading.Event()

    def emit(reading: wire.Hardware, steps: Mapping[str, int]) -> None:
        asked.append(steps)
        (done if entered.is_set() else entered).set()
        assert leave.wait(PATIENCE_SECONDS)

    sampler = start(emit, period_seconds=3600.0, nvml=NoGpus())
    assert entered.wait(PATIENCE_SECONDS)
    for run_id, step in (("a", 10), ("b", 200), ("a", 20)):
        sampler.request_snapshot(run_id, step)
    leave.set()
    assert done.wait(PATIENCE_SECONDS)
    assert asked == [{}, {"a": 20, "b": 200}]


def test_a_driver_that_is_not_there_is_not_asked_again_while_its_answer_stands(
    start: Callable[..., Sampler], readings: Readings
) -> None:
    asked: list[float] = []

    class Absent(Nvml):
        def read(self, now_seconds: float) -> Reading:
            asked.append(now_seconds)
            stands = len(asked) == 2
            return Reading(False, f"answer {len(asked)}", stands_until=float("inf") if stands else now_seconds)

    start(nvml=Absent())
    readings.count(6)
    assert len(asked) == 2


def test_requests_that_come_too_fast_become_one_snapshot_of_the_latest_step(
    start: Callable[..., Sampler], readings: Readings
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def emit(reading: wire.Hardware, steps: Mapping[str, int]) -> None:
        readings(reading, steps)
        entered.set()
        assert leave.wait(PATIENCE_SECONDS)

    sampler = start(emit, period_seconds=3600.0, nvml=NoGpus())
    assert entered.wait(PATIENCE_SECONDS)
    for step in range(10, 1000, 10):  # Returns although the sampler's thread is held up.
        sampler.request_snapshot("r", step)
    leave.set()
    readings.wait(lambda reading: reading.step == 990)
    assert [reading.step for reading in readings.all] == [None, 990]


def test_trainers_set_later_are_in_the_next_reading(start: Callable[..., Sampler], readings: Readings) -> None:
    sampler = start(nvml=NoGpus())
    assert "trainer_processes" not in readings.wait().host
    sampler.set_trainers([os.getpid()])
    assert readings.wait(lambda reading: reading.host.get("trainer_processes") == 1).host["trainer_memory_bytes"] > 0


def test_being_told_the_same_trainers_again_searches_for_no_children(
    start: Callable[..., Sampler], readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[int] = []
    monkeypatch.setattr(host_module._Parents, "refresh", lambda _: searches.append(1))
    sampler = start(nvml=NoGpus())
    for _ in range(5):  # As the service does once a second.
        sampler.set_trainers([os.getpid()])
        readings.count(len(readings.all) + 2)
    assert len(searches) == 1
    sampler.set_trainers([os.getpid(), os.getppid()])
    readings.count(len(readings.all) + 2)
    assert len(searches) == 2


def test_a_gpu_lost_mid_run_shows_in_readings_and_health(
    gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings, telemetry: Telemetry
) -> None:
    start()
    readings.wait(lambda reading: len(reading.gpus) == 8)
    gpus.update({"error.5": pynvml.NVML_ERROR_GPU_IS_LOST})
    reading = readings.wait(lambda reading: any(gpu.get("lost") for gpu in reading.gpus))
    assert [gpu["index"] for gpu in reading.gpus if gpu.get("lost")] == [5]
    readings.count(len(readings.all) + 1)
    assert telemetry.collectors["nvml"].reason == "GPU 5 lost: no longer answers the driver"
    assert [name for name, health in telemetry.gpus.items() if health.lost] == [uuid(5)]
    assert telemetry.gpus[uuid(0)] == GpuHealth(False, reading.gpus[0].get("recovery_action"),
                                                reading.gpus[0]["ecc_uncorrected_errors_total"])


def test_a_driver_call_that_hangs_costs_the_gpus_only_and_is_reported(
    gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings, telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler_module, "GPU_DEADLINE_SECONDS", 0.05)
    sampler = start(period_seconds=0.05)
    readings.wait(lambda reading: len(reading.gpus) == 8)
    gpus.update({"hang.nvmlDeviceGetPowerUsage": 1})
    readings.wait(lambda reading: len(reading.gpus) == 8 and "power_watts" not in reading.gpus[0])
    readings.count(len(readings.all) + 2)  # A call that was just slow, not yet hanging, has ended by now.
    before = len(readings.all)
    readings.count(before + 5)
    identity = {"uuid", "index", "name", "pci_bus_id", "driver_version"}
    assert not any(health.lost for health in telemetry.gpus.values()), "nothing is known of them, so nothing changes"
    assert all(gpu.keys() == identity for reading in readings.all[before:] for gpu in reading.gpus)
    assert all(reading.host["memory_total_bytes"] > 0 for reading in readings.all[before:])
    health = telemetry.collectors["nvml"]
    assert not health.success
    assert health.reason is not None
    assert health.reason.startswith("the NVIDIA driver has not answered for ")
    assert telemetry.collectors["host"].success
    sampler.request_snapshot("r", 40)
    readings.wait(lambda reading: reading.step == 40)

    gpus.update({"hang.nvmlDeviceGetPowerUsage": None})
    readings.wait(lambda reading: "power_watts" in reading.gpus[7], after=len(readings.all))
    readings.wait(lambda _: telemetry.collectors["nvml"].success, after=len(readings.all))


def test_stop_leaves_a_hanging_driver_behind(
    gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "GPU_DEADLINE_FIRST_SECONDS", 0.05)
    gpus.update({"hang.nvmlInitWithFlags": 1})
    sampler = start()
    readings.count(2)
    sampler.stop(timeout_seconds=0.1)
    count = len(readings.all)
    gpus.update({"hang.nvmlInitWithFlags": None})
    time.sleep(0.2)
    assert len(readings.all) == count


def test_an_exception_in_the_callback_or_in_a_collector_ends_nothing(
    start: Callable[..., Sampler], readings: Readings, telemetry: Telemetry
) -> None:
    class Broken(Nvml):
        def read(self, now_seconds: float) -> Reading:
            raise RuntimeError("boom")

    def emit(reading: wire.Hardware, steps: Mapping[str, int]) -> None:
        readings(reading, steps)
        raise OSError("journal full")

    start(emit, nvml=Broken())
    readings.count(4)
    assert telemetry.collectors["nvml"].reason == "reading the GPUs failed: boom"
    assert telemetry.collectors["host"].success


def test_a_machine_without_a_gpu_gives_a_reason_and_no_gpu(
    gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings, telemetry: Telemetry
) -> None:
    gpus.path.unlink()
    start()
    readings.count(2)
    assert readings.all[0].gpus == []
    assert telemetry.collectors["nvml"].reason == "the NVIDIA driver is not loaded"
    assert telemetry.collectors["nvml"].last_success_ns is None


def test_a_period_of_zero_is_refused(telemetry: Telemetry) -> None:
    with pytest.raises(ValueError, match="period_seconds"):
        Sampler(telemetry, lambda reading, steps: None, 0.0)


def test_processes_on_gpus_are_marked_with_the_trainer_that_they_belong_to(
    gpus: FakeGpus, start: Callable[..., Sampler], readings: Readings
) -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        pids = (os.getpid(), child.pid, 2**22 + 1)
        gpus.update({f"{index}.processes": f"{pid}:5" for index, pid in enumerate(pids)})
        start().set_trainers([os.getpid()])
        found = readings.wait(lambda reading: any("trainer_pid" in gpu["processes"][0] for gpu in reading.gpus))
        owners = [gpu["processes"][0].get("trainer_pid") for gpu in found.gpus[:3]]
        assert owners == [os.getpid(), os.getpid(), None]
    finally:
        child.kill()
        child.wait()
