"""The old place of Run, which Lightning imports."""

from .sdk.wandb_run import Run

__all__ = ["Run"]
