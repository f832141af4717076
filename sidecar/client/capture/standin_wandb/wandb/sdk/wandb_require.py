from .wandb_setup import require

__all__ = ("require",)
