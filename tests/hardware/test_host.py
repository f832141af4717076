"""The host and the trainers' processes: real readings, and every race that psutil knows."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sidecar.hardware import host as host_module
from sidecar.hardware.cgroup import cpu_limit, memory_limit_bytes
from sidecar.hardware.host import CHILDREN_READ_SECONDS, CHILDREN_SECONDS, TOTALS_SECONDS, Host, _Parents

OF_THE_HOST = {
    "cpu_percent", "cpu_count", "cpu_available", "load_1m", "load_5m", "load_15m", "memory_used_bytes",
    "memory_available_bytes", "memory_total_bytes", "memory_percent", "swap_used_bytes", "swap_total_bytes",
    "disk_used_bytes", "disk_free_bytes", "disk_total_bytes", "disk_percent", "network_received_bytes_total",
    "network_sent_bytes_total", "uptime_seconds", "sidecar_memory_bytes", "sidecar_cpu_percent", "sidecar_threads",
    "sidecar_open_fds",
}
OF_A_TRAINER = {"trainer_processes", "trainer_memory_bytes", "trainer_threads", "trainer_open_fds"}


@pytest.fixture
def spawn() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts Python processes that print a line when ready; all are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"


def test_every_number_of_the_host_is_there_from_the_second_reading_on(tmp_path: Path) -> None:
    host = Host([tmp_path])
    first = host.read(10.0)
    assert "cpu_percent" not in first, "no use of the CPU can be known from one reading"
    time.sleep(0.05)
    second = host.read(11.0)
    assert second.keys() >= OF_THE_HOST
    assert all(isinstance(value, int | float) for value in second.values())


def test_memory_disk_and_uptime_match_a_direct_reading(tmp_path: Path) -> None:
    numbers = Host([tmp_path]).read(0.0)
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(tmp_path))
    assert numbers["memory_total_bytes"] == memory.total
    assert numbers["memory_available_bytes"] == pytest.approx(memory.available, rel=0.02)
    assert numbers["memory_used_bytes"] == pytest.approx(memory.used, rel=0.02, abs=2**27)
    assert numbers["disk_total_bytes"] == disk.total
    assert numbers["disk_free_bytes"] == pytest.approx(disk.free, rel=0.02)
    assert numbers["disk_percent"] == pytest.approx(disk.percent, abs=1)
    assert numbers["uptime_seconds"] == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
    assert numbers["cpu_count"] == psutil.cpu_count()


def test_cpu_percent_is_the_busy_share_of_all_cpus_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleTimes(user=100.0, idle=900.0, iowait=10.0, guest=50.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    host = Host()
    host.read(0.0)
    times = SimpleTimes(user=101.5, idle=900.25, iowait=10.25, guest=51.0)
    assert host.read(1.0)["cpu_percent"] == pytest.approx(75.0)


class SimpleTimes(tuple):
    """As psutil's named tuple: user includes guest, and iowait is idle time."""

    def __new__(cls, **fields: float) -> "SimpleTimes":
        self = super().__new__(cls, fields.values())
        self.__dict__.update(fields)
        return self


def test_a_reading_right_after_another_keeps_the_cpu_use_of_the_longer_window() -> None:
    host = Host()
    host.read(0.0)
    time.sleep(0.05)
    steady = host.read(1.0)["cpu_percent"]
    assert host.read(1.01)["cpu_percent"] == steady


def test_further_mounts_are_told_apart_by_their_path(tmp_path: Path) -> None:
    numbers = Host([tmp_path, "/"]).read(0.0)
    assert "disk_free_bytes" in numbers
    assert "disk_free_bytes@/" in numbers


def test_a_mount_that_is_gone_drops_only_its_own_numbers(tmp_path: Path) -> None:
    numbers = Host([tmp_path / "gone", tmp_path]).read(0.0)
    assert "disk_free_bytes" not in numbers
    assert f"disk_free_bytes@{tmp_path}" in numbers
    assert "memory_total_bytes" in numbers


