"""A stand-in for ``sidecar.Run`` that writes down what it is told: faked at our own API, for the trainer's tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self


class Recorder:
    def __init__(self, **begun: Any) -> None:
        self.begun = begun
        self.id = begun.get("run_id") or "recorded"
        self.steps: list[dict[str, Any]] = []
        self.logs: list[tuple[int | None, dict[str, Any]]] = []
        self.texts: list[tuple[int | None, str, str]] = []
        self.checkpoints: list[dict[str, Any]] = []
        self.phases: list[str] = []
        self.datasets: dict[str, tuple[int, int]] = {}
        self.finished: dict[str, Any] | None = None
        self.watched: list[dict[str, Any]] = []

    def step(self, step: int, **fields: Any) -> None:
        self.steps.append({"step": step, **fields})

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.logs.append((step, dict(metrics)))

    def watch(self, model: Any, optimizer: Any = None, **options: Any) -> None:
        self.watched.append({"model": model, "optimizer": optimizer, **options})

    def text(self, name: str, text: str, step: int | None = None) -> None:
        self.texts.append((step, name, text))

    def dataset(self, name: str, samples: int = 0, tokens: int = 0) -> None:
        before = self.datasets.get(name, (0, 0))
        self.datasets[name] = (before[0] + samples, before[1] + tokens)

    def checkpoint(self, step: int, **fields: Any) -> None:
        self.checkpoints.append({"step": step, **fields})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        yield

    def finish(self, **how: Any) -> None:
        self.finished = how

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.finish(**({"state": "failed"} if error else {}))

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps]

    def logged(self, name: str) -> list[tuple[int | None, Any]]:
        return [(step, metrics[name]) for step, metrics in self.logs if name in metrics]
