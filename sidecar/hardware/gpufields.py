"""What is read of one GPU: one table, from NVML's calls to fields in base units.

Given: the NVML bindings and a device handle. Hands on: a dict of fields per reading.
Never: catches an error (the caller drops the fields of a reading that failed), keeps state, or changes a setting.

NVML's units are converted here and nowhere else: mW -> W, mJ -> J, MHz -> Hz, ns -> s.
"""

from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]
Reader = Callable[[Any, Any], Fields]

IDENTITY = ("uuid", "index", "name", "pci_bus_id", "driver_version", "mig_index", "parent_uuid")
"""Fields that say which GPU it is; all others are readings."""

SENTINELS = frozenset({2**64 - 1, 2**63 - 1, 2**63, 2**32 - 1, 2**31 - 1, 2**31})
"""What drivers return instead of a value they do not have, signed and unsigned."""

PLAUSIBLE: dict[str, tuple[float, float]] = {
    "utilization_percent": (0, 100),
    "memory_utilization_percent": (0, 100),
    "fan_percent": (0, 200),  # Above 100 is allowed by NVML: the noise limit may be exceeded.
    "power_watts": (0, 20_000),
    "power_limit_watts": (0, 20_000),
    "temperature_celsius": (-50, 200),
    "memory_temperature_celsius": (-50, 200),
    "sm_clock_hertz": (0, 20e9),
    "memory_clock_hertz": (0, 50e9),
    "sm_clock_max_hertz": (0, 20e9),
    "energy_joules": (0, 1e13),
    "memory_total_bytes": (1, 2**50),
    "memory_used_bytes": (0, 2**50),
    "memory_free_bytes": (0, 2**50),
    "memory_reserved_bytes": (0, 2**50),
    "pcie_link_generation": (1, 16),
    "pcie_link_width": (1, 64),
    "pcie_transmit_bytes_total": (0, 2**60),
    "pcie_receive_bytes_total": (0, 2**60),
    "pcie_replays_total": (0, 2**40),
    "ecc_corrected_errors_total": (0, 2**48),
    "ecc_uncorrected_errors_total": (0, 2**48),
    "recovery_action": (0, 100),
}
"""Inclusive bounds, in the field's unit. A value outside is a driver's error: it is dropped and counted."""

THROTTLE_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}

# Field ids (nvml.h, NVML_FI_DEV_*). Those of the throttle counters are documented to count nanoseconds.
_MEMORY_TEMPERATURE, _PCIE_REPLAYS, _PCIE_TRANSMIT, _PCIE_RECEIVE, _RECOVERY_ACTION = 82, 94, 197, 198, 230
_PLAIN_FIELDS = {
    _MEMORY_TEMPERATURE: "memory_temperature_celsius",
    _PCIE_REPLAYS: "pcie_replays_total",
    _PCIE_TRANSMIT: "pcie_transmit_bytes_total",
    _PCIE_RECEIVE: "pcie_receive_bytes_total",
    _RECOVERY_ACTION: "recovery_action",
}
_THROTTLE_FIELDS = {
    74: "sw_power_cap",
    76: "sync_boost",
    269: "sw_thermal_slowdown",
    270: "hw_thermal_slowdown",
    271: "hw_power_brake_slowdown",
}
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def _utilization(nvml: Any, device: Any) -> Fields:
    rates = nvml.nvmlDeviceGetUtilizationRates(device)
    return {"utilization_percent": rates.gpu, "memory_utilization_percent": rates.memory}


def memory(nvml: Any, device: Any) -> Fields:
    """Version 2 reports the driver's own reservation separately; version 1, on older drivers, counts it as used."""
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
        reserved = {"memory_reserved_bytes": info.reserved}
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch, nvml.NVMLError_NotSupported):
        info = nvml.nvmlDeviceGetMemoryInfo(device)
        reserved = {}
    return {
        "memory_used_bytes": info.used,
        "memory_free_bytes": info.free,
        "memory_total_bytes": info.total,
        **reserved,
    }


def _power(nvml: Any, device: Any) -> Fields:
    return {"power_watts": unless_sentinel(nvml.nvmlDeviceGetPowerUsage(device), 1e-3)}


def _power_limit(nvml: Any, device: Any) -> Fields:
    return {"power_limit_watts": unless_sentinel(nvml.nvmlDeviceGetEnforcedPowerLimit(device), 1e-3)}


def _energy(nvml: Any, device: Any) -> Fields:
    return {"energy_joules": unless_sentinel(nvml.nvmlDeviceGetTotalEnergyConsumption(device), 1e-3)}


def _temperature(nvml: Any, device: Any) -> Fields:
    return {"temperature_celsius": nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)}