def test_trainers_are_read_one_by_one_and_summed(spawn: Callable[[str], subprocess.Popen[str]]) -> None:
    pids = [spawn(SLEEPER).pid, spawn(SLEEPER).pid]
    host = Host()
    host.set_trainers(pids)
    host.read(0.0)
    numbers = host.read(1.0)
    assert numbers.keys() >= OF_A_TRAINER | {"trainer_cpu_percent"}
    assert numbers["trainer_processes"] == 2
    each = [numbers[f"trainer_memory_bytes@{pid}"] for pid in pids]
    assert numbers["trainer_memory_bytes"] == sum(each)
    assert each[0] == pytest.approx(psutil.Process(pids[0]).memory_info().rss, rel=0.05)


def test_children_of_a_trainer_are_found_and_counted(spawn: Callable[[str], subprocess.Popen[str]]) -> None:
    parent = spawn(
        "import os, time\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    host = Host()
    host.set_trainers([parent.pid])
    numbers = host.read(0.0)
    children = psutil.Process(parent.pid).children()
    assert numbers["trainer_children_processes"] == 2 == len(children)
    assert numbers["trainer_children_memory_bytes"] > 0
    for child in children:
        child.kill()
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    kept = {name: value for name, value in numbers.items() if "_children_" in name}
    between = host.read(CHILDREN_READ_SECONDS - 1)
    assert {name: value for name, value in between.items() if "_children_" in name} == kept
    assert host.read(CHILDREN_READ_SECONDS)["trainer_children_processes"] == 0


def test_only_processes_that_are_new_or_of_a_trainer_are_asked_for_their_parent_again(
    monkeypatch: pytest.MonkeyPatch, spawn: Callable[[str], subprocess.Popen[str]]
) -> None:
    asked: list[int] = []
    read = _Parents.read
    monkeypatch.setattr(_Parents, "read", lambda self, pid: asked.append(pid) or read(self, pid))
    other = spawn(SLEEPER).pid
    trainer = spawn("import subprocess, time, sys\n"
                    "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
                    "print('ready', flush=True); time.sleep(600)").pid
    child = psutil.Process(trainer).children()[0].pid
    host = Host()
    host.set_trainers([trainer])
    assert host.read(0.0)["trainer_children_processes"] == 1
    assert {other, trainer, child} <= set(asked)
    asked.clear()
    new = spawn(SLEEPER).pid
    assert host.read(CHILDREN_SECONDS)["trainer_children_processes"] == 1
    assert {new, child} <= set(asked)
    assert not {other, trainer} & set(asked)


def test_a_child_that_was_given_to_another_parent_is_counted_no_more(
    spawn: Callable[[str], subprocess.Popen[str]]
) -> None:
    trainer = spawn("import subprocess, sys, time\n"  # Its child has one itself: it ends when its parent is killed.
                    "inner = 'import os, time; os.fork() or (os.read(0, 1), time.sleep(600)); time.sleep(600)'\n"
                    "subprocess.Popen([sys.executable, '-c', inner], stdin=subprocess.PIPE)\n"
                    "print('ready', flush=True); time.sleep(600)")
    host = Host()
    host.set_trainers([trainer.pid])
    below = psutil.Process(trainer.pid)
    while len(below.children(recursive=True)) < 2:
        time.sleep(0.01)
    first, second = below.children()[0], below.children()[0].children()[0]
    assert host.read(0.0)["trainer_children_processes"] == 2
    first.kill()
    while second.ppid() == first.pid:
        time.sleep(0.01)
    assert host.read(CHILDREN_SECONDS)["trainer_children_processes"] == 0
    second.kill()


def test_a_trainer_that_ends_between_readings_is_counted_no_more(spawn: Callable[[str], subprocess.Popen[str]]) -> None:
    process = spawn(SLEEPER)
    host = Host()
    host.set_trainers([process.pid])
    assert host.read(0.0)["trainer_processes"] == 1
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # A zombie: ended, not yet collected.
    zombie = host.read(1.0)
    assert zombie["trainer_processes"] == 0
    assert "trainer_memory_bytes" not in zombie
    process.wait()
    assert host.read(2.0)["trainer_processes"] == 0


def test_pids_that_do_not_exist_are_ignored() -> None:
    host = Host()
    host.set_trainers([2**22 + 1, -5, 0])
    assert host.read(0.0).get("trainer_processes", 0) <= 1


@pytest.mark.parametrize("error", [
    psutil.NoSuchProcess(1), psutil.ZombieProcess(1), psutil.AccessDenied(1), PermissionError("no"),
    FileNotFoundError("/proc/1/stat"), RuntimeError("races"), ValueError("cut short"), NotImplementedError(),
])
def test_psutil_races_never_escape(
    monkeypatch: pytest.MonkeyPatch, spawn: Callable[[str], subprocess.Popen[str]], error: Exception
) -> None:
    host = Host(["/"])
    host.set_trainers([spawn(SLEEPER).pid])

    def raises(*_: object, **__: object) -> None:
        raise error

    for name in ("virtual_memory", "swap_memory", "cpu_times", "disk_usage", "net_io_counters", "disk_io_counters",
                 "getloadavg", "cpu_count", "pids"):
        monkeypatch.setattr(psutil, name, raises)
    for name in ("cpu_times", "memory_info", "num_fds", "num_threads", "status", "ppid", "children"):
        monkeypatch.setattr(psutil.Process, name, raises)
    numbers = host.read(0.0)
    assert "memory_total_bytes" not in numbers
    assert "disk_free_bytes" not in numbers
    assert numbers["trainer_processes"] == 0
    assert "uptime_seconds" in numbers


def test_a_refused_number_drops_only_itself(
    monkeypatch: pytest.MonkeyPatch, spawn: Callable[[str], subprocess.Popen[str]]
) -> None:
    def refused(_: psutil.Process) -> int:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "num_fds", refused)
    host = Host()
    host.set_trainers([spawn(SLEEPER).pid])
    numbers = host.read(0.0)
    assert "trainer_open_fds" not in numbers
    assert numbers["trainer_memory_bytes"] > 0


