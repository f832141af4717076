"""Metrics computed from numbers that a device has not delivered yet.

Given: numbers on their way to the host, and a function of them. Hands on: placeholders for the resulting metrics,
accepted wherever a device scalar is. Never: waits. The function runs on the host, once, when the numbers are here.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol


class PendingNumbers(Protocol):
    """Numbers on their way to the host."""

    @property
    def size(self) -> int: ...

    def ready(self) -> bool: ...

    def values(self) -> Sequence[float]: ...


class PendingMetrics:
    """The metrics that ``finish`` computes from numbers still on their way."""

    def __init__(self, numbers: PendingNumbers, finish: Callable[[Sequence[float]], Mapping[str, Any]]) -> None:
        self._numbers, self._finish = numbers, finish
        self._found: Mapping[str, Any] | None = None

    def ready(self) -> bool:
        return self._numbers.ready()

    def found(self) -> Mapping[str, Any]:
        """Only once they are ready."""
        if self._found is None:
            self._found = self._finish(self._numbers.values())
        return self._found

    def metrics(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """For ``Run.log``: the values if the numbers are here already, else a placeholder for each.

        ``names`` of the placeholders are found by calling ``finish`` with ones where they are not given, so it must
        return the same names for any numbers.
        """
        if self.ready():
            return {name: value for name, value in self.found().items() if value is not None}
        if names is None:
            names = self._finish([1.0] * self._numbers.size).keys()
        return {name: PendingValue(self, name) for name in names}


class PendingValue:
    """Placeholder for one of the metrics."""

    __slots__ = ("_name", "_shared")
    is_cpu = False  # What a tensor on a device answers: the value is not here yet.

    def __init__(self, shared: PendingMetrics, name: str) -> None:
        self._shared, self._name = shared, name

    def ready(self) -> bool:
        return self._shared.ready()

    def value(self) -> Any:
        return self._shared.found().get(self._name)


class ReadyNumbers:
    """Numbers that are on the host already."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = numbers
        self.size = len(numbers)

    def ready(self) -> bool:
        return True

    def values(self) -> Sequence[float]:
        return self._numbers


class _CopiedNumbers:
    def __init__(self, host: Any, event: Any) -> None:
        self._host, self._event = host, event
        self.size = int(host.numel())

    def ready(self) -> bool:
        return bool(self._event.query())

    def values(self) -> Sequence[float]:
        return list(self._host.tolist())


def send(vector: Any) -> PendingNumbers:
    """One asynchronous copy of a 1-d tensor to pinned memory, on its current stream. Nothing to wait for on a CPU."""
    if vector.is_cpu:
        return ReadyNumbers(vector.tolist())
    torch = sys.modules["torch"]
    module = torch.get_device_module(vector.device)
    host = torch.empty(vector.shape, dtype=torch.float64, pin_memory=True)
    host.copy_(vector.detach(), non_blocking=True)
    event = module.Event()
    event.record(module.current_stream(vector.device))
    return _CopiedNumbers(host, event)


class GatheredNumbers:
    """Numbers of several transfers, in their original order."""

    def __init__(self, size: int, parts: Sequence[tuple[Sequence[int], PendingNumbers]]) -> None:
        self.size, self._parts = size, parts

    def ready(self) -> bool:
        return all(numbers.ready() for _, numbers in self._parts)

    def values(self) -> Sequence[float]:
        out = [0.0] * self.size
        for places, numbers in self._parts:
            for place, number in zip(places, numbers.values(), strict=True):
                out[place] = number
        return out
