"""Prefetching: the next batches are made in a thread while the current ones are computed.

Given: a loader. Hands on: the same batches in the same order, in pinned memory if they will be copied to a GPU.
Never: counts a batch that it has made but not yet returned: after a resume that one is made again.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from trainer.data.batch import Batch


class Loader(Protocol):
    batches_per_epoch: int

    def next_batch(self) -> Batch: ...
    def rewind(self) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


class Prefetcher:
    def __init__(self, loader: Loader, *, pin: bool, depth: int = 1) -> None:
        """``depth``: batches made ahead, as many as one step takes."""
        self._loader, self._pin, self.batches_per_epoch = loader, pin, loader.batches_per_epoch
        self._worker, self._depth = ThreadPoolExecutor(1, "batches"), depth
        self._state = loader.state()
        self._pending: deque[Future[tuple[Batch, dict[str, Any]]]] = deque()

    def next_batch(self) -> Batch:
        while len(self._pending) <= self._depth:
            self._pending.append(self._worker.submit(self._make))
        batch, self._state = self._pending.popleft().result()
        return batch

    def rewind(self) -> None:
        self._discard()
        self._loader.rewind()
        self._state = self._loader.state()

    def state(self) -> dict[str, Any]:
        return self._state

    def load_state(self, state: dict[str, Any]) -> None:
        self._discard()
        self._loader.load_state(state)
        self._state = state

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._loader.next_batch()
        if self._pin:
            batch = replace(batch, inputs=batch.inputs.pin_memory(), targets=batch.targets.pin_memory())
        return batch, self._loader.state()

    def _discard(self) -> None:
        while self._pending:
            self._pending.popleft().result()
