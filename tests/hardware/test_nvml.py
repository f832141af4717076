"""NVML through the real bindings, against a library whose answers the test chooses."""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from sidecar.hardware.nvml import NO_BINDINGS, NO_DRIVER, NO_GPU, NO_LIBRARY, Nvml, Reading
from tests.fakes.nvml.fake import FakeGpus, uuid

ALL_FIELDS = {
    "uuid": uuid(3),
    "index": 3,
    "name": "NVIDIA H200",
    "pci_bus_id": "00000000:1E:00.0",
    "driver_version": "580.95.05",
    "utilization_percent": 93,
    "memory_utilization_percent": 43,
    "memory_used_bytes": 100_154_820_096,
    "memory_free_bytes": 49_999_999_997,
    "memory_total_bytes": 150_754_820_096,
    "memory_reserved_bytes": 600_000_003,
    "power_watts": 650.503,
    "power_limit_watts": 700.0,
    "energy_joules": 123_456_789.003,
    "temperature_celsius": 63,
    "memory_temperature_celsius": 73,
    "sm_clock_hertz": 1.903e9,
    "memory_clock_hertz": 3.201e9,
    "sm_clock_max_hertz": 1.980e9,
    "throttle_reasons": ["sw_power_cap"],
    "throttle_seconds": pytest.approx({
        "sw_power_cap": 1.500000003, "sync_boost": 0.0, "sw_thermal_slowdown": 2.0, "hw_thermal_slowdown": 0.0,
        "hw_power_brake_slowdown": 0.0,
    }),
    "fan_percent": 33,
    "pcie_link_generation": 5,
    "pcie_link_width": 16,
    "pcie_replays_total": 3,
    "pcie_transmit_bytes_total": 10**12 + 3,
    "pcie_receive_bytes_total": 2 * 10**12 + 3,
    "ecc_corrected_errors_total": 3,
    "ecc_uncorrected_errors_total": 0,
    "recovery_action": 0,
    "processes": [{"pid": 1003, "memory_used_bytes": 90_000_000_003}],
}

FIELDS_OF_CALL = {
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlDeviceGetName": {"name"},
    "nvmlDeviceGetPciInfo_v3": {"pci_bus_id"},
    "nvmlSystemGetDriverVersion": {"driver_version"},
    "nvmlDeviceGetUtilizationRates": {"utilization_percent", "memory_utilization_percent"},
    "nvmlDeviceGetMemoryInfo_v2": {
        "memory_used_bytes", "memory_free_bytes", "memory_total_bytes", "memory_reserved_bytes",
    },
    "nvmlDeviceGetPowerUsage": {"power_watts"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_watts"},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy_joules"},
    "nvmlDeviceGetTemperature": {"temperature_celsius"},
    "nvmlDeviceGetClockInfo": {"sm_clock_hertz", "memory_clock_hertz"},
    "nvmlDeviceGetMaxClockInfo": {"sm_clock_max_hertz"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"throttle_reasons"},
    "nvmlDeviceGetFanSpeed": {"fan_percent"},
    "nvmlDeviceGetCurrPcieLinkGeneration": {"pcie_link_generation"},
    "nvmlDeviceGetCurrPcieLinkWidth": {"pcie_link_width"},
    "nvmlDeviceGetTotalEccErrors": {"ecc_corrected_errors_total", "ecc_uncorrected_errors_total"},
    "nvmlDeviceGetComputeRunningProcesses_v3": {"processes"},
    "nvmlDeviceGetFieldValues": {
        "memory_temperature_celsius", "pcie_replays_total", "pcie_transmit_bytes_total", "pcie_receive_bytes_total",
        "recovery_action", "throttle_seconds",
    },
    "nvmlDeviceGetMigMode": set(),
}
ERRORS = sorted({
    value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_") and isinstance(value, int)
})
OLDER_CALL_EXISTS = {
    "nvmlDeviceGetMemoryInfo_v2": {3, 13, 25},
    "nvmlDeviceGetCurrentClocksEventReasons": {13},
}


def read(now_seconds: float = 0.0) -> Reading:
    return Nvml().read(now_seconds)


def test_every_field_of_eight_gpus_has_its_exact_value_in_base_units(gpus: FakeGpus) -> None:
    reading = read()
    assert reading.available
    assert reading.reason is None
    assert [gpu["uuid"] for gpu in reading.gpus] == [uuid(index) for index in range(8)]
    assert [gpu["index"] for gpu in reading.gpus] == list(range(8))
    assert [gpu["utilization_percent"] for gpu in reading.gpus] == list(range(90, 98))
    assert {name: pytest.approx(value) if isinstance(value, float) else value for name, value in ALL_FIELDS.items()} \
        == reading.gpus[3]


