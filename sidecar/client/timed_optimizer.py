"""The time an optimizer takes, found where torch calls its hooks.

Given: a torch optimizer. Hands on: its steps as the phase "optimizer". Never: replaces ``optimizer.step``, which
schedulers and scalers wrap themselves, or counts the forward and backward passes of ``optimizer.step(closure)``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidecar.client.compiling import tracing_test


class TimedOptimizer:
    """Hooks around ``optimizer.step``; ``remove()`` takes them off."""

    def __init__(self, phase: Callable[[], Any], on_remove: Callable[[Callable[[], None]], None] | None = None) -> None:
        self._phase = phase
        self._on_remove = on_remove
        self._is_traced = tracing_test()
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
        self._cancel()
        if self._on_remove is not None:
            self._on_remove(self.remove)

    def _enter(self, optimizer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self._is_traced():
            return None
        self._cancel()  # The step before may have raised: then there was no call after it.
        self._begin()
        return around_closure(args, kwargs, before=self._leave, after=self._begin)

    def _begin(self) -> None:
        self._open = self._phase()
        self._open.__enter__()

    def _leave(self, *_: Any) -> None:
        if not self._is_traced() and self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    def _cancel(self) -> None:
        if self._open is not None:
            self._open.cancel()
            self._open = None


def around_closure(
    args: Sequence[Any], kwargs: Mapping[str, Any], *, before: Callable[[], Any], after: Callable[[], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """For a pre-hook to return: the same arguments, but the closure is called between ``before`` and ``after``.

    ``args`` begin with the optimizer itself. None where there is no closure; an exception of the closure is its own.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not callable(closure):
        return None

    def called(*more: Any, **named: Any) -> Any:
        before()
        result = closure(*more, **named)
        after()
        return result

    if len(args) > 1:
        return (args[0], called, *args[2:]), dict(kwargs)
    return tuple(args), {**kwargs, "closure": called}


def unwrapped(optimizer: Any) -> Any:
    """The torch optimizer inside wrappers such as Accelerate's, which do not call its hooks themselves."""
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "register_step_pre_hook"):
            break
        optimizer = inner
    return optimizer
