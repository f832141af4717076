"""What ``wandb.config``, ``wandb.log`` and the like are before ``wandb.init``: they say so."""

from collections.abc import Callable
from typing import Any

from ...errors import Error


class PreInitObject:
    def __init__(self, name: str, destination: Any = None) -> None:
        self._name = name
        if destination is not None:
            self.__doc__ = destination.__doc__

    def __getitem__(self, key: str) -> Any:
        raise Error(f"You must call wandb.init() before {self._name}[{key!r}]")

    def __setitem__(self, key: str, value: Any) -> None:
        raise Error(f"You must call wandb.init() before {self._name}[{key!r}]")

    def __setattr__(self, key: str, value: Any) -> None:
        if not key.startswith("_"):
            raise Error(f"You must call wandb.init() before {self._name}.{key}")
        object.__setattr__(self, key, value)

    def __getattr__(self, key: str) -> Any:
        if not key.startswith("_"):
            raise Error(f"You must call wandb.init() before {self._name}.{key}")
        raise AttributeError(key)


def PreInitCallable(name: str, destination: Any = None) -> Callable[..., Any]:  # noqa: N802
    def preinit_wrapper(*args: Any, **kwargs: Any) -> Any:
        raise Error(f"You must call wandb.init() before {name}()")

    preinit_wrapper.__name__ = name
    if destination is not None:
        preinit_wrapper.__doc__ = destination.__doc__
    return preinit_wrapper
