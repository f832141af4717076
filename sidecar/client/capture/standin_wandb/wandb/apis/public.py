"""The public API asks W&B's server, which a captured run does not: making one works, asking it raises CommError."""

from typing import Any

from ..errors import CommError


class Api:
    def __init__(self, overrides: Any = None, timeout: int | None = None, api_key: str | None = None) -> None:
        self.settings: dict[str, Any] = dict(overrides or {})
        self.default_entity: str | None = None
        self.api_key: str | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def ask(*args: Any, **kwargs: Any) -> Any:
            raise CommError(f"wandb.Api().{name}() asks the W&B server, which a captured run does not")

        return ask


class Run:
    pass
