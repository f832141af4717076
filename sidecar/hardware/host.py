"""The host and the training processes on it, read through psutil.

Given: the mounts to watch, the trainers' pids, the time. Hands on: one flat dict of numbers in base units.
Never: raises for a process that is gone, a zombie, a refusal or a missing /proc; such a number is absent.

Keys without a suffix are of the whole host, of the first mount, or summed over the trainers. A key with "@" is one of
several: ``disk_free_bytes@/data`` (a further mount), ``trainer_memory_bytes@4711`` (a pid). ``cpu_percent`` is of the
whole machine; that of processes is of one core.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

import psutil

from sidecar.hardware.cgroup import cpu_limit, memory_limit_bytes

Numbers = dict[str, float]

WINDOW_SECONDS_MIN = 0.25
"""CPU use over a shorter time is noise: the previous value is kept."""
CHILDREN_SECONDS = 10.0
"""How often the trainers' children are searched for, which lists all of /proc."""
CHILDREN_READ_SECONDS = 5.0
"""How often they are read: of 64 data loaders each reading takes 5 ms. The sums stand between two readings."""
TOTALS_SECONDS = 5.0
"""How often swap and the counters of disks and network are read: a good third of a reading, for what is looked at over
minutes. They stand between two readings."""
STATIC_SECONDS = 60.0
"""How often affinity and cgroup limits are read again."""

_ERRORS = (psutil.Error, OSError, RuntimeError, ValueError, AttributeError, NotImplementedError, IndexError)


class _Rate:
    """Percent of time busy over the latest window of at least WINDOW_SECONDS_MIN; None until there is one."""

    def __init__(self) -> None:
        self._since: tuple[float, float, float] | None = None
        self._percent: float | None = None

    def percent(self, busy_seconds: float, total_seconds: float, now_seconds: float) -> float | None:
        """``busy_seconds`` of ``total_seconds``, both counted from any fixed moment."""
        if self._since is None:
            self._since = busy_seconds, total_seconds, now_seconds
        busy, total, since = self._since
        if now_seconds - since >= WINDOW_SECONDS_MIN and total_seconds > total:
            self._percent = max(0.0, 100.0 * (busy_seconds - busy) / (total_seconds - total))
            self._since = busy_seconds, total_seconds, now_seconds
        return self._percent


