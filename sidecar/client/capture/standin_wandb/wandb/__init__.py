"""Stand-in for wandb 0.31: what a script logs goes to the sidecar instead.

Given: calls of an unmodified script. Hands on: events of a captured run.
Never: imports the real wandb, talks to a server, or raises where the real one does not.
"""

import importlib
from typing import Any

from . import _bootstrap as _bootstrap

__version__ = "0.31.0"

from . import integration, util
from . import sdk as wandb_sdk
from .data_types import (
    Audio,
    Classes,
    EvalTable,
    Graph,
    Histogram,
    Html,
    Image,
    JoinedTable,
    Molecule,
    Object3D,
    Plotly,
    Table,
    Video,
    box3d,
)
from .errors import AuthenticationError, CommError, Error, UsageError
from .errors.term import termerror, termlog, termsetup, termwarn
from .plot import plot_table, visualize
from .sdk import lib as wandb_lib
from .sdk.artifacts.artifact import Artifact, ArtifactTTL
from .sdk.lib import preinit as _preinit
from .sdk.wandb_alerts import AlertLevel
from .sdk.wandb_config import Config
from .sdk.wandb_init import _attach, init
from .sdk.wandb_login import login
from .sdk.wandb_run import Run, finish, restore
from .sdk.wandb_settings import Settings
from .sdk.wandb_setup import require, setup, teardown
from .sdk.wandb_summary import Summary
from .sdk.wandb_sweep import agent, controller, sweep

attach = _attach
join = finish
helper = wandb_sdk.helper
_teardown = teardown
patched: dict[str, list[Any]] = {"tensorboard": [], "keras": [], "gym": []}

run: Run | None = None
config: Any = _preinit.PreInitObject("wandb.config", Config)
summary: Any = _preinit.PreInitObject("wandb.summary", Summary)
log: Any = _preinit.PreInitCallable("wandb.log", Run.log)
watch: Any = _preinit.PreInitCallable("wandb.watch", Run.watch)
unwatch: Any = _preinit.PreInitCallable("wandb.unwatch", Run.unwatch)
save: Any = _preinit.PreInitCallable("wandb.save", Run.save)
use_artifact: Any = _preinit.PreInitCallable("wandb.use_artifact", Run.use_artifact)
log_artifact: Any = _preinit.PreInitCallable("wandb.log_artifact", Run.log_artifact)
log_model: Any = _preinit.PreInitCallable("wandb.log_model", Run.log_model)
use_model: Any = _preinit.PreInitCallable("wandb.use_model", Run.use_model)
link_model: Any = _preinit.PreInitCallable("wandb.link_model", Run.link_model)
define_metric: Any = _preinit.PreInitCallable("wandb.define_metric", Run.define_metric)
mark_preempting: Any = _preinit.PreInitCallable("wandb.mark_preempting", Run.mark_preempting)
alert: Any = _preinit.PreInitCallable("wandb.alert", Run.alert)
pin_config_keys: Any = _preinit.PreInitCallable("wandb.pin_config_keys", Run.pin_config_keys)


INTEGRATIONS = (
    "catboost", "fastai", "gym", "keras", "lightgbm", "sacred", "sklearn", "tensorboard", "tensorflow", "xgboost",
)  # fmt: skip
"""Reachable as wandb.NAME; loaded when asked for."""


def ensure_configured() -> None:
    """Nothing to configure."""


def __getattr__(name: str) -> Any:
    if name in ("Api", "PublicApi"):
        from .apis.public import Api

        return Api
    if name == "api":
        from .apis.public import Api

        return Api()
    if name == "RunDisabled":
        return wandb_lib.RunDisabled
    if name in INTEGRATIONS:
        try:
            return importlib.import_module(f".integration.{name}", __name__)
        except ImportError as error:
            raise AttributeError(f"wandb.{name}: {error}") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = (
    "__version__", "init", "finish", "setup", "save", "sweep", "controller", "agent", "config", "log", "summary",
    "join", "Api", "Graph", "Image", "Plotly", "Video", "Audio", "Table", "EvalTable", "Html", "box3d", "Object3D",
    "Molecule", "Histogram", "ArtifactTTL", "log_artifact", "use_artifact", "log_model", "use_model", "link_model",
    "define_metric", "watch", "unwatch", "plot_table", "Run",
)  # fmt: skip
