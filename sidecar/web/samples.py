"""From snapshots and telemetry to Prometheus samples: which number goes under which name with which labels.

Given: one RunSnapshot, or the Telemetry. Hands on: (name, labels, value) triples; names are the catalogue's.
Never: renders text, keeps state, or invents a value: what is unknown yields no sample, what is not finite stays so.
"""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from sidecar.metrics import FAMILIES, is_derived_family
from sidecar.snapshot import RunSnapshot
from sidecar.telemetry import LOSS_REASONS, REJECTION_REASONS, Telemetry

RUN_STATES = ("starting", "running", "stalled", "finished", "failed", "lost")
ENDED_STATES = frozenset({"finished", "failed", "lost"})
METRICS_PER_RUN_MAX = 1_000
DATASETS_PER_RUN_MAX = 200
REASONS_MAX = 100
LABEL_CHARS_MAX = 200
OTHER = "other"
NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Labels = dict[str, str]


class Sample(NamedTuple):
    name: str
    labels: Labels
    value: float


class Buckets(NamedTuple):
    """A classic histogram: cumulative (le, count) pairs, +Inf last, and the sum of all observations."""

    name: str
    labels: Labels
    cumulative: list[tuple[str, float]]
    total: float


SCALARS: dict[str, Callable[[RunSnapshot], Any]] = {
    "training_step": lambda run: run.step,
    "training_steps_total": lambda run: run.steps_total,
    "training_target_steps": lambda run: run.total_steps,
    "training_rework_steps": lambda run: run.rework_steps,
    "training_epoch": lambda run: run.epoch,
    "training_tokens_total": lambda run: run.tokens_total,
    "training_samples_total": lambda run: run.samples_total,
    "training_flops_total": lambda run: run.flops_total,
    "training_loss": lambda run: _stated(run.loss, run.loss_state),
    "training_loss_smoothed": lambda run: run.loss_smoothed,
    "training_perplexity": lambda run: run.perplexity,
    "training_learning_rate": lambda run: run.learning_rate,
    "training_grad_norm": lambda run: _stated(run.grad_norm, run.grad_norm_state),
    "training_tokens_per_second": lambda run: run.tokens_per_second,
    "training_samples_per_second": lambda run: run.samples_per_second,
    "training_steps_per_second": lambda run: run.steps_per_second,
    "training_flops_per_second": lambda run: run.flops_per_second,
    "training_eta_seconds": lambda run: run.eta.seconds,
    "training_progress_ratio": lambda run: _scaled(run.progress.step_percent, 0.01),
    "training_goodput_ratio": lambda run: run.goodput.ratio,
    "training_last_step_timestamp_seconds": lambda run: _scaled(run.last_step_ns, 1e-9),
    "training_start_timestamp_seconds": lambda run: _scaled(run.started_ns, 1e-9),
    "training_stall_limit_seconds": lambda run: run.stall_limit_seconds,
    "training_energy_joules_total": lambda run: run.energy_joules,
    "training_world_size": lambda run: run.world_size,
    "training_restarts_total": lambda run: run.restarts,
    "training_checkpoints_total": lambda run: run.checkpoints_total,
    "training_events_total": lambda run: run.events,
    "training_events_lost_total": lambda run: run.lost_events,
    "training_gpus_available": lambda run: int(run.gpu.available),
}
"""One number a run."""

RANK_SCALARS: dict[str, Callable[[Any], Any]] = {
    "training_rank_step": lambda rank: rank.step,
    "training_rank_last_step_age_seconds": lambda rank: rank.age_seconds,
    "training_rank_step_duration_seconds": lambda rank: rank.step_seconds,
    "training_rank_tokens_per_second": lambda rank: rank.tokens_per_second,
    "training_rank_up": lambda rank: int(rank.state in ("starting", "running")),
    "training_rank_sessions_total": lambda rank: rank.sessions,
}

