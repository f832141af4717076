"""The next batch is made while the last one is computed with.

Given: a loader. Hands on: the same batches in the same order, pinned where there is a GPU to copy them to.
Never: says it is further than the last batch it gave: what was made ahead is made again after a resume.
"""

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


class Ahead:
    def __init__(self, loader: Loader, *, pin: bool) -> None:
        self._loader, self._pin, self.batches_per_epoch = loader, pin, loader.batches_per_epoch
        self._worker = ThreadPoolExecutor(1, "batches")
        self._state = loader.state()
        self._coming: Future[tuple[Batch, dict[str, Any]]] | None = None

    def next_batch(self) -> Batch:
        coming = self._coming or self._worker.submit(self._make)
        batch, self._state = coming.result()
        self._coming = self._worker.submit(self._make)
        return batch

    def rewind(self) -> None:
        self._forget()
        self._loader.rewind()
        self._state = self._loader.state()

    def state(self) -> dict[str, Any]:
        return self._state

    def load_state(self, state: dict[str, Any]) -> None:
        self._forget()
        self._loader.load_state(state)
        self._state = state

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._loader.next_batch()
        if self._pin:
            batch = replace(batch, inputs=batch.inputs.pin_memory(), targets=batch.targets.pin_memory())
        return batch, self._loader.state()

    def _forget(self) -> None:
        if self._coming is not None:
            self._coming.result()
            self._coming = None
