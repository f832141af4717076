"""The monitor beside your training job.

    import sidecar
    run = sidecar.init(project="nanochat", name="d12", stage="pretrain")
    run.step(step, loss=loss, tokens=tokens)
    run.finish()

Importing this loads nothing but the standard library; the client (pyzmq, msgspec) is loaded by the first use.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sidecar.client import Run, init

__all__ = ["Run", "__version__", "init"]


def __getattr__(name: str) -> Any:
    if name in ("Run", "init"):
        from sidecar import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
