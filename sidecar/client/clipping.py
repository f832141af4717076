"""The moment before gradients are clipped: norms that are measured then are the true ones.

Given: probes that wait for it. Hands on: a call just before torch scales gradients down.
Never: changes what is clipped. Patches torch only while a probe lives; a torch without this function is left alone.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

from sidecar.client.compiling import tracing_test

PATCHED_FUNCTION = "_clip_grads_with_norm_"

Listener = Callable[[Any], None]
"""Called with the parameters whose gradients are about to be scaled."""

_listeners: list[Listener] = []
_installed: Any = None
"""The function that stands in for torch's while somebody listens."""


def listen(listener: Listener) -> None:
    """Call ``listener`` before each ``torch.nn.utils.clip_grad_norm_`` scales; it must be quick and never raise."""
    global _installed
    _listeners.append(listener)
    module = _module()
    original = getattr(module, PATCHED_FUNCTION, None)
    if original is None or hasattr(original, "sidecar_original"):  # No such torch, or there already.
        return

    is_traced = tracing_test()

    @functools.wraps(original)
    def patched(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_traced():
            for each in tuple(_listeners):
                each(parameters)
        return original(parameters, *args, **kwargs)

    patched.sidecar_original = original  # type: ignore[attr-defined]
    setattr(module, PATCHED_FUNCTION, patched)
    _installed = patched


def forget(listener: Listener) -> None:
    """The last listener that goes takes the stand-in away, unless somebody has put a function of theirs around it."""
    if listener in _listeners:
        _listeners.remove(listener)
    module = _module()
    current: Any = getattr(module, PATCHED_FUNCTION, None)
    if not _listeners and current is not None and current is _installed:
        setattr(module, PATCHED_FUNCTION, current.sidecar_original)


def _module() -> Any:
    torch = sys.modules.get("torch")
    return None if torch is None else sys.modules.get("torch.nn.utils.clip_grad")
