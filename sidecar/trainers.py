"""Training processes of this host: whose hardware use is measured, and whether anybody is left.

Given: Hellos. Hands on: process ids of those that live. Never: takes another process for a trainer because it has got
the same process id, later or in another pid namespace.
"""

import socket

from sidecar import wire
from sidecar.ring import process_started_seconds


class Trainers:
    """For one thread."""

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._known: dict[int, wire.Hello] = {}  # By session.

    def greet(self, hello: wire.Hello) -> None:
        if hello.host == self._host and hello.pid:
            self._known[hello.session] = hello

    def ended(self, hello: wire.Hello) -> None:
        """Its ring was free: the process is gone, or waits to be reaped."""
        self._known.pop(hello.session, None)

    def pids(self) -> list[int]:
        """Of those that live now, in order; a process that has several runs is there once."""
        self._known = {session: hello for session, hello in self._known.items() if lives(hello)}
        return sorted({hello.pid for hello in self._known.values()})


def lives(hello: wire.Hello) -> bool:
    """Of a hello of this host: whether the very process that said it is still there."""
    started = process_started_seconds(hello.pid)
    return started > 0 and hello.pid_started in (0.0, started)


def is_alive(pid: int) -> bool:
    return process_started_seconds(pid) > 0
