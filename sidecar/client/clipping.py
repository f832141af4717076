"""The moment before gradients are clipped: norms that are measured then are the true ones.

Given: probes that wait for it. Hands on: a call just before torch scales gradients down.
Never: changes what is clipped. Installed only while a probe lives; a torch without this seam is left alone.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

SEAM = "_clip_grads_with_norm_"

Listener = Callable[[Any], None]
"""Called with the parameters whose gradients are about to be scaled."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call ``listener`` before each ``torch.nn.utils.clip_grad_norm_`` scales; it must be quick and never raise."""
    _listeners.append(listener)
    module = _module()
    seam = getattr(module, SEAM, None)
    if seam is not None and not hasattr(seam, "sidecar_original"):

        @functools.wraps(seam)
        def told_before(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            for each in tuple(_listeners):
                each(parameters)
            return seam(parameters, *args, **kwargs)

        told_before.sidecar_original = seam  # type: ignore[attr-defined]
        setattr(module, SEAM, told_before)


def forget(listener: Listener) -> None:
    if listener in _listeners:
        _listeners.remove(listener)
    module = _module()
    original = getattr(getattr(module, SEAM, None), "sidecar_original", None)
    if not _listeners and original is not None:
        setattr(module, SEAM, original)


def _module() -> Any:
    torch = sys.modules.get("torch")
    return None if torch is None else sys.modules.get("torch.nn.utils.clip_grad")
