"""The time an optimizer takes, found where torch calls its hooks.

Given: a torch optimizer. Hands on: its steps as the phase "optimizer". Never: replaces ``optimizer.step``, which
schedulers and scalers wrap themselves.
"""

from collections.abc import Callable
from typing import Any


class TimedOptimizer:
    """Hooks around ``optimizer.step``; ``remove()`` takes them off."""

    def __init__(self, phase: Callable[[], Any]) -> None:
        self._phase = phase
        self._open: Any = None
        self._handles: list[Any] = []

    def install(self, optimizer: Any) -> None:
        """Raises AttributeError for what is no torch optimizer."""
        real = unwrapped(optimizer)
        self._handles.append(real.register_step_pre_hook(self._enter))
        self._handles.append(real.register_step_post_hook(self._leave))

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _enter(self, *_: Any) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)  # The step before raised: there was no call after it.
        self._open = self._phase()
        self._open.__enter__()

    def _leave(self, *_: Any) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def unwrapped(optimizer: Any) -> Any:
    """The torch optimizer inside wrappers such as Accelerate's, which do not call its hooks themselves."""
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "register_step_pre_hook"):
            break
        optimizer = inner
    return optimizer
