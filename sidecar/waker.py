"""Ends another thread's wait for a socket, so that it need not look around many times a second.

Given: calls of ``wake`` from any thread. Hands on: a descriptor that is readable until ``clear``.
Never: blocks, or remembers how often it was woken.
"""

import contextlib
import os


class Waker:
    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        return self._reader

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # The pipe is full of earlier calls.
            os.write(self._writer, b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 65_536)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
