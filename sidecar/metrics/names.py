"""Lists of names: other spellings of a metric, and the names that must always be there.

Given: nothing. Hands on: ``ALIASES``, ``CORE_NAMES``, ``SCRIPT_NAMES``. Never: holds a value.
"""

ALIASES = {
    "train/lr": "train/learning_rate",
    "lr": "train/learning_rate",
    "learning_rate": "train/learning_rate",
    "loss": "train/loss",
    "epoch": "train/epoch",
    "grad_norm": "train/grad_norm",
    "train_loss": "train/loss",
    "train_lrm": "train/lr_multiplier",
    "lrm": "train/lr_multiplier",
    "num_tokens": "train/num_tokens",
    "train/step": "train/global_step",
    "step": "train/global_step",
    "tokens_per_sec": "train/tokens_per_second",
    "tokens_per_second": "train/tokens_per_second",
    "tok_per_sec": "train/tokens_per_second",
    "train/tok_per_sec": "train/tokens_per_second",
    "mfu": "train/mfu_reported",
    "train/mfu": "train/mfu_reported",
    "flops_so_far": "train/flops_total",
    "total_training_time": "train/total_training_time_seconds",
    "batch/grad_norm": "train/grad_norm",
    "gradients/global_norm": "train/grad_norm",
    "performance/tokens_per_second": "train/tokens_per_second",
    "performance/samples_per_second": "train/samples_per_second",
    "progress/step": "train/global_step",
    "progress/epoch": "train/epoch",
    "progress/eta_minutes": "train/eta_minutes",
    "val_loss": "val/loss",
    "val_ppl": "val/perplexity",
    "eval/loss": "val/loss",
    "eval/perplexity": "val/perplexity",
    "eval/accuracy": "val/accuracy",
    "eval_loss": "val/loss",
}
"""Other names in use for the same number -> the canonical name. Naming profiles read this table backwards."""

CORE_NAMES = (
    "train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/global_step",
    "train/tokens_per_second", "train/samples_per_second", "train/steps_per_second", "train/num_input_tokens_seen",
    "train/mfu_percent", "train/eta_minutes", "system/epoch_time",
)  # fmt: skip
"""What every stage of training shows."""

SCRIPT_NAMES = (
    "train/loss", "train/perplexity", "train/learning_rate", "train/epoch", "eval/loss", "eval/perplexity",
    "batch/loss", "batch/perplexity", "batch/size", "batch/grad_norm",
    "system/cpu_percent", "system/cpu_count", "system/memory_used_gb", "system/memory_available_gb",
    "system/memory_percent", "system/disk_used_gb", "system/disk_free_gb", "system/disk_percent",
    "system/gpu_{gpu}_memory_allocated_gb", "system/gpu_{gpu}_memory_reserved_gb", "system/gpu_{gpu}_utilization",
    "system/gpu_{gpu}_memory_utilization",
    "data/total_samples", "data/avg_quality_score", "data/avg_code_length", "data/language_{language}",
    "data/language_{language}_percent", "data/blocked_malicious", "data/blocked_secrets", "data/blocked_license",
    "data/blocked_total", "data/pass_rate",
    "dataset/train_size", "dataset/eval_size", "dataset/total_size", "dataset/train_eval_ratio",
    "dataset/avg_tokens_per_sample", "dataset/max_tokens", "dataset/min_tokens",
    "performance/samples_per_second", "performance/tokens_per_second", "performance/batch_time_ms",
    "performance/data_loading_time_ms", "performance/forward_time_ms", "performance/backward_time_ms",
    "gradients/global_norm", "gradients/mean_norm", "gradients/max_norm", "gradients/min_norm", "gradients/{layer}",
    "weights/global_mean", "weights/global_std", "weights/{layer}/mean", "weights/{layer}/std",
    "continuous/run_number", "continuous/total_runs", "continuous/last_trained_id",
    "continuous/total_samples_trained", "continuous/uptime_hours",
    "progress/step", "progress/step_percent", "progress/epoch", "progress/epoch_percent", "progress/eta_minutes",
    "progress/eta_hours",
    "model/name", "model/total_params", "model/trainable_params", "model/trainable_percent", "model/lora_r",
    "model/lora_alpha", "hyperparams/batch_size", "hyperparams/learning_rate", "hyperparams/max_length",
)  # fmt: skip
"""What scripts that log through ``sidecar.client.compat`` call their metrics; a series for each GPU, language or layer
is one name here."""
