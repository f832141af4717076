"""Model FLOPs of everything that runs between start and stop, counted in torch's dispatcher.

Given: the operations of one training step. Hands on: their FLOPs by torch's own formulas, and the outermost module
that ran. Never: changes a result, or counts the recomputation inside a fused attention's backward.

Formulas: torch.utils.flop_counter. Two differences: the CPU's attention is missing there and added; a fused attention's
backward is counted as 4 products, not 5, because recomputing the scores is no work of the model (with it the sum would
be 6N + 14LHQT a token instead of the usual 6N + 12LHQT).
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def attention_forward(query: Any, key: Any, value: Any) -> int:
    """Two products: scores, and scores times values. Shapes (batch, heads, positions, width)."""
    batch, heads, queries, width = query.shape
    return 2 * batch * heads * queries * key.shape[2] * (width + value.shape[3])


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any) -> int:
    return 2 * attention_forward(query, key, value)


_FORWARD = tuple(
    getattr(aten, name)
    for name in ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable")
    if hasattr(aten, name)
)
_BACKWARD = tuple(
    getattr(aten, name)
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_scaled_dot_product_fused_attention_overrideable_backward",
        "_scaled_dot_product_flash_attention_backward",
        "_scaled_dot_product_efficient_attention_backward",
        "_scaled_dot_product_cudnn_attention_backward",
    )
    if hasattr(aten, name)
)


class FlopMeter:
    def __init__(self) -> None:
        self.model: Any = None
        """Of the outermost modules that were called, the one with the most parameters."""
        self._mode = _Counting()
        self._handles: list[Any] = []
        self._depth = 0
        self._params = 0

    def start(self) -> bool:
        """False when somebody else's dispatch mode is active: then nothing is measured."""
        if _get_current_dispatch_mode() is not None:
            return False
        modules = torch.nn.modules.module
        self._handles = [
            modules.register_module_forward_pre_hook(self._enter),
            modules.register_module_forward_hook(self._leave, always_call=True),
        ]
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return True

    def stop(self) -> int:
        for handle in self._handles:
            handle.remove()
        if _get_current_dispatch_mode() is self._mode:
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return self._mode.flops

    def pause(self, *, paused: bool) -> None:
        """While paused nothing is counted: an optimizer that multiplies matrices (Muon) is not part of the model."""
        self._mode.paused = paused

    @property
    def dtype(self) -> str | None:
        """The dtype in which most FLOPs were computed; under autocast it differs from that of the parameters."""
        return max(self._mode.by_dtype, key=lambda name: self._mode.by_dtype[name], default=None)

    def _enter(self, module: Any, args: Any) -> None:
        if self._depth == 0 and module is not self.model:
            params = sum(p.numel() for p in module.parameters())
            if params > self._params:
                self.model, self._params = module, params
        self._depth += 1

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        self._depth = max(0, self._depth - 1)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.paused = False
        self.by_dtype: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # It is dispatched again as operations on this rank's shard.
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.paused:
            return out
        packet = getattr(func, "_overloadpacket", None)
        try:
            if packet in _FORWARD:
                flops = attention_forward(*args[:3])
            elif packet in _BACKWARD:
                flops = _attention_backward(*args[:4])
            elif packet in flop_registry:
                flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
            else:
                return out
            self.flops += flops
            dtype = str(args[0].dtype).removeprefix("torch.")
            self.by_dtype[dtype] = self.by_dtype.get(dtype, 0) + flops
        except Exception:  # noqa: BLE001 - Foreign code: anybody may register formulas. One that fails counts as 0.
            pass
        return out
