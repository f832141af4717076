"""The documents' own interfaces, under their own names: thin over the client.

    from sidecar.client.compat import enhance_wandb_logging, DatasetTracker, log_evaluation_metrics_3d
    from sidecar.client.compat import calculate_mfu, Logger, ComprehensiveWandbLogger
    from sidecar.client.compat import evaluate, generate_samples, get_grad_norm

Given: the calls those documents show. Hands on: rows under the canonical names. Never: imports wandb or TensorBoard, or
torch before a function that needs it is called.

Where the documents disagree, or do what their readers would not want, docs/integrations.md says how it is settled:
a 0.0 that stands for "not measured" is dropped; a row at a step that has passed is kept as late.
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
