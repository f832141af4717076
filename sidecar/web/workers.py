"""Threads for what must not run on the event loop: rendering, and reading the store.

Given: functions. Hands on: what they return or raise, to whoever awaits it.
Never: holds more unfinished calls than it was told to, or starts a thread after construction. In CPython, starting a
thread when memory is short can block the caller for ever, and here the caller would be the event loop that answers
every request.
"""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

THREADS = 4
Result = TypeVar("Result")


class _Count:
    """Changed on the event loop only."""

    value = 0


class _Task(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    unfinished: _Count


_Tasks = SimpleQueue[_Task | None]


class Busy(Exception):
    """As many calls as allowed are running or waiting already."""


class Workers:
    """A fixed pool of threads; they end when this object is collected. ``run`` is called from one event loop."""

    def __init__(self, count: int = THREADS, *, unfinished_max: int | None = None) -> None:
        """``unfinished_max``: how many calls may run or wait at a time; None: any number."""
        self._unfinished = _Count()
        self._unfinished_max = unfinished_max
        self._tasks: _Tasks = SimpleQueue()
        for number in range(count):
            threading.Thread(target=_work, args=(self._tasks,), name=f"web-worker-{number}", daemon=True).start()
        weakref.finalize(self, _stop, self._tasks, count)

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Raises Busy, and what the function raises."""
        if self._unfinished_max is not None and self._unfinished.value >= self._unfinished_max:
            raise Busy
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._unfinished.value += 1
        self._tasks.put(_Task(loop, future, function, arguments, self._unfinished))
        return await future

    @property
    def unfinished(self) -> int:
        """Calls that run or wait, those included that nobody awaits any more."""
        return self._unfinished.value


def _stop(tasks: _Tasks, count: int) -> None:
    for _ in range(count):
        tasks.put(None)


def _work(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        result, error = None, None
        try:
            if not task.future.cancelled():  # Somebody still awaits it.
                result = task.function(*task.arguments)
        except BaseException as raised:  # noqa: BLE001 - Task boundary: the error is raised where the result is awaited.
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            task.loop.call_soon_threadsafe(_settle, task, result, error)
        del task, result, error


def _settle(task: _Task, result: Any, error: BaseException | None) -> None:
    task.unfinished.value -= 1
    future = task.future
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
