"""Threads for what must not run on the event loop: rendering, and reading the store.

Given: functions. Hands on: what they return or raise, to whoever awaits it.
Never: starts a thread after construction. In CPython, starting a thread when memory is short can block the caller for
ever, and here the caller would be the event loop that answers every request.
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


class _Task(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


_Tasks = SimpleQueue[_Task | None]


class Workers:
    """A fixed pool of threads; they end when this object is collected."""

    def __init__(self, count: int = THREADS) -> None:
        self._tasks: _Tasks = SimpleQueue()
        for number in range(count):
            threading.Thread(target=_work, args=(self._tasks,), name=f"web-worker-{number}", daemon=True).start()
        weakref.finalize(self, _stop, self._tasks, count)

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._tasks.put(_Task(loop, future, function, arguments))
        return await future


def _stop(tasks: _Tasks, count: int) -> None:
    for _ in range(count):
        tasks.put(None)


def _work(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        result, error = None, None
        try:
            result = task.function(*task.arguments)
        except BaseException as raised:  # noqa: BLE001 - Task boundary: the error is raised where the result is awaited.
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            task.loop.call_soon_threadsafe(_settle, task.future, result, error)
        del task, result, error


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
