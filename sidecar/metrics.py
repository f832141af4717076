"""The catalogue: every metric by name, unit, type, source and meaning. One table, from which outlets are driven.

Given: nothing. Hands on: ``METRICS`` (names of the API, W&B and TensorBoard), ``FAMILIES`` (Prometheus), ``ALIASES``.
Never: computes a value or imports anything heavy. ``python -m sidecar.metrics`` prints docs/metrics.md.

W&B, TensorBoard and the API share one name. A name may hold placeholders in braces: ``system/gpu_{gpu}_utilization``.
Prometheus names are in base units; ``scale`` says what a value is multiplied by to get there (percent: 0.01).
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple


class Metric(NamedTuple):
    """One metric under its canonical name."""

    name: str
    unit: str
    """"" for plain numbers."""
    kind: str
    """gauge | counter | text | histogram"""
    source: str
    """trainer: sent by the training process; derived: computed by the sidecar; hardware: read by the sidecar."""
    help: str
    prometheus: str | None = None
    """Its own family; None: under training_metric{name}."""
    scale: float = 1.0


class Family(NamedTuple):
    """One Prometheus metric family."""

    name: str
    kind: str
    """gauge | counter | histogram | info"""
    unit: str
    labels: tuple[str, ...]
    help: str
    read: str
    """Where its value is: a path into RunSnapshot (``run.``) or Telemetry (``sidecar.``)."""


def _group(kind: str, source: str, *rows: tuple[str, ...]) -> tuple[Metric, ...]:
    """Rows of (name, unit, help[, Prometheus name[, scale]])."""
    made = []
    for name, unit, text, *outside in rows:
        scale = float(outside[1]) if len(outside) > 1 else 1.0
        made.append(Metric(name, unit, kind, source, text, outside[0] if outside else None, scale))
    return tuple(made)


TRAINING = (
    *_group(
        "gauge", "trainer",
        ("train/loss", "nats", "Training loss; joined over ranks, weighted by tokens", "training_loss"),
        ("train/learning_rate", "", "Learning rate of optimizer group 0", "training_learning_rate"),
        ("train/learning_rate/{group}", "", "Learning rate of a further optimizer group"),
        ("train/lr_multiplier", "", "Factor on the learning rate; never the rate itself"),
        ("train/grad_norm", "", "Global L2 norm of the gradient before clipping, unscaled", "training_grad_norm"),
        ("train/grad_norm/{group}", "", "The same for one parameter group"),
        ("train/epoch", "epochs", "Epochs done, with fraction", "training_epoch"),
        ("train/num_tokens", "tokens", "Input tokens of this step, this rank"),
        ("train/num_tokens_seen", "tokens", "What a script says it has consumed so far, all ranks (TRL's num_tokens)"),
        ("train/num_loss_tokens", "tokens", "Tokens of this step that count in the loss, this rank"),
        ("train/num_samples", "samples", "Samples of this step, this rank"),
        ("train/flops", "flops", "Model FLOPs of this step, this rank, where they vary from step to step"),
        ("train/mfu_reported", "percent", "What a script itself claims its MFU to be"),
        ("train/param_norm", "", "Global L2 norm of the parameters"),
        ("train/param_norm/{group}", "", "The same for one parameter group"),
        ("train/loss_scale", "", "Scale of a gradient scaler"),
        ("train/skipped_steps", "steps", "Steps an optimizer skipped because of non-finite gradients"),
        ("batch/loss", "nats", "Loss of one micro-batch before averaging"),
        ("batch/perplexity", "", "exp(batch/loss)"),
        ("batch/size", "samples", "Samples in the batch, a short last batch included"),
        ("batch/grad_norm", "", "train/grad_norm of the same step"),
    ),
    *_group(
        "gauge", "derived",
        ("train/global_step", "steps", "Optimizer steps done; goes on over a resume", "training_step"),
        ("train/loss_ema", "nats", "Loss smoothed exponentially (0.9) with bias correction", "training_loss_smoothed"),
        ("train/perplexity", "", "exp(train/loss); +Inf where a double overflows", "training_perplexity"),
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
    ),
)

VALIDATION = _group(
    "gauge", "trainer",
    ("val/loss", "nats", "Mean loss of an evaluation"),
    ("val/perplexity", "", "exp of the mean loss"),
    ("val/accuracy", "ratio", "Top-1 token accuracy, ignored tokens left out"),
    ("val/bits_per_byte", "bits", "val/loss as bits for each byte of the text"),
    ("val/{name}", "", "Anything else an evaluation measured"),
    ("eval/{task}_acc", "ratio", "Accuracy on one benchmark task"),
    ("eval/{task}_acc_normalized", "ratio", "(accuracy - chance) / (1 - chance)"),
    ("eval/{task}_pass_at_{k}", "ratio", "Problems that at least one of k answers solves"),
    ("eval/mean_acc", "ratio", "Mean accuracy over the tasks present"),
    ("eval/mean_acc_normalized", "ratio", "Mean of the normalised ones"),
)

PREFERENCES = _group(
    "gauge", "trainer",
    ("rewards/chosen", "", "Mean implicit reward of the chosen replies (DPO: beta x log ratio to the reference)"),
    ("rewards/rejected", "", "The same of the rejected ones"),
    ("rewards/margin", "", "Chosen minus rejected"),
    ("rewards/accuracy", "ratio", "Pairs in which the chosen reply has the higher reward"),
    ("val/rewards_margin", "", "rewards/margin of an evaluation"),
    ("val/rewards_accuracy", "ratio", "rewards/accuracy of an evaluation"),
    ("dpo/kl", "nats", "Estimated divergence from the reference model"),
    ("ppo/reward", "", "Mean reward of the replies"),
    ("ppo/response_length", "tokens", "Mean length of the replies"),
    ("ppo/kl", "nats", "Divergence of the policy from the reference model"),
    ("ppo/kl_weight", "", "Its weight in the reward"),
    ("ppo/policy_loss", "", "Clipped surrogate loss of the policy"),
    ("ppo/value_loss", "", "Loss of the value head"),
    ("ppo/entropy", "nats", "Entropy of the policy"),
    ("ppo/clip_fraction", "ratio", "Share of tokens whose ratio was clipped"),
    ("samples/length", "characters", "Mean length of the generated samples"),
    ("samples/distinct_2", "ratio", "Different pairs of neighbouring words among all pairs in them"),
    ("samples/repetition", "ratio", "Share of their characters that only repeat"),
    ("samples/entropy", "bits", "Entropy of a character in them"),
    ("samples/perplexity", "", "Their perplexity under a reference model"),
    ("samples/{name}", "", "Any other score of generated samples"),
)

PROGRESS = _group(
    "gauge", "derived",
    ("progress/step", "steps", "Optimizer steps done", "training_step"),
    ("progress/step_percent", "percent", "100 x step / total steps", "training_progress_ratio", "0.01"),
    ("progress/epoch", "epochs", "Epochs done, with fraction", "training_epoch"),
    ("progress/epoch_percent", "percent", "How far the current epoch is"),
    ("progress/eta_minutes", "minutes", "Time to go", "training_eta_seconds", "60"),
    ("progress/eta_hours", "hours", "eta_minutes / 60", "training_eta_seconds", "3600"),
)

PERFORMANCE = _group(
    "gauge", "derived",
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

SYSTEM = (
    *_group(
        "gauge", "hardware",
        ("system/cpu_percent", "percent", "CPU time not idle, all CPUs", "training_host_cpu_ratio", "0.01"),
        ("system/cpu_count", "cpus", "Logical CPUs of the machine", "training_host_cpus"),
        ("system/cpu_available", "cpus", "What affinity and the cgroup leave of them", "training_host_cpus_available"),
        ("system/memory_used_gb", "GB", "Memory used", "training_host_memory_used_bytes", "1e9"),
        ("system/memory_available_gb", "GB", "Memory available", "training_host_memory_available_bytes", "1e9"),
        ("system/memory_total_gb", "GB", "Memory installed", "training_host_memory_total_bytes", "1e9"),
        ("system/memory_limit_gb", "GB", "Memory the cgroup allows", "training_host_memory_limit_bytes", "1e9"),
        ("system/memory_percent", "percent", "Memory not available", "training_host_memory_ratio", "0.01"),
        ("system/swap_used_gb", "GB", "Swap used", "training_host_swap_used_bytes", "1e9"),
        ("system/swap_total_gb", "GB", "Swap configured", "training_host_swap_total_bytes", "1e9"),
        ("system/swap_percent", "percent", "Swap used", "training_host_swap_ratio", "0.01"),
        ("system/load_{minutes}m", "processes", "Load average", "training_host_load_{minutes}m"),
        ("system/disk_used_gb", "GB", "Used on the data directory's file system", "training_host_disk_used_bytes",
         "1e9"),
        ("system/disk_free_gb", "GB", "Free on it", "training_host_disk_free_bytes", "1e9"),
        ("system/disk_total_gb", "GB", "Its size", "training_host_disk_total_bytes", "1e9"),
        ("system/disk_percent", "percent", "Used on it", "training_host_disk_ratio", "0.01"),
        ("system/uptime_seconds", "seconds", "Since the host booted", "training_host_uptime_seconds"),
        ("system/trainer_processes", "processes", "Training processes on this host",
         "training_host_trainer_processes"),
        ("system/trainer_cpu_percent", "percent", "CPU of the training processes, 100 a core",
         "training_host_trainer_cpu_ratio", "0.01"),
        ("system/trainer_memory_gb", "GB", "Resident memory of the training processes",
         "training_host_trainer_memory_bytes", "1e9"),
        ("system/trainer_threads", "threads", "Their threads", "training_host_trainer_threads"),
        ("system/trainer_open_fds", "files", "Their open files", "training_host_trainer_open_fds"),
        ("system/sidecar_cpu_percent", "percent", "CPU of the sidecar, 100 a core", "training_host_sidecar_cpu_ratio",
         "0.01"),
        ("system/sidecar_memory_gb", "GB", "Resident memory of the sidecar", "training_host_sidecar_memory_bytes",
         "1e9"),
        ("system/sidecar_threads", "threads", "Its threads", "training_host_sidecar_threads"),
        ("system/sidecar_open_fds", "files", "Its open files", "training_host_sidecar_open_fds"),
        ("system/trainer_children_{reading}", "", "The same for their children (data loaders)"),
        ("system/gpu_{gpu}_utilization", "percent", "Time a kernel was running", "training_gpu_utilization_ratio",
         "0.01"),
        ("system/gpu_{gpu}_memory_utilization", "percent", "Time memory was read or written",
         "training_gpu_memory_utilization_ratio", "0.01"),
        ("system/gpu_{gpu}_memory_used_gb", "GB", "Device memory used", "training_gpu_memory_used_bytes", "1e9"),
        ("system/gpu_{gpu}_memory_free_gb", "GB", "Device memory free", "training_gpu_memory_free_bytes", "1e9"),
        ("system/gpu_{gpu}_memory_total_gb", "GB", "Device memory", "training_gpu_memory_total_bytes", "1e9"),
        ("system/gpu_{gpu}_power_watts", "watts", "Power drawn", "training_gpu_power_watts"),
        ("system/gpu_{gpu}_power_limit_watts", "watts", "Power limit in force", "training_gpu_power_limit_watts"),
        ("system/gpu_{gpu}_temperature_celsius", "celsius", "Core temperature", "training_gpu_temperature_celsius"),
        ("system/gpu_{gpu}_memory_temperature_celsius", "celsius", "Memory temperature",
         "training_gpu_memory_temperature_celsius"),
        ("system/gpu_{gpu}_sm_clock_hertz", "hertz", "Clock of the multiprocessors", "training_gpu_sm_clock_hertz"),
        ("system/gpu_{gpu}_memory_clock_hertz", "hertz", "Memory clock", "training_gpu_memory_clock_hertz"),
        ("system/gpu_{gpu}_sm_clock_max_hertz", "hertz", "The highest it may be", "training_gpu_sm_clock_max_hertz"),
        ("system/gpu_{gpu}_recovery_action", "", "What the driver asks for: 0 nothing, 1 reset, 2 reboot, ...",
         "training_gpu_recovery_action"),
        ("system/gpu_{gpu}_fan_percent", "percent", "Fan speed", "training_gpu_fan_ratio", "0.01"),
        ("system/gpu_{gpu}_pcie_link_generation", "", "PCIe generation in use", "training_gpu_pcie_link_generation"),
        ("system/gpu_{gpu}_pcie_link_width", "lanes", "PCIe lanes in use", "training_gpu_pcie_link_width"),
        ("system/gpu_{gpu}_throttle_{reason}_seconds", "seconds", "Time the clock was held down, by reason",
         "training_gpu_throttle_seconds_total"),
    ),
    *_group(
        "counter", "hardware",
        ("system/disk_read_bytes_total", "bytes", "Read from disks since boot", "training_host_disk_read_bytes_total"),
        ("system/disk_written_bytes_total", "bytes", "Written to disks since boot",
         "training_host_disk_written_bytes_total"),
        ("system/network_received_bytes_total", "bytes", "Received since boot",
         "training_host_network_received_bytes_total"),
        ("system/network_sent_bytes_total", "bytes", "Sent since boot", "training_host_network_sent_bytes_total"),
        ("system/network_errors_total", "packets", "Network errors since boot", "training_host_network_errors_total"),
        ("system/network_dropped_total", "packets", "Packets dropped since boot",
         "training_host_network_dropped_total"),
        ("system/gpu_{gpu}_energy_joules", "joules", "Energy since the driver was loaded",
         "training_gpu_energy_joules_total"),
        ("system/gpu_{gpu}_pcie_transmit_bytes_total", "bytes", "Sent over PCIe",
         "training_gpu_pcie_transmit_bytes_total"),
        ("system/gpu_{gpu}_pcie_receive_bytes_total", "bytes", "Received over PCIe",
         "training_gpu_pcie_receive_bytes_total"),
        ("system/gpu_{gpu}_pcie_replays_total", "", "PCIe transfers repeated", "training_gpu_pcie_replays_total"),
        ("system/gpu_{gpu}_ecc_corrected_errors_total", "", "Memory errors corrected",
         "training_gpu_ecc_corrected_errors_total"),
        ("system/gpu_{gpu}_ecc_uncorrected_errors_total", "", "Memory errors not corrected",
         "training_gpu_ecc_uncorrected_errors_total"),
    ),
    *_group(
        "gauge", "trainer",
        ("system/gpu_{gpu}_memory_allocated_gb", "GB", "Memory in tensors, from torch's allocator"),
        ("system/gpu_{gpu}_memory_reserved_gb", "GB", "Memory held by torch's allocator"),
        ("system/gpu_{gpu}_memory_peak_gb", "GB", "Highest allocated since the process began or the script reset it"),
        ("system/gpu_{gpu}_alloc_retries", "", "Allocations that needed a second attempt"),
        ("system/gpu_{gpu}_ooms", "", "Allocations that failed"),
    ),
)

INTERNALS = (
    *_group(
        "gauge", "trainer",
        ("gradients/global_norm", "", "train/grad_norm of the same step"),
        ("gradients/mean_norm", "", "Mean of the parameters' gradient norms"),
        ("gradients/max_norm", "", "Largest of them"),
        ("gradients/min_norm", "", "Smallest of them"),
        ("gradients/{layer}", "", "Gradient norm of one layer, sampled"),
        ("weights/global_mean", "", "Mean of all weights"),
        ("weights/global_std", "", "Standard deviation of all weights"),
        ("weights/{layer}/mean", "", "Mean of one layer's weights, sampled"),
        ("weights/{layer}/std", "", "Their standard deviation"),
        ("weights/{layer}/norm", "", "Their L2 norm"),
        ("updates/ratio", "ratio", "Length of a step's change over the length of the weights, sampled layers together"),
        ("updates/{layer}", "ratio", "The same for one layer"),
        ("activations/{layer}/mean", "", "Mean of one module's output, sampled"),
        ("activations/{layer}/std", "", "Its standard deviation"),
        ("activations/{layer}/max", "", "Its largest magnitude"),
        ("activations/{layer}/zero_ratio", "ratio", "Share of zeros in it"),
        ("shard/{name}", "", "What a watched model's sharded parameters say of this rank's shard alone"),
    ),
    *_group(
        "text", "trainer",
        ("gradients/max_norm_name", "", "The parameter whose gradient is largest, or the first that is NaN"),
    ),
    *_group(
        "histogram", "trainer",
        ("gradients/{layer}/histogram", "", "The gradient of one layer, in 64 bins"),
        ("weights/{layer}/histogram", "", "The weights of one layer, in 64 bins"),
        ("activations/{layer}/histogram", "", "The output of one module, in 64 bins"),
    ),
)

DATA = (
    *_group(
        "gauge", "trainer",
        ("data/total_samples", "samples", "Samples prepared"),
        ("data/avg_quality_score", "", "Mean quality score"),
        ("data/avg_code_length", "characters", "Mean length of code samples"),
        ("data/language_{language}", "samples", "Samples in one language"),
        ("data/language_{language}_percent", "percent", "Their share"),
        ("data/blocked_malicious", "samples", "Blocked as malicious"),
        ("data/blocked_secrets", "samples", "Blocked for secrets in them"),
        ("data/blocked_license", "samples", "Blocked for their licence"),
        ("data/blocked_total", "samples", "Blocked for any reason"),
        ("data/pass_rate", "percent", "100 x passed / (passed + blocked)"),
        ("data/unreadable", "samples", "Left out because they could not be read"),
        ("dataset/train_size", "samples", "Training samples"),
        ("dataset/eval_size", "samples", "Evaluation samples"),
        ("dataset/total_size", "samples", "Both"),
        ("dataset/train_eval_ratio", "", "Training over evaluation samples"),
        ("dataset/avg_tokens_per_sample", "tokens", "Mean tokens of a sample"),
        ("dataset/max_tokens", "tokens", "Longest sample"),
        ("dataset/min_tokens", "tokens", "Shortest sample"),
        ("dataset/train_shards", "files", "Shards that the training text is read from"),
        ("dataset/truncated_samples", "samples", "Cut to the longest length allowed"),
        ("dataset/dropped_samples", "samples", "Left out for their length"),
        ("dataset/{dataset}/samples", "samples", "Consumed in this step, this rank"),
        ("dataset/{dataset}/tokens", "tokens", "Consumed in this step, this rank"),
        ("dataset/{dataset}/loss", "nats", "Mean training loss of what this step consumed of it; joined over ranks, "
         "weighted by what counts"),
        ("dataset/{dataset}/loss_weight", "", "What counted in that loss: tokens, or samples; this rank"),
        ("dataset/loss_weight", "", "The same of all datasets together"),
    ),
    *_group(
        "gauge", "derived",
        ("dataset/{dataset}/samples_seen", "samples", "Consumed so far, all ranks", "training_dataset_samples_total"),
        ("dataset/{dataset}/tokens_seen", "tokens", "Consumed so far, all ranks", "training_dataset_tokens_total"),
        ("dataset/{dataset}/ratio", "ratio", "Its share of all samples", "training_dataset_share_ratio"),
        ("dataset/{dataset}/target_ratio", "ratio", "The share that was planned",
         "training_dataset_target_share_ratio"),
        ("dataset/{dataset}/coverage_percent", "percent", "Samples seen over its size; above 100 in later epochs",
         "training_dataset_coverage_ratio", "0.01"),
        ("dataset/{dataset}/epochs", "epochs", "Whole passes through it", "training_dataset_epochs"),
    ),
)

CONTINUOUS = (
    *_group(
        "gauge", "trainer",
        ("continuous/run_number", "", "Number of this run"),
        ("continuous/total_runs", "runs", "Runs completed"),
        ("continuous/last_trained_id", "", "Last database id trained on"),
        ("continuous/total_samples_trained", "samples", "Samples over all runs"),
        ("continuous/uptime_hours", "hours", "Since the continuous trainer started"),
        ("model/total_params", "parameters", "Parameters"),
        ("model/trainable_params", "parameters", "Parameters that are trained"),
        ("model/trainable_percent", "percent", "Their share"),
        ("model/lora_r", "", "Rank of LoRA adapters"),
        ("model/lora_alpha", "", "Their alpha"),
        ("hyperparams/batch_size", "samples", "Batch size"),
        ("hyperparams/learning_rate", "", "Peak learning rate"),
        ("hyperparams/max_length", "tokens", "Longest sequence"),
        ("checkpoint/seconds", "seconds", "Time a checkpoint took"),
        ("checkpoint/bytes", "bytes", "Its size"),
        ("custom/{name}", "", "Whatever a script likes to log"),
        ("code/{name}", "", "Number about code samples"),
    ),
    *_group(
        "text", "trainer",
        ("dataset/current", "", "The dataset that a script says it is reading"),
        ("model/name", "", "Name of the model"),
        ("checkpoint/name", "", "Name of a checkpoint"),
        ("sample/{prompt}", "", "Text generated for a prompt; stays on this machine unless allowed to leave"),
    ),
)

GROUPS: dict[str, tuple[Metric, ...]] = {
    "Training": TRAINING,
    "Validation and evaluation": VALIDATION,
    "Preferences, rewards and samples": PREFERENCES,
    "Progress": PROGRESS,
    "Performance": PERFORMANCE,
    "System": SYSTEM,
    "Model internals": INTERNALS,
    "Data": DATA,
    "Configuration, continuous training, the rest": CONTINUOUS,
}

METRICS: dict[str, Metric] = {metric.name: metric for group in GROUPS.values() for metric in group}

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
    "mfu": "train/mfu_reported",
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
"""Other documents' names for the same number -> the canonical name. Naming profiles read this table backwards."""

