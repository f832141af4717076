"""Prefetching: the next batches are made in a thread while the current ones are computed.

Given: a loader. Hands on: the same batches in the same order, in pinned memory if they will be copied to a GPU.
Never: counts a batch that it has made but not yet returned: after a resume that one is made again. Or changes its
loader's position: that is restored before.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from trainer.data.batch import Batch, Loader


class Prefetcher:
    def __init__(self, loader: Loader, *, pin: bool, depth: int = 1) -> None:
        """``depth``: batches made ahead, as many as one step takes."""
        self._loader, self._pin = loader, pin
        self._worker, self._depth = ThreadPoolExecutor(1, "batches"), depth
        self._state = loader.state()
        self._pending: deque[Future[tuple[Batch, dict[str, Any]]]] = deque()

    def next_batch(self) -> Batch:
        while len(self._pending) <= self._depth:
            self._pending.append(self._worker.submit(self._make))
        batch, self._state = self._pending.popleft().result()
        return batch

    def state(self) -> dict[str, Any]:
        return self._state

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._loader.next_batch()
        if self._pin:
            batch = replace(batch, inputs=batch.inputs.pin_memory(), targets=batch.targets.pin_memory())
        return batch, self._loader.state()
