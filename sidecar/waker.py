"""Ends another thread's wait, so that it need not look around many times a second.

Given: calls of ``wake`` from any thread, or signals. Hands on: a descriptor that is readable until ``clear``.
Never: blocks, or remembers how often it was woken.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator


class Waker:
    def __init__(self) -> None:
        """Raises OSError where no descriptors are left."""
        self._reader = self._writer = -1
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        return self._reader

    def wake(self) -> None:
        """Also within a signal handler: it takes no lock."""
        with contextlib.suppress(BlockingIOError):  # The pipe is full of earlier calls.
            os.write(self._writer, b"\0")

    @contextlib.contextmanager
    def woken_by_signals(self) -> Iterator[None]:
        """Within this, signals that have a handler wake, whichever thread gets them. For the main thread."""
        previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)

    def wait(self) -> None:
        """Until it is woken. Handlers of signals have run then."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.poll()
        self.clear()

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 65_536)

    def close(self) -> None:
        """Only once nobody wakes any more: somebody else may have got the same descriptor. Without this call it is
        closed when nobody holds it any more."""
        reader, writer, self._reader, self._writer = self._reader, self._writer, -1, -1
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        self.close()