class _Process:
    """One process watched over time."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self._rate = _Rate()

    def read(self, now_seconds: float) -> Numbers:
        """Raises psutil.NoSuchProcess when it has ended or is a zombie. What may not be read is absent."""
        with self.process.oneshot():
            if self.process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.ZombieProcess(self.process.pid)
            times = self.process.cpu_times()
            numbers: Numbers = {"memory_bytes": self.process.memory_info().rss, "threads": self.process.num_threads()}
        percent = self._rate.percent(times.user + times.system, now_seconds, now_seconds)
        if percent is not None:
            numbers["cpu_percent"] = percent
        return numbers | _attempt(lambda: {"open_fds": self.process.num_fds()})


class Host:
    """Reads host and processes. Not thread-safe: one thread calls ``read``."""

    def __init__(self, mounts: Sequence[str | Path] = ()) -> None:
        """``mounts``: paths on the file systems to watch, the data directory's first."""
        self._mounts = [str(mount) for mount in mounts]
        self._trainers: dict[int, _Process] = {}
        self._children: list[_Process] = []
        self._children_at = self._children_read_at = float("-inf")
        self._children_sum: Numbers = {}
        self._parents = _Parents()
        self._own = _Process(os.getpid())
        self._cpu = _Rate()
        self._totals: Numbers = {}
        self._limits: Numbers = {}
        self._totals_at = self._limits_at = float("-inf")

    def set_trainers(self, pids: Iterable[int]) -> None:
        """Watch these processes and no others. Pids that do not exist (here) are ignored."""
        wanted = set(pids)
        watched = {pid: process for pid, process in self._trainers.items() if pid in wanted}
        for pid in wanted - watched.keys():
            try:
                watched[pid] = _Process(pid)
            except _ERRORS:  # Another pid namespace, or gone already.
                continue
        self._trainers = watched
        self._children_at = self._children_read_at = float("-inf")
        if not watched:  # No search until there are some again: by then a pid may be of another process.
            self._parents = _Parents()

    def read(self, now_seconds: float) -> Numbers:
        """``now_seconds``: monotonic time of this reading."""
        numbers: Numbers = {}
        for read in (partial(self._cpu_use, now_seconds), _load, _memory):
            numbers |= _attempt(read)
        numbers |= self._totals_of(now_seconds) | self._limits_of(now_seconds) | self._disks()
        numbers |= _attempt(lambda: {f"sidecar_{name}": value for name, value in self._own.read(now_seconds).items()})
        return numbers | self._processes(now_seconds)

    def _cpu_use(self, now_seconds: float) -> Numbers:
        """Share of the time of all CPUs that was not idle, as psutil.cpu_percent defines it."""
        times = psutil.cpu_times()
        # Linux counts guest time within user time as well.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        idle = times.idle + getattr(times, "iowait", 0.0)
        percent = self._cpu.percent(total - idle, total, now_seconds)
        return {} if percent is None else {"cpu_percent": min(percent, 100.0)}

    def _totals_of(self, now_seconds: float) -> Numbers:
        if now_seconds - self._totals_at >= TOTALS_SECONDS:
            self._totals_at = now_seconds
            self._totals = _attempt(_swap) | _attempt(_disk_io) | _attempt(_network)
        return self._totals

    def _limits_of(self, now_seconds: float) -> Numbers:
        if now_seconds - self._limits_at >= STATIC_SECONDS:
            self._limits_at = now_seconds
            self._limits = _attempt(_cpus) | _attempt(_memory_limit)
        uptime = _attempt(lambda: {"uptime_seconds": _uptime_seconds()})
        return self._limits | uptime

    def _disks(self) -> Numbers:
        numbers: Numbers = {}
        for place, mount in enumerate(self._mounts):
            suffix = "" if place == 0 else f"@{mount}"
            numbers |= {f"{name}{suffix}": value for name, value in _attempt(partial(_disk, mount)).items()}
        return numbers

    def _processes(self, now_seconds: float) -> Numbers:
        """The sum over the trainers, each one if there are several, and the sum over their children."""
        if not self._trainers:
            return {}
        if now_seconds - self._children_at >= CHILDREN_SECONDS:
            self._children_at = now_seconds
            self._children = _descendants(self._trainers, self._children, self._parents)
        if now_seconds - self._children_read_at >= CHILDREN_READ_SECONDS:
            self._children_read_at = now_seconds
            children = [_attempt(partial(child.read, now_seconds)) for child in self._children]
            self._children_sum = _sum("trainer_children", children)
        trainers = {pid: _attempt(partial(process.read, now_seconds)) for pid, process in self._trainers.items()}
        numbers = _sum("trainer", trainers.values()) | self._children_sum
        if len(trainers) > 1:
            for pid, each in trainers.items():
                numbers |= {f"trainer_{name}@{pid}": value for name, value in each.items()}
        return numbers


def _attempt(read: Callable[[], Numbers]) -> Numbers:
    """The numbers, or none when they cannot be read, e.g. because the process has just ended."""
    try:
        return read()
    except _ERRORS:
        return {}


def _sum(prefix: str, processes: Iterable[Numbers]) -> Numbers:
    """Totals over the processes that could be read, and their number."""
    alive = [each for each in processes if each]
    numbers: Numbers = {f"{prefix}_processes": len(alive)}
    for each in alive:
        for name, value in each.items():
            numbers[f"{prefix}_{name}"] = numbers.get(f"{prefix}_{name}", 0.0) + value
    return numbers


