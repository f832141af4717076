"""The time a loop waits for its next batch, measured around any iterable.

Given: a DataLoader, a generator, anything to iterate over. Hands on: the same batches; seconds to the phase data_wait.
Never: changes order, length, attributes or exceptions of what it wraps, or reads ahead.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

Waiting = Callable[[], AbstractContextManager[Any]]
OWN = frozenset(("_wrapped", "_waiting"))


class _Proxy:
    """Everything but waiting is the wrapped object's business."""

    __slots__ = ("_waiting", "_wrapped")

    def __init__(self, wrapped: Any, waiting: Waiting) -> None:
        self._wrapped, self._waiting = wrapped, waiting

    def __getattr__(self, name: str) -> Any:
        if name in OWN:  # Not set yet: while being copied.
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._wrapped, name, value)

    def __next__(self) -> Any:
        with self._waiting():
            return next(self._wrapped)

    def __repr__(self) -> str:
        return f"run.data({self._wrapped!r})"


class TimedLoader(_Proxy):
    """Stands where the loader stood. Starting its workers counts as waiting too."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        with self._waiting():
            iterator = iter(self._wrapped)
        return TimedIterator(iterator, self._waiting)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __bool__(self) -> bool:
        return bool(self._wrapped)

    def __getitem__(self, index: Any) -> Any:
        return self._wrapped[index]

    def __contains__(self, item: Any) -> bool:
        return item in self._wrapped


class TimedIterator(_Proxy):
    __slots__ = ()

    def __iter__(self) -> "TimedIterator":
        return self
