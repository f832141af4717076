"""Functions that existing training scripts already import under these names, here kept by the sidecar.

They come from logging helpers written for nanochat, MiniMind, BDH and continuous fine-tuning scripts. A script changes
its import and keeps its calls:

    from sidecar.client.compat import enhance_wandb_logging, DatasetTracker, log_evaluation_metrics_3d
    from sidecar.client.compat import calculate_mfu, Logger, ComprehensiveWandbLogger
    from sidecar.client.compat import evaluate, generate_samples, get_grad_norm

Given: the calls such scripts make. Hands on: rows under the canonical names. Never: imports wandb or TensorBoard, or
torch before a function that needs it is called.

Where the original helpers disagree with one another, or log what is misleading, docs/integrations.md says what is done
here instead: a 0.0 that stands for "not measured" is left out; a row at a step that has passed is kept as late.
"""

from typing import Any

from sidecar.client.compat_comprehensive import ComprehensiveWandbLogger
from sidecar.client.compat_logger import Logger
from sidecar.client.compat_mfu import calculate_mfu, model_flops_per_token
from sidecar.client.compat_model import evaluate, generate_samples, get_grad_norm, sample_name
from sidecar.client.compat_nanochat import DatasetTracker, enhance_wandb_logging, log_evaluation_metrics_3d

__all__ = [
    "ComprehensiveWandbLogger",
    "DatasetTracker",
    "Logger",
    "calculate_mfu",
    "enhance_wandb_logging",
    "evaluate",
    "generate_samples",
    "get_grad_norm",
    "log_evaluation_metrics_3d",
    "model_flops_per_token",
    "sample_name",
]


def __getattr__(name: str) -> Any:
    """The callback needs transformers, which is loaded when it is asked for."""
    if name == "WandbMetricsCallback":
        from sidecar.client.integrations.huggingface import WandbMetricsCallback

        return WandbMetricsCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
