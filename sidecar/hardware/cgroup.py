"""The limits that a container or job scheduler sets on this process: CPU quota and memory.

Given: nothing (or a root directory, in tests). Hands on: numbers, or None for "no limit".
Never: writes, or raises for an unknown layout.

Linux kernel, admin-guide/cgroup-v2: ``cpu.max`` holds "QUOTA PERIOD" in microseconds or "max PERIOD";
``memory.max`` holds bytes or "max". Version 1 spells them cpu.cfs_quota_us, cpu.cfs_period_us (-1: none) and
memory.limit_in_bytes (a huge number: none). A limit of any ancestor counts as well.
"""

from collections.abc import Iterator
from pathlib import Path

_NO_LIMIT_BYTES = 2**60  # Version 1 writes 2**63 rounded down to a page.


def cpu_limit(root: str | Path = "/") -> float | None:
    """CPUs' worth of time per second that this process may use."""
    limits = []
    for directory in _directories(Path(root), "cpu"):
        words = _words(directory / "cpu.max", 2) or (
            *_words(directory / "cpu.cfs_quota_us", 1),
            *_words(directory / "cpu.cfs_period_us", 1),
        )
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def memory_limit_bytes(root: str | Path = "/") -> int | None:
    limits = []
    for directory in _directories(Path(root), "memory"):
        words = _words(directory / "memory.max", 1) or _words(directory / "memory.limit_in_bytes", 1)
        if words and words[0].isdecimal() and int(words[0]) < _NO_LIMIT_BYTES:
            limits.append(int(words[0]))
    return min(limits, default=None)


def _directories(root: Path, controller: str) -> Iterator[Path]:
    """This process' cgroup and its ancestors, in the unified hierarchy and in the controller's own."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        below = base / path.lstrip("/")
        while True:
            yield below
            if below in (base, mount) or base not in below.parents:
                break
            below = below.parent


def _words(path: Path, count: int) -> tuple[str, ...]:
    """The file's words if it has at least ``count``, else ()."""
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return ()
    return tuple(words[:count]) if len(words) >= count else ()
