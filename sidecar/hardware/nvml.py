"""The GPUs of this machine, read through NVML's Python bindings (``nvidia-ml-py``).

Given: the time. Hands on: one dict per GPU or MIG slice, or the reason why there is none.
Never: raises, writes a setting, or is used from two threads (some drivers crash on parallel calls).

An NVML error only costs the field it belongs to. A GPU that fell off the bus stays in the list as ``lost``, so that
its loss is seen. A missing driver is not an error: it is looked for again every ``retry_seconds``.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec

from sidecar.hardware.gpufields import READERS, SLICE_READERS, Fields, Reader, implausible

NO_LIBRARY = "no NVIDIA driver: libnvidia-ml.so.1 not found"
NO_BINDINGS = "the nvidia-ml-py package is not installed"
NO_DRIVER = "the NVIDIA driver is not loaded"
NO_GPU = "the NVIDIA driver sees no GPU"

# What the bindings may raise beside NVMLError: for undecodable text, or a function that the driver does not have.
_BINDING_ERRORS = (AttributeError, TypeError, ValueError, OverflowError)


class Reading(msgspec.Struct):
    """All GPUs at one moment. ``reason``: why ``available`` is False, or what is wrong with some of them."""

    available: bool
    reason: str | None = None
    gpus: list[Fields] = []
    stands_until: float = float("-inf")
    """Monotonic seconds: before then, no other answer is to be had."""


class _Device(msgspec.Struct):
    handle: Any
    identity: Fields
    """uuid, index, name ...: what does not change."""
    readers: tuple[Reader, ...] = READERS


class Nvml:
    """All GPUs of the machine. Not thread-safe: one thread calls ``read`` and ``close``."""

    def __init__(self, retry_seconds: float = 30.0) -> None:
        """``retry_seconds``: how often to look for a missing driver, a lost GPU or a new MIG layout."""
        self.dropped_total: Counter[str] = Counter()
        """Implausible values dropped, by field."""
        self.errors_total: Counter[str] = Counter()
        """NVML errors, by "reading: error"."""
        self._retry_seconds = retry_seconds
        self._next_scan = float("-inf")
        self._nvml: Any = None
        self._open = False
        self._reason: str | None = None
        self._devices: list[_Device] = []
        self._gone_errors_total = 0
        self._known: dict[str, Fields] = {}
        """Identity by UUID of every whole GPU ever seen, so that a GPU that disappears is reported as lost."""

    def read(self, now_seconds: float) -> Reading:
        """Read every GPU. ``now_seconds``: monotonic time, for the next attempt to find missing ones."""
        if now_seconds >= self._next_scan:
            self._scan(now_seconds)
        if not self._open:
            return Reading(False, self._reason, self._missing([]), self._next_scan)
        gpus = [self._read_device(device) for device in self._devices]
        gpus += self._missing(gpus)
        lost = [str(gpu["index"]) for gpu in gpus if gpu.get("lost")]
        if lost:
            reason = f"GPU {', '.join(lost)} lost: no longer answers the driver"
            return Reading(len(lost) < len(gpus), reason, gpus)
        if not gpus:
            return Reading(False, NO_GPU)
        return Reading(True, self._dropped_reason(), gpus)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._devices = []
            self._attempt("shutdown", lambda: self._nvml.nvmlShutdown() or {})

    def _scan(self, now_seconds: float) -> None:
        """Connect, or reconnect if a GPU is lost (it only comes back under a new handle), and list the GPUs."""
        self._next_scan = now_seconds + self._retry_seconds
        if self._open and self._missing([device.identity for device in self._devices if self._alive(device)]):
            self.close()
        try:
            self._nvml = self._nvml or importlib.import_module("pynvml")
        except ImportError:
            self._reason = NO_BINDINGS
            return
        try:
            if not self._open:
                self._nvml.nvmlInit()
                self._open = True
            self._devices = list(self._enumerate())
        except self._nvml.NVMLError as error:
            self.close()
            self._reason = self._describe(error)

    def _alive(self, device: _Device) -> bool:
        return bool(self._attempt("uuid", lambda: {"uuid": self._nvml.nvmlDeviceGetUUID(device.handle)}))

    def _enumerate(self) -> Iterator[_Device]:
        """Every GPU that this process may see, and the slices of those that are partitioned (MIG)."""
        nvml = self._nvml
        common = self._attempt("driver_version", lambda: {"driver_version": nvml.nvmlSystemGetDriverVersion()})
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as error:  # Lost, or not ours (a container's device limits): the others are fine.
                self.errors_total[f"handle: {error}"] += 1
                continue
            before = next((known for known in self._known.values() if known["index"] == index), {})
            identity: Fields = {"uuid": f"index-{index}"} | before | self._identify(handle) | {"index": index} | common
            if not identity["uuid"].startswith("index-"):
                self._known[identity["uuid"]] = identity
            yield _Device(handle, identity)
            yield from self._slices(handle, identity)

    def _slices(self, handle: Any, parent: Fields) -> Iterator[_Device]:
        nvml = self._nvml
        try:
            if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return
            count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        except (nvml.NVMLError, *_BINDING_ERRORS):  # Not a GPU that can be partitioned.
            return
        for number in range(count):
            try:
                piece = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except nvml.NVMLError:  # No slice has this number.
                continue
            identity = parent | {"mig_index": number, "parent_uuid": parent["uuid"]} | self._identify(piece)
            if identity["uuid"] != parent["uuid"]:
                yield _Device(piece, identity, SLICE_READERS)

    def _identify(self, handle: Any) -> Fields:
        nvml = self._nvml
        return {
            **self._attempt("uuid", lambda: {"uuid": nvml.nvmlDeviceGetUUID(handle)}),
            **self._attempt("name", lambda: {"name": nvml.nvmlDeviceGetName(handle)}),
            **self._attempt("pci_bus_id", lambda: {"pci_bus_id": nvml.nvmlDeviceGetPciInfo(handle).busId}),
        }

    def _read_device(self, device: _Device) -> Fields:
        """Identity and every reading that worked; ``lost`` when none did and the driver reports the GPU as gone."""
        readings: Fields = {}
        gone_before = self._gone_errors_total
        for reader in device.readers:
            readings |= self._attempt(reader.__name__.strip("_"), partial(reader, self._nvml, device.handle))
        if not readings and self._gone_errors_total > gone_before:
            return device.identity | {"lost": True}
        for name in [name for name, value in readings.items() if implausible(name, value)]:
            self.dropped_total[name] += 1
            del readings[name]
        return device.identity | readings

    def _attempt(self, what: str, read: Callable[[], Fields]) -> Fields:
        """The fields, or none if NVML or the bindings refuse: counted, never raised."""
        try:
            return read()
        except self._nvml.NVMLError as error:
            self.errors_total[f"{what}: {error}"] += 1
            if error.value in (
                self._nvml.NVML_ERROR_GPU_IS_LOST,
                self._nvml.NVML_ERROR_UNINITIALIZED,
                self._nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            ):
                self._gone_errors_total += 1
        except _BINDING_ERRORS as error:
            self.errors_total[f"{what}: {type(error).__name__}"] += 1
        return {}

    def _missing(self, seen: list[Fields]) -> list[Fields]:
        uuids = {entry["uuid"] for entry in seen}
        return [identity | {"lost": True} for uuid, identity in self._known.items() if uuid not in uuids]

    def _dropped_reason(self) -> str | None:
        if not self.dropped_total:
            return None
        return f"{self.dropped_total.total()} implausible values dropped ({', '.join(sorted(self.dropped_total))})"

    def _describe(self, error: Any) -> str:
        words = {
            self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND: NO_LIBRARY,
            self._nvml.NVML_ERROR_DRIVER_NOT_LOADED: NO_DRIVER,
            self._nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA library and kernel driver differ in version: reboot",
        }
        return words.get(error.value, f"NVML: {error}")
