"""File descriptors of this process: how many are left, and sockets that are opened only where they suffice.

libzmq 4.3.5 ends the whole process (abort) when none is left as an ipc socket accepts a peer (src/ipc_listener.cpp) or
a context starts its threads (src/epoll.cpp). So trainers and the sidecar open their sockets here.

Never: keeps a descriptor open beside those of the socket.
"""

import contextlib
import errno
import os
import resource
import sys

import zmq

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


def open_socket(kind: int) -> "zmq.Socket[bytes]":
    """A socket with a context of its own. Raises OSError (EMFILE) where libzmq would end the process.

    The reserve is held until just before the call that needs six of it. In that call pyzmq keeps the interpreter's
    lock, so no other Python thread takes descriptors meanwhile; ten are for what others open just before it.
    """
    try:
        with contextlib.ExitStack() as reserve:
            for _ in range(NEEDED_BY_A_CONTEXT):
                reserve.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            context = zmq.Context()  # Private: the default instance can hang the interpreter's exit.
        return context.socket(kind)
    except (OSError, zmq.ZMQError) as error:
        raise OSError(errno.EMFILE, "too few file descriptors are left") from error
