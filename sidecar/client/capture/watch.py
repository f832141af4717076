"""``wandb.watch``: histograms of gradients and parameters, under wandb's names and at its batches.

Given: torch modules. Hands on: one histogram for each tensor every ``log_freq`` batches, at the row that is open.
Never: waits for a device: its bins are counted there and follow.
"""

from collections.abc import Callable
from typing import Any

from sidecar.client.capture.recorder import Recorder

LOGS = ("gradients", "parameters", "all", None)

_watched = 0
"""Number of models watched in this process: from the second one on, names get a prefix."""


class Watch:
    """The hooks of one run."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._handles: dict[int, list[Any]] = {}

    def add(self, models: Any, log: str | None, log_freq: int, index: int | None) -> None:
        """Raises TypeError or ValueError where ``wandb.watch`` does."""
        if log not in LOGS:
            raise ValueError("log must be one of 'gradients', 'parameters', 'all', or None")
        models = models if isinstance(models, tuple | list) else (models,)
        for model in models:
            if not hasattr(model, "named_parameters"):
                raise TypeError(f"Expected a pytorch model (torch.nn.Module). Received {type(model)}")
        global _watched
        first = _watched if index is None else index
        for number, model in enumerate(models, first):
            _watched += 1
            prefix = f"graph_{number}" if number > 0 else ""
            handles = self._handles.setdefault(id(model), [])
            if log in ("parameters", "all"):
                handles.append(model.register_forward_hook(self._parameters(prefix, log_freq)))
            if log in ("gradients", "all"):
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        handles.append(parameter.register_hook(self._gradient(f"gradients/{prefix}{name}", log_freq)))

    def remove(self, models: Any = None) -> None:
        """Remove the hooks of these models, or of all."""
        given = () if models is None else models if isinstance(models, tuple | list) else (models,)
        for model in [id(model) for model in given] or list(self._handles):
            for handle in self._handles.pop(model, []):
                handle.remove()

    def _parameters(self, prefix: str, every: int) -> Callable[..., None]:
        due = _every(every)

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if due():
                for name, parameter in module.named_parameters():
                    self._emit_histogram(f"parameters/{prefix}{name}", parameter)

        return hook

    def _gradient(self, name: str, every: int) -> Callable[[Any], None]:
        due = _every(every)

        def hook(gradient: Any) -> None:
            if due():
                self._emit_histogram(name, gradient)

        return hook

    def _emit_histogram(self, name: str, tensor: Any) -> None:
        if not self._recorder.finished and tensor.numel():
            tensor = tensor.detach()
            values = tensor.coalesce().values() if tensor.is_sparse else tensor
            self._recorder.run.histogram(name, values, step=self._recorder.open_row_for(name))


def _every(batches: int) -> Callable[[], bool]:
    count = 0

    def due() -> bool:
        nonlocal count
        count = 0 if count + 1 >= batches else count + 1
        return count == 0

    return due