FIRST_DOCUMENT = (
    "train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/global_step",
    "train/tokens_per_second", "train/samples_per_second", "train/steps_per_second", "train/num_input_tokens_seen",
    "train/mfu_percent", "train/eta_minutes", "system/epoch_time",
)  # fmt: skip
"""The twelve names that every stage must show."""

SECOND_DOCUMENT = (
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
"""The 74 names of the second document; per-GPU, per-language and per-layer series counted once."""


def find(name: str) -> Metric | None:
    """The catalogue's entry for a name as it is logged: itself, an alias, or an instance of a pattern."""
    known = METRICS.get(name)
    if known is not None:
        return known
    if name in ALIASES:
        return METRICS[ALIASES[name]]
    for pattern, metric in _patterns():
        if pattern.fullmatch(name):
            return metric
    return None


@lru_cache(maxsize=20_000)
def unit_of(name: str) -> str | None:
    """The unit, None for what the catalogue does not know and for plain numbers."""
    metric = find(name)
    return metric.unit or None if metric is not None else None


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern[str], Metric]]:
    """The longest literal text first: data/language_{x}_percent before data/language_{x}."""
    named = [metric for metric in METRICS.values() if "{" in metric.name]
    named.sort(key=lambda metric: -len(re.sub(r"{[a-z]+}", "", metric.name)))
    return [(re.compile(re.sub(r"\\{[a-z]+\\}", ".+", re.escape(metric.name))), metric) for metric in named]


