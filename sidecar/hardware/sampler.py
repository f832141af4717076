"""When readings are taken: by the clock, and at the steps the pipeline asks for.

Given: the collectors' health to write, a callback, a period, the mounts to watch. Hands on: wire.Hardware events, and
which run's which step each was asked for.
Never: blocks the caller, lets a collector's error out, or lets a driver that hangs stop the host's readings.

Two threads. One reads the host and calls ``emit``; NVML has its own, because a driver in trouble can block a call for
minutes. A reading waits for NVML up to a deadline; then it is emitted without GPUs, and health says why.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sidecar import wire
from sidecar.hardware.gpufields import IDENTITY, Fields
from sidecar.hardware.host import Host, Numbers
from sidecar.hardware.nvml import Nvml, Reading
from sidecar.hardware.owners import Owners
from sidecar.telemetry import CollectorHealth, GpuHealth, Telemetry

log = logging.getLogger(__name__)

SNAPSHOT_SECONDS_MAX = 1.0
"""A snapshot waits so long for a reading by the clock to be taken with it. Of several of one run it is the latest's."""
GPU_DEADLINE_SECONDS = 0.5
GPU_DEADLINE_FIRST_SECONDS = 5.0
"""The first answer may take seconds: without persistence mode the driver only starts with the first call."""