TELEMETRY_SCALARS: dict[str, Callable[[Telemetry], Any]] = {
    "sidecar_start_timestamp_seconds": lambda telemetry: _scaled(telemetry.started_ns or None, 1e-9),
    "sidecar_events_total": lambda telemetry: telemetry.events_total,
    "sidecar_frames_total": lambda telemetry: telemetry.frames_total,
    "sidecar_duplicates_total": lambda telemetry: telemetry.duplicates_total,
    "sidecar_streams": lambda telemetry: telemetry.streams,
    "sidecar_rings_recovered_total": lambda telemetry: telemetry.rings_recovered_total,
    "sidecar_journal_bytes": lambda telemetry: telemetry.journal.bytes,
    "sidecar_journal_commits_total": lambda telemetry: telemetry.journal.commits_total,
    "sidecar_journal_commit_failures_total": lambda telemetry: telemetry.journal.commit_failures_total,
    "sidecar_journal_ok": lambda telemetry: int(telemetry.journal.state == "ok"),
}

SINK_SCALARS: dict[str, Callable[[Any], Any]] = {
    "sidecar_sink_up": lambda sink: int(sink.state == "ok"),
    "sidecar_sink_lag_events": lambda sink: sink.lag_events,
    "sidecar_sink_lag_seconds": lambda sink: sink.lag_seconds,
    "sidecar_sink_failures_total": lambda sink: sink.failures_total,
    "sidecar_sink_restarts_total": lambda sink: sink.restarts_total,
    "sidecar_sink_dead_letters_total": lambda sink: sink.dead_letters_total,
    "sidecar_sink_lost_rows_total": lambda sink: sink.lost_rows_total,
    "sidecar_sink_delivered_rows_total": lambda sink: sink.delivered_rows,
    "sidecar_sink_last_success_timestamp_seconds": lambda sink: _scaled(sink.last_success_ns, 1e-9),
}

COLLECTOR_SCALARS: dict[str, Callable[[Any], Any]] = {
    "sidecar_collector_success": lambda collector: int(collector.success),
    "sidecar_collector_duration_seconds": lambda collector: collector.duration_seconds,
    "sidecar_collector_last_success_timestamp_seconds": lambda collector: _scaled(collector.last_success_ns, 1e-9),
}

GPU_HEALTH_SCALARS: dict[str, Callable[[Any], Any]] = {
    "sidecar_gpu_lost": lambda gpu: int(gpu.lost),
    "sidecar_gpu_recovery_action": lambda gpu: gpu.recovery_action,
    "sidecar_gpu_ecc_uncorrected_errors_total": lambda gpu: gpu.ecc_uncorrected_errors_total,
}
"""For alerts, which must outlast the run: a GPU that fails usually ends it."""

RENAMED = {"cpu_count": "cpus", "cpu_available": "cpus_available", "energy_joules": "energy_joules_total"}
"""Fields whose name would break a Prometheus rule: _count is a histogram's, a counter ends in _total."""
GPU_INFO_LABELS = ("index", "name", "pci_bus_id", "driver_version", "parent_uuid", "mig_index")


def of_run(run: RunSnapshot, own_names: frozenset[str] = frozenset()) -> Iterator[Sample | Buckets]:
    """Everything exported of one run. ``own_names``: logged metrics that have a family of their own."""
    label = {"run": label_value(run.run_id)}
    yield Sample("training_run_info", label | _texts(
        project=run.project, name=run.name, stage=run.stage, group=run.group), 1)
    for state in RUN_STATES:
        yield Sample("training_run_state", label | {"state": state}, float(run.state == state))
    yield from _scalars(SCALARS, run, label)
    yield from _attention(run, label)
    yield from _histogram(run, label)
    for state, seconds in run.goodput.seconds.items():
        yield Sample("training_state_seconds_total", label | {"state": label_value(state)}, seconds)
    for phase, spent in _bounded(run.phases.items()):
        yield Sample("training_phase_seconds_total", label | {"phase": label_value(phase)}, spent.seconds_total)
    yield from _datasets(run, label)
    for rank in run.ranks:
        yield from _scalars(RANK_SCALARS, rank, label | {"rank": str(rank.rank)})
    for alert in {alert.name: alert for alert in run.alerts if alert.active}.values():
        yield Sample("training_alert_active", label | _texts(alert=alert.name, severity=alert.severity), 1)
    for reason, count in _folded(run.rejected).items():
        yield Sample("training_values_rejected_total", label | {"reason": reason}, count)
    yield from _logged(run, label, own_names)
    if run.state not in ENDED_STATES:  # Nobody reads the hardware for a run that has ended: absent beats stale.
        yield from _gpus(run, label)
        yield from _readings("training_host_", run.host, label)