def _sm_clock(nvml: Any, device: Any) -> Fields:
    return {"sm_clock_hertz": unless_sentinel(nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM), 1e6)}


def _memory_clock(nvml: Any, device: Any) -> Fields:
    return {"memory_clock_hertz": unless_sentinel(nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM), 1e6)}


def _sm_clock_max(nvml: Any, device: Any) -> Fields:
    return {"sm_clock_max_hertz": unless_sentinel(nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_SM), 1e6)}


def _throttle_reasons(nvml: Any, device: Any) -> Fields:
    try:
        bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(device)
    except nvml.NVMLError_FunctionNotFound:  # Drivers before 535 know it under its old name.
        bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
    if bits in SENTINELS:
        return {"throttle_reasons": bits}
    return {"throttle_reasons": [name for bit, name in THROTTLE_REASONS.items() if bits & bit]}


def _fan(nvml: Any, device: Any) -> Fields:
    return {"fan_percent": nvml.nvmlDeviceGetFanSpeed(device)}


def _pcie_generation(nvml: Any, device: Any) -> Fields:
    return {"pcie_link_generation": nvml.nvmlDeviceGetCurrPcieLinkGeneration(device)}


def _pcie_width(nvml: Any, device: Any) -> Fields:
    return {"pcie_link_width": nvml.nvmlDeviceGetCurrPcieLinkWidth(device)}


def _ecc_corrected(nvml: Any, device: Any) -> Fields:
    count = nvml.nvmlDeviceGetTotalEccErrors(device, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_VOLATILE_ECC)
    return {"ecc_corrected_errors_total": count}


def _ecc_uncorrected(nvml: Any, device: Any) -> Fields:
    count = nvml.nvmlDeviceGetTotalEccErrors(device, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    return {"ecc_uncorrected_errors_total": count}


def processes(nvml: Any, device: Any) -> Fields:
    """Compute processes; the memory of one is absent where the driver cannot tell (containers, Windows)."""
    try:  # The unversioned call would turn "function not found" into an exception that is not an NVMLError.
        running = nvml.nvmlDeviceGetComputeRunningProcesses_v3(device)
    except nvml.NVMLError_FunctionNotFound:
        running = nvml.nvmlDeviceGetComputeRunningProcesses_v2(device)
    found = []
    for process in running:
        entry = {"pid": process.pid}
        if process.usedGpuMemory is not None and process.usedGpuMemory not in SENTINELS:
            entry["memory_used_bytes"] = process.usedGpuMemory
        found.append(entry)
    return {"processes": found}


def _field_values(nvml: Any, device: Any) -> Fields:
    """One call for what NVML offers by field id. Each value has its own return code: the failed ones are absent.

    PCIe volume comes from here because nvmlDeviceGetPcieThroughput blocks for 20 ms per direction.
    """
    fields: Fields = {}
    throttled: dict[str, float] = {}
    for value in nvml.nvmlDeviceGetFieldValues(device, [*_PLAIN_FIELDS, *_THROTTLE_FIELDS]):
        if value.nvmlReturn != nvml.NVML_SUCCESS or not 0 <= value.valueType < len(_VALUE_MEMBERS):
            continue
        number = getattr(value.value, _VALUE_MEMBERS[value.valueType])
        if value.fieldId in _PLAIN_FIELDS:
            fields[_PLAIN_FIELDS[value.fieldId]] = number
        elif number not in SENTINELS:
            throttled[_THROTTLE_FIELDS[value.fieldId]] = number * 1e-9
    if throttled:
        fields["throttle_seconds"] = throttled
    return fields


READERS: tuple[Reader, ...] = (
    _utilization, memory, _power, _power_limit, _energy, _temperature, _sm_clock, _memory_clock, _sm_clock_max,
    _throttle_reasons, _fan, _pcie_generation, _pcie_width, _ecc_corrected, _ecc_uncorrected, processes,
    _field_values,
)
"""Every reading of a whole GPU. A call that fails costs its own fields only."""

SLICE_READERS: tuple[Reader, ...] = (memory, processes)
"""What NVML answers for a MIG slice; utilisation, power and clocks belong to the whole GPU."""


def unless_sentinel(raw: int, scale: float) -> float | int:
    """``raw`` in base units; a sentinel is returned unchanged, so that ``implausible`` still finds it."""
    return raw if raw in SENTINELS else raw * scale


def implausible(name: str, value: Any) -> bool:
    """Whether ``value`` cannot be a reading of ``name``: a sentinel, not a number, or outside its bounds."""
    if isinstance(value, list | dict | str):
        return False
    if value in SENTINELS or value != value:
        return True
    low, high = PLAUSIBLE.get(name, (float("-inf"), float("inf")))
    return not low <= value <= high
