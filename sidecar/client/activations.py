"""Statistics of what modules put out, by hooks that exist only while a sampled step runs.

Given: modules by name. Hands on: mean, deviation, largest magnitude and share of zeros of their outputs, and bins.
Never: keeps an activation, touches the graph, or leaves a hook behind. Evaluation is not measured.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.client.compiling import tracing_test
from sidecar.client.histogram import packed
from sidecar.client.probe_stats import Gatherer, moments

torch: Any = sys.modules["torch"]  # Loaded only where a script has imported it already.
Tensor = Any

STATISTICS = ("mean", "std", "max", "zero_ratio")


class Activations:
    """Statistics of each module's last forward pass since the hooks were installed."""

    def __init__(self, modules: Mapping[str, Any], *, bins: int = 0) -> None:
        self._modules, self._bins = modules, bins
        self._handles: list[Any] = []
        self._seen: dict[str, tuple[int, list[Tensor]]] = {}
        self._packed: dict[str, Tensor] = {}
        self.failed = 0
        """Number of outputs that could not be measured."""

    @property
    def installed(self) -> bool:
        return bool(self._handles)

    def install(self) -> None:
        if not self._handles:
            self._seen, self._packed = {}, {}
            self._handles = [module.register_forward_hook(self._hook(name)) for name, module in self._modules.items()]

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def add_to(self, gatherer: Gatherer) -> tuple[list[tuple[str, int]], dict[str, Tensor]]:
        """Hands the numbers over, four for each module. Returns (name, elements) in that order, and the bins."""
        found = [(name, elements) for name, (elements, _) in self._seen.items()]
        for _, scalars in self._seen.values():
            gatherer.add(scalars)
        bins, self._seen, self._packed = self._packed, {}, {}
        return found, bins

    def _hook(self, name: str) -> Any:
        is_traced = tracing_test()

        def look(module: Any, args: Any, output: Any) -> None:
            if is_traced():
                return
            try:
                if module.training and torch.is_grad_enabled():
                    self._look(name, output)
            except Exception:  # noqa: BLE001 - Hot path: whatever an unusual output does to us, training goes on.
                self.failed += 1

        return look

    def _look(self, name: str, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None or not tensor.is_floating_point() or tensor.numel() == 0:
            return
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        with torch.no_grad():
            values = tensor.detach()
            to_local = getattr(values, "to_local", None)
            values = values if to_local is None else to_local()
            mean, variance = moments(values)
            largest = torch.linalg.vector_norm(values, math.inf, dtype=torch.float32)
            self._seen[name] = (values.numel(), [mean, variance, largest, torch.count_nonzero(values)])
            if self._bins:
                self._packed[name] = packed(values, self._bins)


def first_tensor(output: Any) -> Tensor | None:
    """Modules return tensors, tuples that begin with one, or records (Hugging Face) that do."""
    for _ in range(3):
        if isinstance(output, torch.Tensor):
            return output
        if isinstance(output, Mapping):
            output = next(iter(output.values()), None)
        elif isinstance(output, list | tuple) and output:
            output = output[0]
        else:
            return None
    return None


def metrics(found: Sequence[tuple[str, int]], numbers: Sequence[float]) -> dict[str, float]:
    """``activations/<module>/mean`` and so on, from four numbers for each module."""
    out: dict[str, float] = {}
    for place, (name, elements) in enumerate(found):
        mean, variance, largest, nonzero = numbers[4 * place : 4 * place + 4]
        out[f"activations/{name}/mean"] = mean
        out[f"activations/{name}/std"] = math.sqrt(variance) if variance >= 0 else math.nan
        out[f"activations/{name}/max"] = largest
        out[f"activations/{name}/zero_ratio"] = 1.0 - nonzero / elements
    return out
