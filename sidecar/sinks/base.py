"""The plug for outlets: what a sink is given and what it must promise."""

from collections.abc import Sequence
from typing import Protocol

from sidecar.rows import Row, RunInfo


class Sink(Protocol):
    """Receives one run's rows, in journal order, at its own pace.

    The runner calls from one thread, never concurrently: ``open``, then ``deliver`` any number of times, ``flush``
    when there is nothing more for now, ``close`` once. Any exception means "not delivered": the runner backs off
    and delivers the same rows again, so delivery must be idempotent for a repeated batch.
    """

    def open(self, run: RunInfo) -> None: ...

    def deliver(self, rows: Sequence[Row]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...
