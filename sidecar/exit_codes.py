"""With what training processes of this host ended, as the kernel says.

Given: Hellos, while their processes live. Hands on: exit codes of those that have ended, since Linux 6.15.
Never: waits, takes another process for a trainer that had the same process id, or guesses: None is an older kernel, a
process in another pid namespace, or one that was gone before its Hello was read.

A process said goodbye before it ended, and inside it the exit code cannot be known. A pidfd outlives the process, and
tells once its parent has been told.
"""

import contextlib
import fcntl
import os
import socket
import struct

from sidecar import wire
from sidecar.trainers import lives

PROCESSES_MAX = 256
"""Descriptors held at once, and exit codes kept; the oldest give way."""
INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info, in its first version: mask, cgroup, eleven ids, exit code.
MASK_EXIT = 1 << 3
GET_INFO = (3 << 30) | (INFO.size << 16) | (0xFF << 8) | 11  # _IOWR(0xFF, 11, struct pidfd_info)


class ExitCodes:
    """For one thread."""

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._pidfds: dict[int, int] = {}
        """By session, as the codes."""
        self._codes: dict[int, int] = {}

    def greet(self, hello: wire.Hello) -> None:
        """A process has introduced itself, perhaps again."""
        if hello.host != self._host or hello.session in self._pidfds or hello.session in self._codes:
            return
        with contextlib.suppress(OSError, OverflowError):
            pidfd = os.pidfd_open(hello.pid)
            if not lives(hello):  # Asked after opening: it is that very process now.
                os.close(pidfd)
                return
            self._pidfds[hello.session] = pidfd
            if len(self._pidfds) > PROCESSES_MAX:
                os.close(self._pidfds.pop(next(iter(self._pidfds))))

    def of(self, hello: wire.Hello) -> int | None:
        """As a shell reports it: 128 + n after signal n. None: it lives, or that is not known."""
        self.look()
        return self._codes.get(hello.session)

    def look(self) -> None:
        """Keep what is known now, and give back the descriptors of those that have ended."""
        for session, pidfd in list(self._pidfds.items()):
            code = _exit_code(pidfd)
            if code is not None:
                self._codes[session] = code
                os.close(self._pidfds.pop(session))
        while len(self._codes) > PROCESSES_MAX:
            del self._codes[next(iter(self._codes))]


def _exit_code(pidfd: int) -> int | None:
    asked = bytearray(INFO.size)
    INFO.pack_into(asked, 0, MASK_EXIT, *(0 for _ in range(13)))
    try:
        fcntl.ioctl(pidfd, GET_INFO, asked)
    except OSError:  # The kernel does not know the question, or has reaped the process and does not know the answer.
        return None
    mask, *_, status = INFO.unpack(asked)
    if not mask & MASK_EXIT:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
