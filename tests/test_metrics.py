"""The catalogue: complete, legal, and the same as its document."""

import re
from pathlib import Path

import msgspec

from sidecar import metrics
from sidecar.derive.derived import PHASE_TIMES
from sidecar.metrics import FAMILIES
from sidecar.metrics.__main__ import document
from sidecar.snapshot import RunSnapshot
from sidecar.telemetry import CollectorHealth, SinkHealth, Telemetry
from tests.derive.stream import Process, derived, projected

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
ASKED_FOR = (
    "training_run_info", "training_step", "training_steps_total", "training_tokens_total", "training_samples_total",
    "training_flops_total", "training_loss", "training_loss_smoothed", "training_learning_rate", "training_grad_norm",
    "training_step_duration_seconds", "training_tokens_per_second", "training_mfu_ratio", "training_eta_seconds",
    "training_last_step_timestamp_seconds", "training_state_seconds_total", "training_dataset_tokens_total",
    "training_dataset_coverage_ratio", "training_metric", "training_energy_joules_total", "sidecar_build_info",
    "sidecar_events_total", "sidecar_events_lost_total", "sidecar_frames_rejected_total", "sidecar_sink_lag_events",
    "sidecar_sink_failures_total", "sidecar_collector_success", "sidecar_collector_duration_seconds",
)  # fmt: skip


def test_the_document_is_what_the_catalogue_says() -> None:
    assert DOCUMENT.read_text() == document(), "run: python -m sidecar.metrics > docs/metrics.md"


def test_the_74_names_that_scripts_log_are_all_there() -> None:
    assert len(set(metrics.SCRIPT_NAMES)) == 74
    assert [name for name in metrics.SCRIPT_NAMES if metrics.find(name) is None] == []


def test_the_twelve_names_of_every_stage_are_all_there() -> None:
    assert [name for name in metrics.CORE_NAMES if name not in metrics.METRICS] == []


def test_every_metric_has_a_known_kind_and_source_and_a_meaning() -> None:
    for metric in metrics.METRICS.values():
        assert metric.kind in ("gauge", "counter", "text", "histogram"), metric
        assert metric.source in ("trainer", "derived", "hardware"), metric
        assert metric.help, metric
        assert "/" in metric.name, metric  # No name without a name space leaves the sidecar.
    assert len(metrics.METRICS) == sum(len(group) for group in metrics.GROUPS.values())


def test_prometheus_names_are_legal_and_follow_the_conventions() -> None:
    assert [name for name in ASKED_FOR if name not in FAMILIES] == []
    for family in FAMILIES.values():
        assert re.fullmatch(r"(training|sidecar)_[a-z0-9_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter"), family
        assert family.name.endswith("_info") == (family.kind == "info"), family
        assert not re.search(r"percent|_gb|_ms|minutes|_(count|sum|bucket)$", family.name), family
        assert all(re.fullmatch(r"[a-z_]+", label) for label in family.labels)


def test_every_prometheus_name_of_a_metric_is_a_family() -> None:
    named = {metric.prometheus for metric in metrics.METRICS.values() if metric.prometheus is not None}
    assert {name for name in named if "{" not in name} <= FAMILIES.keys()


def test_where_a_family_is_read_exists() -> None:
    """Paths end at the first free-form mapping (gpus, host, metrics)."""
    kinds = {"sinks": SinkHealth, "collectors": CollectorHealth}
    for family in FAMILIES.values():
        root, *path = family.read.split(".")
        kind: type | None = {"run": RunSnapshot, "sidecar": Telemetry}[root]
        for part in path:
            if kind is None:
                break
            fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
            assert part in fields, (family.name, part)
            kind = kinds.get(part) or (fields[part] if isinstance(fields[part], type) else None)
            if kind is not None and not issubclass(kind, msgspec.Struct):
                kind = None


def test_names_as_they_are_logged_are_found() -> None:
    expected = {
        "system/gpu_3_utilization": "system/gpu_{gpu}_utilization",
        "system/gpu_12_memory_utilization": "system/gpu_{gpu}_memory_utilization",
        "data/language_c": "data/language_{language}", "data/language_c_percent": "data/language_{language}_percent",
        "gradients/h.0.attn": "gradients/{layer}", "weights/h.0/mean": "weights/{layer}/mean",
        "dataset/GSM8K/coverage_percent": "dataset/{dataset}/coverage_percent", "eval/loss": "val/loss",
        "train/lr": "train/learning_rate", "val/mine": "val/{name}", "phase/evaluation": "phase/{phase}",
    }
    assert {name: getattr(metrics.find(name), "name", None) for name in expected} == expected
    assert metrics.find("nobody/knows") is None
    assert metrics.unit_of("system/gpu_3_utilization") == "percent"
    assert metrics.unit_of("nobody/knows") is None


def test_everything_the_sidecar_derives_is_in_the_catalogue() -> None:
    p = Process()
    facts = {"params": 10, "layers": 1, "heads": 1, "head_dim": 1, "seq_len": 1, "peak_flops": 1e9,
             "dataset_sizes": {"a": 5}}
    phases = dict.fromkeys(PHASE_TIMES, 0.1)
    records = [p.step(i, loss=1.0, tokens=2, samples=1, loss_tokens=1, epoch=i / 9, phases=phases,
                      datasets={"a": (1, 2)}) for i in range(1, 9)]
    _, rows = projected(records, p.hello(model_facts=facts, total_steps=9))
    names = derived(rows)[8].keys()
    assert [name for name in names if metrics.find(name) is None] == []
    catalogue = {name for name, metric in metrics.METRICS.items() if metric.source == "derived" and "{" not in name}
    assert catalogue <= names | {"train/loss", "train/epoch"}


def test_aliases_lead_to_catalogue_names_in_one_step() -> None:
    assert [alias for alias, name in metrics.ALIASES.items() if name not in metrics.METRICS] == []