def prometheus_families() -> dict[str, Family]:
    """All Prometheus families by name, in the order of the document."""
    from sidecar.families import FAMILIES

    return FAMILIES


def family(name: str) -> Family | None:
    """The entry of a family as it is exposed; training_gpu_* and training_host_* that are new to us have none."""
    return prometheus_families().get(name)


def own_family_names() -> frozenset[str]:
    """Logged metrics with a family of their own: they need not appear under training_metric again."""
    return frozenset(m.name for m in METRICS.values() if m.prometheus is not None and "{" not in m.name)


def document() -> str:
    """docs/metrics.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "Made from `sidecar/metrics.py` by `python -m sidecar.metrics > docs/metrics.md`; do not edit."
    yield ""
    yield "W&B, TensorBoard, the API and the export share the names of the first tables. A name in braces stands for"
    yield "many. What is not known is absent, never 0. Prometheus names are in base units: a percentage is a ratio"
    yield "0..1 there, GB are bytes. Sources: *trainer* (sent by the training process), *derived* (computed by the"
    yield "sidecar), *hardware* (read by the sidecar). Everything logged that has no Prometheus name of its own is"
    yield '`training_metric{name="..."}`.'
    for title, metrics in GROUPS.items():
        yield from ("", f"## {title}", "", "| Name | Unit | Type | Source | Prometheus | Meaning |",
                    "|---|---|---|---|---|---|")
        for m in metrics:
            outside = f"`{m.prometheus}`" if m.prometheus else "-"
            yield f"| `{m.name}` | {m.unit or '-'} | {m.kind} | {m.source} | {outside} | {m.help} |"
    yield from ("", "## Prometheus families", "", "| Name | Type | Unit | Labels | Meaning |", "|---|---|---|---|---|")
    for f in prometheus_families().values():
        yield f"| `{f.name}` | {f.kind} | {f.unit or '-'} | {', '.join(f.labels) or '-'} | {f.help} |"
    yield from ("", "## Other names for the same number", "", "| Alias | Canonical name |", "|---|---|")
    for alias, name in ALIASES.items():
        yield f"| `{alias}` | `{name}` |"


if __name__ == "__main__":
    print(document(), end="")