def test_the_table_of_calls_covers_every_field() -> None:
    assert set().union(*FIELDS_OF_CALL.values()) == ALL_FIELDS.keys() - {"index"}


@pytest.mark.parametrize("call", FIELDS_OF_CALL)
def test_each_error_in_each_call_drops_only_the_fields_of_that_call(gpus: FakeGpus, call: str) -> None:
    for error in ERRORS:
        gpus.update({f"error.{call}": error})
        gpu = read().gpus[3]
        expected = ALL_FIELDS.keys() - FIELDS_OF_CALL[call]
        if error in OLDER_CALL_EXISTS.get(call, ()):
            expected = ALL_FIELDS.keys() - {"memory_reserved_bytes"} if "Memory" in call else ALL_FIELDS.keys()
        assert gpu.keys() - {"uuid"} == expected - {"uuid"}, f"error {error}"
        assert gpu["uuid"] == ("index-3" if call == "nvmlDeviceGetUUID" else uuid(3))


def test_an_error_of_one_gpu_leaves_the_other_gpus_whole(gpus: FakeGpus) -> None:
    gpus.update({"error.3.nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_UNKNOWN})
    assert ["power_watts" in gpu for gpu in read().gpus] == [True, True, True, False, True, True, True, True]


def test_a_function_that_an_old_driver_does_not_have_drops_only_its_field(
    gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(handle: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", missing)
    monkeypatch.delattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit")
    assert read().gpus[3].keys() == ALL_FIELDS.keys() - {"energy_joules", "power_limit_watts"}


def test_one_value_that_fails_in_a_field_call_leaves_the_others(gpus: FakeGpus) -> None:
    gpus.update({"3.field197": None, "3.field74": None})
    gpu = read().gpus[3]
    assert gpu.keys() == ALL_FIELDS.keys() - {"pcie_transmit_bytes_total"}
    assert gpu["throttle_seconds"].keys() == ALL_FIELDS["throttle_seconds"].expected.keys() - {"sw_power_cap"}


def test_a_gpu_lost_mid_run_is_reported_as_lost_and_comes_back(gpus: FakeGpus) -> None:
    nvml = Nvml(retry_seconds=30)
    assert nvml.read(0).reason is None
    gpus.update({"error.2": pynvml.NVML_ERROR_GPU_IS_LOST})
    reading = nvml.read(1)
    assert reading.available
    assert reading.reason == "GPU 2 lost: no longer answers the driver"
    assert len(reading.gpus) == 8
    lost = next(gpu for gpu in reading.gpus if gpu["index"] == 2)
    assert lost["lost"] is True
    assert lost["uuid"] == uuid(2)
    assert "power_watts" not in lost
    assert all("lost" not in gpu for gpu in reading.gpus if gpu["index"] != 2)

    assert nvml.read(31).reason == reading.reason, "still lost after connecting again"
    gpus.update({"error.2": None})
    assert nvml.read(62).reason is None
    assert "power_watts" in nvml.read(63).gpus[2]


def test_a_gpu_that_the_driver_no_longer_lists_is_still_reported_as_lost(gpus: FakeGpus) -> None:
    nvml = Nvml(retry_seconds=30)
    nvml.read(0)
    gpus.set(count=7)
    reading = nvml.read(31)
    assert reading.reason == "GPU 7 lost: no longer answers the driver"
    assert [gpu["index"] for gpu in reading.gpus if gpu.get("lost")] == [7]


def test_a_uuid_that_cannot_be_read_for_a_while_changes_nothing(gpus: FakeGpus) -> None:
    nvml = Nvml(retry_seconds=30)
    before = nvml.read(0)
    gpus.update({"error.3.nvmlDeviceGetUUID": pynvml.NVML_ERROR_UNKNOWN})
    assert nvml.read(31) == before


def test_a_driver_unloaded_mid_run_and_loaded_again_is_followed(gpus: FakeGpus) -> None:
    nvml = Nvml(retry_seconds=30)
    nvml.read(0)
    state = gpus.path.read_text()
    gpus.path.unlink()
    reading = nvml.read(31)
    assert not reading.available
    assert reading.reason == NO_DRIVER
    assert all(gpu["lost"] for gpu in reading.gpus)
    gpus.path.write_text(state)
    assert not nvml.read(32).available, "not before retry_seconds"
    reading = nvml.read(62)
    assert reading.available
    assert reading.reason is None
    assert len(reading.gpus) == 8


def test_a_driver_that_is_not_loaded_is_a_reason_not_an_error(gpus: FakeGpus) -> None:
    gpus.path.unlink()
    assert read() == Reading(False, NO_DRIVER, [], stands_until=30.0)


def test_a_driver_without_a_gpu_is_a_reason(gpus: FakeGpus) -> None:
    gpus.set(count=0)
    assert read() == Reading(False, NO_GPU, [])


def test_missing_bindings_are_a_reason(gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read() == Reading(False, NO_BINDINGS, [], stands_until=30.0)


def test_no_error_of_init_or_count_is_raised(gpus: FakeGpus) -> None:
    for call in ("nvmlInitWithFlags", "nvmlDeviceGetCount_v2"):
        for error in ERRORS:
            gpus.update({f"error.{call}": error})
            reading = read()
            assert not reading.available
            assert reading.reason
        gpus.update({f"error.{call}": None})


def test_absurd_values_are_dropped_and_counted(gpus: FakeGpus) -> None:
    gpus.update({
        "3.utilization": 2**32 - 1,
        "3.power_mw": 2**32 - 1,
        "3.energy_mj": 2**64 - 1,
        "3.temperature": 2**31 - 1,
        "3.memory_used": 2**64 - 1,
        "3.sm_clock_mhz": 2**32 - 1,
        "3.field197": 2**63 - 1,
        "3.field82": 9_200,
        "3.throttle": 2**64 - 1,
        "3.field74": 2**64 - 1,
    })
    nvml = Nvml()
    reading = nvml.read(0)
    dropped = {
        "utilization_percent", "power_watts", "energy_joules", "temperature_celsius", "memory_used_bytes",
        "sm_clock_hertz", "pcie_transmit_bytes_total", "memory_temperature_celsius", "throttle_reasons",
    }
    assert reading.gpus[3].keys() == ALL_FIELDS.keys() - dropped
    assert "sw_power_cap" not in reading.gpus[3]["throttle_seconds"]
    assert nvml.dropped_total == dict.fromkeys(dropped, 1)
    assert reading.available
    assert reading.reason is not None
    assert "9 implausible values dropped" in reading.reason


def test_a_process_whose_memory_the_driver_cannot_tell_is_listed_without_it(gpus: FakeGpus) -> None:
    gpus.update({"3.processes": f"11:{2**64 - 1},12:5000"})
    assert read().gpus[3]["processes"] == [{"pid": 11}, {"pid": 12, "memory_used_bytes": 5000}]


def test_a_gpu_without_processes_has_an_empty_list(gpus: FakeGpus) -> None:
    gpus.update({"3.processes": ""})
    assert read().gpus[3]["processes"] == []


def test_mig_slices_keep_their_memory_fields_beside_the_whole_gpu(gpus: FakeGpus) -> None:
    gpus.update({"1.mig": 2})
    for number in (0, 1):
        gpus.update({f"1.mig{number}.{key}": value for key, value in {
            "uuid": f"MIG-{number}", "name": "NVIDIA H200 MIG 3g.71gb", "memory_total": 70 * 2**30,
            "memory_reserved": 1, "memory_free": 2**30, "memory_used": number + 5, "processes": f"{number + 70}:9",
        }.items()})
    entries = read().gpus
    assert len(entries) == 10
    slices = [gpu for gpu in entries if "mig_index" in gpu]
    assert [piece["uuid"] for piece in slices] == ["MIG-0", "MIG-1"]
    assert [piece["memory_used_bytes"] for piece in slices] == [5, 6]
    assert [piece["memory_total_bytes"] for piece in slices] == [70 * 2**30] * 2
    assert [piece["index"] for piece in slices] == [1, 1]
    assert [piece["parent_uuid"] for piece in slices] == [uuid(1)] * 2
    assert [piece["processes"][0]["pid"] for piece in slices] == [70, 71]
    assert all("utilization_percent" not in piece for piece in slices)
    assert entries[1]["power_watts"] == pytest.approx(650.501)


SCRIPT = "from sidecar.hardware.nvml import Nvml; r = Nvml().read(0.0); print(r.available, len(r.gpus), r.reason)"


def run_alone(**environment: str) -> str:
    """What a process of its own reads: the only place where the library is found, or not, by its name."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | environment, capture_output=True, text=True, check=True,
        timeout=60, cwd=Path(__file__).parents[2],
    )
    return process.stdout.strip()


def test_the_real_bindings_find_the_library_by_its_name(gpus: FakeGpus, nvml_directory: Path) -> None:
    assert run_alone(LD_LIBRARY_PATH=str(nvml_directory)) == "True 8 None"


def test_no_library_is_a_reason_in_words(tmp_path: Path) -> None:
    if ctypes.util.find_library("nvidia-ml"):
        pytest.skip("this machine has an NVIDIA driver")
    assert run_alone(LD_LIBRARY_PATH=str(tmp_path)) == f"False 0 {NO_LIBRARY}"
