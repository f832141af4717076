"""wandb.sdk.lib, as far as integrations reach into it."""

from . import config_util, disabled, module, preinit, runid
from .disabled import RunDisabled, SummaryDisabled

__all__ = ("RunDisabled", "SummaryDisabled", "config_util", "disabled", "module", "preinit", "runid")