def of_telemetry(telemetry: Telemetry) -> Iterator[Sample]:
    """Everything the sidecar exports about itself."""
    yield Sample("sidecar_build_info", _texts(version=telemetry.version), 1)
    yield from _scalars(TELEMETRY_SCALARS, telemetry, {})
    by_reason: tuple[tuple[str, Mapping[str, int]], ...] = (
        ("sidecar_events_lost_total", dict.fromkeys(LOSS_REASONS, 0) | telemetry.events_lost_total),
        ("sidecar_frames_rejected_total", dict.fromkeys(REJECTION_REASONS, 0) | telemetry.frames_rejected_total),
        ("sidecar_rings_refused_total", telemetry.rings_refused_total),
    )
    for name, counts in by_reason:
        for reason, count in _folded(dict(counts)).items():
            yield Sample(name, {"reason": reason}, count)
    for sink, health in sorted(dict(telemetry.sinks).items()):
        yield from _scalars(SINK_SCALARS, health, {"sink": label_value(sink)})
    for name, collector in sorted(dict(telemetry.collectors).items()):
        yield from _scalars(COLLECTOR_SCALARS, collector, {"collector": label_value(name)})
    for uuid, gpu in sorted(telemetry.gpus.items()):
        yield from _scalars(GPU_HEALTH_SCALARS, gpu, {"gpu": label_value(uuid)})


def series_dropped(run: RunSnapshot, own_names: frozenset[str] = frozenset()) -> int:
    """Logged metrics of this run that are beyond METRICS_PER_RUN_MAX."""
    return max(0, sum(1 for _ in _without_family(run, own_names)) - METRICS_PER_RUN_MAX)


@lru_cache(maxsize=20_000)
def label_value(text: str) -> str:
    """A label that is safe in a terminal, a page and a query. A name that had to be changed gets a hash: no mix-ups."""
    shown = "".join(char for char in text if unicodedata.category(char)[0] not in "C" and char not in "\u2028\u2029")
    if shown == text and len(text) <= LABEL_CHARS_MAX:
        return text
    mark = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{shown[:LABEL_CHARS_MAX - 9]}~{mark}"


def _scalars(table: Mapping[str, Callable[[Any], Any]], source: Any, label: Labels) -> Iterator[Sample]:
    for name, read in table.items():
        value = read(source)
        if value is not None:
            yield Sample(name, label, value)


def _attention(run: RunSnapshot, label: Labels) -> Iterator[Sample]:
    for attention, ratio in (("full", run.mfu.value), ("causal", run.mfu.causal_value)):
        if ratio is not None:
            yield Sample("training_mfu_ratio", label | {"attention": attention}, ratio)
    if run.mfu.denominator.peak_flops_per_device is not None:
        yield Sample("training_peak_flops_per_second", label | _texts(
            source=run.mfu.source, dtype=run.mfu.denominator.dtype), run.mfu.denominator.peak_flops_per_device)


def _histogram(run: RunSnapshot, label: Labels) -> Iterator[Buckets]:
    histogram = run.step_histogram
    if len(histogram.counts) != len(histogram.bounds_seconds) + 1:
        return
    cumulative, so_far = [], 0.0
    for bound, count in zip([*histogram.bounds_seconds, math.inf], histogram.counts, strict=True):
        so_far += count
        cumulative.append(("+Inf" if bound == math.inf else repr(float(bound)), so_far))
    yield Buckets("training_step_duration_seconds", label, cumulative, histogram.sum_seconds)


