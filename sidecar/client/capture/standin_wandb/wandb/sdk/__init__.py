"""wandb.sdk, as far as scripts and integrations reach into it."""

from . import lib
from . import wandb_helper as helper
from .artifacts.artifact import Artifact
from .wandb_alerts import AlertLevel
from .wandb_config import Config
from .wandb_init import _attach, init
from .wandb_login import login
from .wandb_run import finish
from .wandb_settings import Settings
from .wandb_setup import require, setup, teardown
from .wandb_summary import Summary
from .wandb_sweep import controller, sweep

__all__ = (
    "AlertLevel", "Artifact", "Config", "Settings", "Summary", "_attach", "controller", "finish", "helper", "init",
    "lib", "login", "require", "setup", "sweep", "teardown",
)  # fmt: skip