def test_a_host_without_disks_or_network_lacks_only_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0, used=0, percent=0))
    numbers = Host().read(0.0)
    assert "disk_read_bytes_total" not in numbers
    assert "network_sent_bytes_total" not in numbers
    assert "swap_percent" not in numbers
    assert numbers["memory_total_bytes"] > 0


def cgroup(root: Path, files: dict[str, str], membership: str) -> Path:
    for name, text in {**{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
                       "proc/self/cgroup": membership}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_cgroup_v2_limits_of_this_group_and_its_parents_count(tmp_path: Path) -> None:
    root = cgroup(tmp_path, {
        "job/cpu.max": "400000 100000\n", "job/step/cpu.max": "max 100000\n", "job/step/memory.max": "1073741824\n",
        "job/memory.max": "max\n",
    }, "0::/job/step\n")
    assert cpu_limit(root) == 4.0
    assert memory_limit_bytes(root) == 2**30


def test_cgroup_v1_limits_are_read(tmp_path: Path) -> None:
    root = cgroup(tmp_path, {
        "cpu/job/cpu.cfs_quota_us": "250000\n", "cpu/job/cpu.cfs_period_us": "100000\n",
        "memory/job/memory.limit_in_bytes": "2147483648\n",
    }, "4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/elsewhere\n")
    assert cpu_limit(root) == 2.5
    assert memory_limit_bytes(root) == 2**31


def test_a_cgroup_v1_quota_without_its_period_is_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(cgroup(tmp_path, {"cpu/job/cpu.cfs_quota_us": "250000\n"}, "3:cpu,cpuacct:/job\n")) is None


def test_no_cgroup_or_no_limit_is_none(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) is None
    assert memory_limit_bytes(tmp_path) is None
    root = cgroup(tmp_path, {
        "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpu.max": "garbage", "memory.max": "max",
        "memory.limit_in_bytes": "9223372036854771712",
    }, "0::/\n")
    assert cpu_limit(root) is None
    assert memory_limit_bytes(root) is None


def test_cpus_available_are_those_of_affinity_and_quota() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this platform has no affinity")
    numbers = Host().read(0.0)
    assert numbers["cpu_available"] <= len(os.sched_getaffinity(0)) <= numbers["cpu_count"]


def test_totals_stand_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    host, read = Host(), 0

    def disk_io() -> dict[str, float]:
        nonlocal read
        read += 1
        return {"disk_read_bytes_total": read}

    monkeypatch.setattr(host_module, "_disk_io", disk_io)
    times = (0.0, 1.0, TOTALS_SECONDS - 0.1, TOTALS_SECONDS, TOTALS_SECONDS + 1.0)
    assert [host.read(at)["disk_read_bytes_total"] for at in times] == [1, 1, 1, 2, 2]