class _Parents:
    """pid -> parent's pid of all processes that can be seen, kept from search to search.

    A parent is read when its child is first seen: to list thousands of processes costs 2 ms, to read each of them 100.
    """

    def __init__(self) -> None:
        self.of: dict[int, int] = {}

    def refresh(self) -> None:
        """Drop those that have ended, read those that are new. Without /proc there are none."""
        try:
            present = set(psutil.pids())
        except _ERRORS:
            present = set()
        for pid in self.of.keys() - present:
            del self.of[pid]
        for pid in present - self.of.keys():
            self.read(pid)

    def read(self, pid: int) -> None:
        try:
            self.of[pid] = psutil.Process(pid).ppid()
        except _ERRORS:
            self.of.pop(pid, None)

    def descends(self, pid: int, ancestors: Collection[int]) -> bool:
        seen: set[int] = set()
        while pid in self.of and pid not in seen:
            seen.add(pid)
            pid = self.of[pid]
            if pid in ancestors:
                return True
        return False


def _descendants(trainers: dict[int, _Process], before: list[_Process], parents: _Parents) -> list[_Process]:
    """All descendants of the trainers that are not trainers themselves. Known ones keep their CPU history."""
    parents.refresh()
    known = {child.process.pid: child for child in before}
    likely = [pid for pid in parents.of if pid not in trainers and parents.descends(pid, trainers)]
    for pid in likely:  # It may have been given to another parent since it was first seen.
        parents.read(pid)
    found: list[_Process] = []
    for pid in likely:
        if not parents.descends(pid, trainers):
            continue
        try:
            again = known.get(pid)
            found.append(again if again is not None and again.process.is_running() else _Process(pid))
        except _ERRORS:
            continue
    return found


def _cpus() -> Numbers:
    """``cpu_count``: the machine's logical CPUs. ``cpu_available``: what affinity and cgroup quota leave of them."""
    count = psutil.cpu_count() or os.cpu_count()
    numbers: Numbers = {} if count is None else {"cpu_count": count}
    usable = [float(len(os.sched_getaffinity(0)))] if hasattr(os, "sched_getaffinity") else []
    limit = cpu_limit()
    usable += [limit] if limit is not None else []
    usable += [float(count)] if count is not None else []
    return numbers | ({"cpu_available": min(usable)} if usable else {})


def _memory_limit() -> Numbers:
    limit = memory_limit_bytes()
    return {} if limit is None else {"memory_limit_bytes": limit}


def _load() -> Numbers:
    one, five, fifteen = psutil.getloadavg()
    return {"load_1m": one, "load_5m": five, "load_15m": fifteen}


def _memory() -> Numbers:
    memory = psutil.virtual_memory()
    return {
        "memory_used_bytes": memory.used,
        "memory_available_bytes": memory.available,
        "memory_total_bytes": memory.total,
        "memory_percent": memory.percent,
    }


def _swap() -> Numbers:
    swap = psutil.swap_memory()
    if not swap.total:
        return {"swap_total_bytes": 0.0, "swap_used_bytes": 0.0}
    return {"swap_used_bytes": swap.used, "swap_total_bytes": swap.total, "swap_percent": swap.percent}


def _disk(mount: str) -> Numbers:
    usage = psutil.disk_usage(mount)
    return {
        "disk_used_bytes": usage.used,
        "disk_free_bytes": usage.free,
        "disk_total_bytes": usage.total,
        "disk_percent": usage.percent,
    }


def _disk_io() -> Numbers:
    counters = psutil.disk_io_counters()
    if counters is None:  # A container without block devices.
        return {}
    return {"disk_read_bytes_total": counters.read_bytes, "disk_written_bytes_total": counters.write_bytes}


def _network() -> Numbers:
    counters = psutil.net_io_counters()
    if counters is None:
        return {}
    return {
        "network_received_bytes_total": counters.bytes_recv,
        "network_sent_bytes_total": counters.bytes_sent,
        "network_errors_total": counters.errin + counters.errout,
        "network_dropped_total": counters.dropin + counters.dropout,
    }


def _uptime_seconds() -> float:
    """By CLOCK_BOOTTIME, which counts suspended time and does not follow the wall clock. Raises AttributeError."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