class Sampler:
    """Takes readings until stopped. ``emit`` is called from the sampler's thread, one reading at a time."""

    def __init__(
        self,
        telemetry: Telemetry,
        emit: Callable[[wire.Hardware, Mapping[str, int]], None],
        period_seconds: float = 1.0,
        disks: Sequence[str | Path] = (),
        nvml: Nvml | None = None,
    ) -> None:
        """``emit`` takes a reading and, by run, the steps it was asked for. ``disks``: paths on the file systems to
        watch; the telemetry's data directory when empty."""
        if period_seconds <= 0:
            raise ValueError(f"period_seconds must be above 0, got {period_seconds}")
        self._telemetry = telemetry
        self._emit = emit
        self._period_seconds = period_seconds
        self._host = Host(disks or [telemetry.data_dir or "."])
        self._gpus = GpuReader(nvml or Nvml())
        self._owners = Owners()
        self._wake = threading.Condition()
        self._stopping = False
        self._steps: dict[str, int] = {}
        self._snapshot_due = 0.0
        self._trainers: frozenset[int] = frozenset()
        self._trainers_changed = False
        self._thread = threading.Thread(target=self._run, name="hardware", daemon=True)
        telemetry.collectors["host"] = CollectorHealth(reason="not read yet")
        telemetry.collectors["nvml"] = CollectorHealth(reason="not read yet")

    def start(self) -> None:
        self._gpus.start()
        self._thread.start()

    def request_snapshot(self, run_id: str, step: int) -> None:
        """Take a reading for this step soon. Returns at once; a newer request of the run replaces one still waiting."""
        with self._wake:
            if not self._steps:
                self._snapshot_due = time.monotonic() + SNAPSHOT_SECONDS_MAX
            self._steps[run_id] = step
            self._wake.notify()

    def set_trainers(self, pids: Iterable[int]) -> None:
        """The local training processes to watch from now on. Returns at once.

        A change starts a new search for their children. The service calls this once a second, usually for the same.
        """
        trainers = frozenset(pids)
        with self._wake:
            if trainers != self._trainers:
                self._trainers, self._trainers_changed = trainers, True

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """No reading begins after this. A thread that hangs in the driver is abandoned: it ends with the process."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
            self._gpus.stop(timeout_seconds)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            stopping, steps = self._wait(due)
            if stopping:
                return
            started = time.monotonic()
            due = next_due(due, started, self._period_seconds)
            try:
                self._emit(self._read(), steps)
            except Exception:  # The boundary of this thread: one bad reading must not end all readings.
                log.exception("a hardware reading was lost")

    def _wait(self, due: float) -> tuple[bool, dict[str, int]]:
        """Sleep until a reading is due, by the clock or for a snapshot. Returns (stopping, steps asked for by run)."""
        with self._wake:
            while not self._stopping:
                now = time.monotonic()
                until = min(due, self._snapshot_due) if self._steps else due
                if now >= until:
                    break
                self._wake.wait(until - now)
            steps, self._steps = self._steps, {}
            return self._stopping, steps

    def _read(self) -> wire.Hardware:
        time_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        self._gpus.request()  # NVML works while the host is read.
        host = self._read_host(mono_ns * 1e-9)
        reading = self._read_gpus()
        self._owners.mark(reading.gpus, self._trainers)
        return wire.Hardware(time_ns, mono_ns, None, host, reading.gpus)

    def _read_host(self, now_seconds: float) -> Numbers:
        with self._wake:
            trainers = self._trainers if self._trainers_changed else None
            self._trainers_changed = False
        began = time.perf_counter()
        if trainers is not None:
            self._host.set_trainers(trainers)
        numbers = self._host.read(now_seconds)
        reason = None if numbers else "the system gives no readings"
        self._report("host", bool(numbers), time.perf_counter() - began, reason)
        return numbers

    def _read_gpus(self) -> Reading:
        reading = self._gpus.answer()
        if reading is None:
            waited = self._gpus.busy_seconds()
            reason = f"the NVIDIA driver has not answered for {waited:.1f} s"
            self._report("nvml", False, waited, reason)
            reading = Reading(False, reason, self._gpus.identities)
        else:
            self._report("nvml", reading.available, self._gpus.duration_seconds, reading.reason)
            self._telemetry.gpus = {str(gpu["uuid"]): _health(gpu) for gpu in reading.gpus}
        return reading

    def _report(self, collector: str, success: bool, duration_seconds: float, reason: str | None) -> None:
        last = self._telemetry.collectors[collector].last_success_ns
        self._telemetry.collectors[collector] = CollectorHealth(
            success, duration_seconds, reason, time.time_ns() if success else last
        )


def _health(gpu: Fields) -> GpuHealth:
    return GpuHealth(bool(gpu.get("lost")), gpu.get("recovery_action"), gpu.get("ecc_uncorrected_errors_total"))


def next_due(due: float, now: float, period_seconds: float) -> float:
    """When the next reading by the clock is due: on a fixed grid; missed readings are skipped."""
    if now < due:
        return due
    return due + period_seconds * (1 + (now - due) // period_seconds)


class GpuReader:
    """NVML on a thread of its own, so that a call that hangs blocks nothing else."""

    def __init__(self, nvml: Nvml) -> None:
        self.duration_seconds = 0.0
        """How long the latest complete reading took."""
        self.identities: list[Fields] = []
        """The GPUs that the latest complete reading found: all that is known while the driver hangs."""
        self._nvml = nvml
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._began: float | None = None
        self._reading: Reading | None = None
        self._late = False
        self._answered = False
        self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def request(self) -> None:
        """Begin a reading, unless the previous one is still in progress, or still stands."""
        with self._changed:
            now = time.monotonic()
            self._late = self._began is not None
            stands = self._reading is not None and now < self._reading.stands_until
            if not self._late and not stands:
                self._reading, self._wanted, self._began = None, True, now
                self._changed.notify_all()

    def answer(self) -> Reading | None:
        """The reading just requested; None if the driver does not answer in time (at once if it is late already)."""
        with self._changed:
            deadline_seconds = GPU_DEADLINE_SECONDS if self._answered else GPU_DEADLINE_FIRST_SECONDS
            self._changed.wait_for(lambda: self._began is None, 0.0 if self._late else deadline_seconds)
            return self._reading if self._began is None else None

    def busy_seconds(self) -> float:
        """How long the reading in progress has taken so far."""
        with self._changed:
            return 0.0 if self._began is None else time.monotonic() - self._began

    def stop(self, timeout_seconds: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while self._next():
            began = time.monotonic()
            try:
                reading = self._nvml.read(began)
            except Exception as error:  # The boundary of this thread: readings continue without GPUs.
                log.exception("reading the GPUs failed")
                reading = Reading(False, f"reading the GPUs failed: {error}")
            self.identities = [{key: gpu[key] for key in IDENTITY if key in gpu} for gpu in reading.gpus]
            with self._changed:
                self._reading, self._began, self._answered = reading, None, True
                self.duration_seconds = time.monotonic() - began
                self._changed.notify_all()
        self._nvml.close()

    def _next(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._stopping)
            self._wanted = False
            return not self._stopping
