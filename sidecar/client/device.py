"""Scalars that a device is still computing: copied when passed, read when they have arrived, never waited for.

Given: 0-d tensors on any device. Hands on: their values, later, each with the record it belongs to.
Never: calls ``.item()`` or ``synchronize()``, or asks a device anything from another thread (that would break a CUDA
graph being captured). The tensor may be overwritten as soon as the call returns.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from sidecar.client.pending import PendingValue
from sidecar.client.values import Unsupported, count, is_on_device, unsharded

TRANSFERS_MAX = 64  # Records with values outstanding; the sidecar holds as many.


class Transfer(Protocol):
    """A copy of some values to the host that is under way."""

    def ready(self) -> bool:
        """Whether the values have arrived. Never waits."""

    def values(self) -> list[float]:
        """May be called once they are ready."""


class DeviceScalars:
    """Records of one run whose values are outstanding.

    Any thread may call ``arrived``. Asking a transfer releases the interpreter lock, so an entry is taken off the queue
    before it is asked, and put back when it is not ready.
    """

    def __init__(self, copy: Callable[[Sequence[Any]], Transfer] | None = None) -> None:
        self._copy = copy or copy_to_host
        self.outstanding: deque[tuple[int, list[str], Transfer]] = deque()
        """(sequence number of the record, names, transfer), oldest first."""

    def start(
        self, metrics: dict[str, Any], rejected: dict[str, int]
    ) -> tuple[dict[str, Any], list[str], Transfer | None]:
        """Take the device tensors out of ``metrics`` and start copying them.

        Returns the other metrics, the names whose values are to come, and the transfer (None when there are none). What
        cannot be copied is counted in ``rejected``: no scalar, no such device, a graph that is being captured.
        """
        found: dict[str, Any] = {}
        rest = {name: value for name, value in metrics.items() if not is_on_device(value)}
        for name, value in metrics.items():
            if name not in rest:
                try:
                    found[name] = scalar(value)
                except Unsupported as error:
                    count(rejected, error.reason)
        if not found:
            return rest, [], None
        try:
            return rest, list(found), self._begin(list(found.values()))
        except Unsupported as error:
            count(rejected, error.reason)
            return rest, [], None

    def _begin(self, given: list[Any]) -> Transfer:
        tensors = [value for value in given if not isinstance(value, PendingValue)]
        try:
            if len(tensors) == len(given):
                return self._copy(given)
            return _MixedTransfer(given, self._copy(tensors) if tensors else None)
        except Unsupported:
            raise
        except Exception as error:  # noqa: BLE001 - Out of pinned memory, a device that has failed: the others still go.
            raise Unsupported("device_copy_failed") from error

    def expect(self, seq: int, names: list[str], transfer: Transfer) -> int:
        """Remember that record ``seq`` awaits values. Returns how many older records were given up to make room."""
        self.outstanding.append((seq, names, transfer))
        given_up = 0
        while len(self.outstanding) > TRANSFERS_MAX and self._oldest() is not None:
            given_up += 1
        return given_up

    def arrived(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(seq, values) of the records whose values have arrived, oldest first; stops at the first still under way."""
        while (entry := self._oldest()) is not None:
            seq, names, transfer = entry
            try:
                if not transfer.ready():
                    self.outstanding.appendleft(entry)
                    return
                found: dict[str, Any] = dict(zip(names, transfer.values(), strict=True))
            except Exception:  # noqa: BLE001 - A device that has failed: these will never come, the record goes on without.
                found = dict.fromkeys(names)
            except BaseException:  # Ctrl-C while we asked: the next call asks again.
                self.outstanding.appendleft(entry)
                raise
            yield seq, found

    def _oldest(self) -> tuple[int, list[str], Transfer] | None:
        try:
            return self.outstanding.popleft()
        except IndexError:  # Another thread was faster.
            return None


class _MixedTransfer:
    """Tensors that are being copied, and placeholders (pending.py) between them."""

    def __init__(self, given: Sequence[Any], copied: Transfer | None) -> None:
        self._given, self._copied = given, copied

    def ready(self) -> bool:
        later = (value for value in self._given if isinstance(value, PendingValue))
        return (self._copied is None or self._copied.ready()) and all(value.ready() for value in later)

    def values(self) -> list[Any]:
        copied = iter(self._copied.values() if self._copied is not None else ())
        return [value.value() if isinstance(value, PendingValue) else next(copied) for value in self._given]


class _HostCopy:
    """Pinned host memory that a device writes to, and the event recorded after the write."""

    def __init__(self, host: Any, events: list[Any]) -> None:
        self._host, self._events = host, events

    def ready(self) -> bool:
        return all(event.query() for event in self._events)

    def values(self) -> list[float]:
        return self._host.tolist()


def scalar(value: Any) -> Any:
    """``value`` as a tensor with one element. Raises Unsupported for anything else; asks the device nothing."""
    if isinstance(value, PendingValue):
        return value
    try:
        tensor = unsharded(value)
        if tensor.is_meta or tensor.numel() != 1:
            raise Unsupported("meta_tensor" if tensor.is_meta else "not_a_scalar")
    except Unsupported:
        raise
    except Exception as error:  # noqa: BLE001 - Foreign code that says it is on a device.
        raise Unsupported("unsupported_type") from error
    return tensor


def copy_to_host(tensors: Sequence[Any]) -> Transfer:
    """Start one asynchronous copy to pinned memory for each device, on its current stream. Raises Unsupported.

    ``tensors`` are as ``scalar`` hands them out, of any type that can become a double: bfloat16, float8, bool ...
    """
    torch = sys.modules["torch"]
    for tensor in tensors:
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            raise Unsupported("graph_capture")  # The copy would become part of the graph.
    host = torch.empty(len(tensors), dtype=torch.float64, pin_memory=torch.cuda.is_available())
    events = []
    for device in {tensor.device for tensor in tensors}:
        places = [index for index, tensor in enumerate(tensors) if tensor.device == device]
        module = torch.get_device_module(device)
        if not hasattr(module, "Event"):
            raise Unsupported("device_tensor")
        for index in places:
            host[index].copy_(tensors[index].detach().reshape(()), non_blocking=True)
        event = module.Event()
        event.record(module.current_stream(device))
        events.append(event)
    return _HostCopy(host, events)