def _datasets(run: RunSnapshot, label: Labels) -> Iterator[Sample]:
    """Beyond the limit, counts are summed under ``other``; a mean or coverage of strangers would mean nothing."""
    mixture = list(run.dataset.mixture.items())
    for name, dataset in mixture[:DATASETS_PER_RUN_MAX]:
        labels = label | {"dataset": label_value(name)}
        yield Sample("training_dataset_tokens_total", labels, dataset.tokens_total)
        yield Sample("training_dataset_samples_total", labels, dataset.samples_total)
        for family, value in (("training_dataset_coverage_ratio", dataset.coverage),
                              ("training_dataset_share_ratio", dataset.ratio),
                              ("training_dataset_target_share_ratio", dataset.target_ratio),
                              ("training_dataset_epochs", dataset.epochs)):
            if value is not None:
                yield Sample(family, labels, value)
    rest = [dataset for _, dataset in mixture[DATASETS_PER_RUN_MAX:]]
    if rest:
        labels = label | {"dataset": OTHER}
        yield Sample("training_dataset_tokens_total", labels, sum(dataset.tokens_total for dataset in rest))
        yield Sample("training_dataset_samples_total", labels, sum(dataset.samples_total for dataset in rest))


def _logged(run: RunSnapshot, label: Labels, own_names: frozenset[str]) -> Iterator[Sample]:
    for name, value in islice(_without_family(run, own_names), METRICS_PER_RUN_MAX):
        yield Sample("training_metric", label | {"name": label_value(name)}, value)


def _without_family(run: RunSnapshot, own_names: frozenset[str]) -> Iterator[tuple[str, float]]:
    """A name such as dataset/{dataset}/ratio has a family only for what the sidecar computed, not if it was logged."""
    computed = frozenset(run.computed)
    for name, metric in run.metrics.items():
        if name not in own_names and not (name in computed and is_derived_family(name)):
            value = _stated(metric.value, metric.state)
            if value is not None:
                yield name, value


def _gpus(run: RunSnapshot, label: Labels) -> Iterator[Sample]:
    for gpu in run.gpus:
        labels = label | {"gpu": label_value(str(gpu.get("uuid") or f"index-{gpu.get('index')}"))}
        info = {field: gpu.get(field) for field in GPU_INFO_LABELS}
        yield Sample("training_gpu_info", labels | _texts(
            **{field: None if value is None else str(value) for field, value in info.items()}), 1)
        yield Sample("training_gpu_lost", labels, float(bool(gpu.get("lost"))))
        yield Sample("training_gpu_attributed", labels, float(bool(gpu.get("attributed"))))
        yield from _readings("training_gpu_", gpu, labels)
        for reason, seconds in (gpu.get("throttle_seconds") or {}).items():
            yield Sample("training_gpu_throttle_seconds_total", labels | {"reason": label_value(reason)}, seconds)
        for reason in gpu.get("throttle_reasons") or ():
            yield Sample("training_gpu_throttled", labels | {"reason": label_value(reason)}, 1)


@lru_cache(maxsize=1_000)
def _family_of(prefix: str, field: str) -> tuple[str, float] | None:
    """The family of a reading and what to multiply it by: readings come in base units but for percentages.

    None for a reading that the catalogue does not know: its type and meaning could only be guessed.
    """
    scale = 1.0
    name = RENAMED.get(field, field)
    if name.endswith("_percent"):
        name, scale = f"{name.removesuffix('_percent')}_ratio", 0.01
    return (prefix + name, scale) if prefix + name in FAMILIES else None


def _readings(prefix: str, readings: Mapping[str, Any], labels: Labels) -> Iterator[Sample]:
    for field, value in readings.items():
        family = _family_of(prefix, field) if _is_number(value) else None
        if family is not None:
            yield Sample(family[0], labels, value * family[1])


def _texts(**labels: str | None) -> Labels:
    return {name: label_value(text or "") for name, text in labels.items()}


def _bounded(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return list(items)[:REASONS_MAX]


def _folded(counts: Mapping[str, float]) -> dict[str, float]:
    """At most REASONS_MAX label values; the rest is summed under ``other``."""
    folded: dict[str, float] = {}
    for reason, count in counts.items():
        key = label_value(reason) if len(folded) < REASONS_MAX else OTHER
        folded[key] = folded.get(key, 0) + count
    return folded


def _stated(value: Any, state: str | None) -> float | None:
    if state is not None:
        return NON_FINITE.get(state)
    return value if _is_number(value) else None


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _is_number(value: Any) -> bool:
    return value.__class__ is float or value.__class__ is int
