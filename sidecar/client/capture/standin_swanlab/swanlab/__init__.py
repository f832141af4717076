"""Stand-in for swanlab: what a script logs goes to the sidecar instead. Also meant for ``import swanlab as wandb``.

Given: calls of an unmodified script. Hands on: events of a captured run.
Never: imports the real swanlab, talks to a server, or raises where the real one does not.
"""

from typing import Any

from . import _bootstrap as _bootstrap

__version__ = "0.10.3"

from . import echarts, plot, utils
from ._run import (
    Run,
    async_log,
    config,
    define_metric,
    finish,
    get_run,
    has_run,
    init,
    log,
    log_audio,
    log_echarts,
    log_html,
    log_image,
    log_molecule,
    log_object3d,
    log_scalar,
    log_text,
    log_video,
    save,
)
from .api import Api
from .media import Audio, Callback, ECharts, Html, Image, Molecule, Object3D, Settings, Text, Video


def login(*args: Any, **kwargs: Any) -> bool:
    """Nobody has to log in. The key is not read, kept or sent."""
    return True


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


merge_callbacks = merge_settings = register_callbacks = require = sync = _nothing
sync_wandb = sync_mlflow = sync_tensorboardX = sync_tensorboard_torch = _nothing  # noqa: N816
confusion_matrix = pr_curve = roc_curve = ECharts


def __getattr__(name: str) -> Any:
    if name == "run":
        return get_run() if has_run() else None
    if name == "id":
        return get_run().id
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Api", "Audio", "Callback", "ECharts", "Html", "Image", "Molecule", "Object3D", "Run", "Settings", "Text", "Video",
    "async_log", "config", "define_metric", "echarts", "finish", "get_run", "has_run", "init", "log", "log_audio",
    "log_echarts", "log_html", "log_image", "log_molecule", "log_object3d", "log_scalar", "log_text", "log_video",
    "login", "plot", "save", "utils",
]  # fmt: skip
