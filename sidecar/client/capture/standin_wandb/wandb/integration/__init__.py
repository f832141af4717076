"""wandb.integration: those of the installed wandb (keras, sb3, xgboost, ...), which log through what stands here."""

from .._installed import folders

__path__ = [*__path__, *folders("integration")]
