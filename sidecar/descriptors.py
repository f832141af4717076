"""File descriptors of this process: how many are in use, and whether there are enough for what comes next.

libzmq 4.3.5 ends the whole process (abort) when none is left as an ipc socket accepts a peer (src/ipc_listener.cpp) or
a context starts its threads (src/epoll.cpp). So trainers and the sidecar check here before they let libzmq try.

Never: keeps a descriptor open.
"""

import contextlib
import os
import resource
import sys

NEEDED_BY_A_CONTEXT = 16  # Measured: one socket needs six. The rest is for what other threads open at this moment.

OPEN_HERE = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def raise_limit() -> None:
    """As many descriptors as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """How many this process may have open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def left() -> int:
    """How many more can be opened; 0 when there is not even one to count them with."""
    try:
        return limit() - len(os.listdir(OPEN_HERE))
    except OSError:
        return 0


def are_left(count: int) -> bool:
    """Whether ``count`` more can be opened now."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True
