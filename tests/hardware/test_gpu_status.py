"""What /status says of GPUs: from a reading to the published object."""

import pytest

from sidecar.snapshot import GpuState, RunSnapshot
from sidecar.telemetry import CollectorHealth, Telemetry
from sidecar.web.status import compose

NO_DRIVER = "no NVIDIA driver: libnvidia-ml.so.1 not found"


def telemetry(success: bool, reason: str | None) -> Telemetry:
    return Telemetry(collectors={"nvml": CollectorHealth(success, 0.0, reason)})


@pytest.mark.parametrize("snapshot", [None, RunSnapshot("r", state="running"), RunSnapshot("r", state="stalled")])
def test_a_machine_without_a_gpu_shows_the_collectors_reason(snapshot: RunSnapshot | None) -> None:
    assert compose(snapshot, telemetry(False, NO_DRIVER), [], now_ns=1).gpu == GpuState(False, NO_DRIVER)


def test_a_lost_gpu_shows_beside_those_that_work() -> None:
    reason = "GPU 2 lost: no longer answers the driver"
    assert compose(RunSnapshot("r", state="running"), telemetry(True, reason), [], now_ns=1).gpu \
        == GpuState(True, reason)


def test_a_run_that_has_ended_keeps_what_its_own_readings_said() -> None:
    ended = RunSnapshot("r", state="finished", gpu=GpuState(True, None))
    assert compose(ended, telemetry(False, NO_DRIVER), [], now_ns=1).gpu == GpuState(True, None)
