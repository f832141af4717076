"""The public API asks swanlab's server, which a captured run does not."""

from typing import Any


class Api:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise RuntimeError(f"swanlab.Api().{name} asks the server, which a captured run does not")
