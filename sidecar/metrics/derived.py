"""Metrics that the sidecar computes from what the training process sends.

Given: nothing. Hands on: tables of metrics, one for each topic. Never: holds a value.
"""

from functools import partial

from sidecar.metrics.metric import table

_gauges = partial(table, "gauge", "derived")

TRAINING = _gauges(
    ("train/global_step", "steps", "Optimizer steps done; goes on over a resume", "training_step"),
    ("train/loss_ema", "nats", "Loss smoothed exponentially (0.9) with bias correction", "training_loss_smoothed"),
    ("train/perplexity", "", "exp(train/loss), +Inf beyond a double; not in dpo, ppo and rl", "training_perplexity"),
    ("train/tokens_per_second", "tokens/s", "Input tokens a second, all ranks, sliding window of wall time",
     "training_tokens_per_second"),
    ("train/samples_per_second", "samples/s", "Samples a second, all ranks, same window",
     "training_samples_per_second"),
    ("train/steps_per_second", "steps/s", "Optimizer steps a second, same window", "training_steps_per_second"),
    ("train/num_input_tokens_seen", "tokens", "Input tokens behind the current progress; a rewind takes back",
     "training_tokens_total"),
    ("train/num_loss_tokens_seen", "tokens", "Tokens behind the current progress that counted in the loss"),
    ("train/mfu_percent", "percent", "Model FLOPs utilisation with full attention", "training_mfu_ratio", "0.01"),
    ("train/mfu_causal_percent", "percent", "Model FLOPs utilisation with causal attention",
     "training_mfu_ratio", "0.01"),
    ("train/flops_total", "flops", "FLOPs per token times tokens seen", "training_flops_total"),
    ("train/flops_per_second", "flops/s", "Model FLOPs a second, all ranks", "training_flops_per_second"),
    ("train/total_training_time_seconds", "seconds",
     "Time in optimizer steps of the current progress, pauses excluded"),
    ("train/eta_minutes", "minutes", "Time to go at the current speed; absent before five steps",
     "training_eta_seconds", "60"),
    ("system/epoch_time", "minutes", "Time elapsed in the current epoch"),
)

PROGRESS = _gauges(
    ("progress/step", "steps", "Optimizer steps done", "training_step"),
    ("progress/step_percent", "percent", "100 x step / total steps", "training_progress_ratio", "0.01"),
    ("progress/epoch", "epochs", "Epochs done, with fraction", "training_epoch"),
    ("progress/epoch_percent", "percent", "How far the current epoch is"),
    ("progress/eta_minutes", "minutes", "Time to go", "training_eta_seconds", "60"),
    ("progress/eta_hours", "hours", "eta_minutes / 60", "training_eta_seconds", "3600"),
)

PERFORMANCE = _gauges(
    ("performance/tokens_per_second", "tokens/s", "As train/tokens_per_second", "training_tokens_per_second"),
    ("performance/samples_per_second", "samples/s", "As train/samples_per_second", "training_samples_per_second"),
    ("performance/batch_time_ms", "milliseconds", "Step end to step end, declared pauses left out",
     "training_step_duration_seconds", "0.001"),
    ("performance/data_loading_time_ms", "milliseconds", "Waiting for data in this step"),
    ("performance/forward_time_ms", "milliseconds", "Forward passes of this step"),
    ("performance/backward_time_ms", "milliseconds", "Backward passes of this step"),
    ("performance/optimizer_time_ms", "milliseconds", "Optimizer of this step"),
    ("phase/{phase}", "seconds", "One stay in a phase (evaluation, checkpoint, sampling, ...)",
     "training_phase_seconds_total"),
)

DATA = _gauges(
    ("dataset/{dataset}/samples_seen", "samples", "Consumed so far, all ranks", "training_dataset_samples_total"),
    ("dataset/{dataset}/tokens_seen", "tokens", "Consumed so far, all ranks", "training_dataset_tokens_total"),
    ("dataset/{dataset}/ratio", "ratio", "Its share of all samples", "training_dataset_share_ratio"),
    ("dataset/{dataset}/target_ratio", "ratio", "The share that was planned",
     "training_dataset_target_share_ratio"),
    ("dataset/{dataset}/coverage_percent", "percent", "Samples seen over its size; above 100 in later epochs",
     "training_dataset_coverage_ratio", "0.01"),
    ("dataset/{dataset}/epochs", "epochs", "Whole passes through it", "training_dataset_epochs"),
)
