"""MFU: numerator, denominator, conventions, and what is not known."""

from typing import Any

import pytest

from sidecar import wire
from sidecar.derive.mfu import model_of
from sidecar.derive.snapshot import snapshot
from tests.derive.stream import Process, by_sidecar, derived, projected

SHAPE = {"layers": 4, "heads": 8, "head_dim": 64, "seq_len": 1024}
ATTENTION = 12 * 4 * 8 * 64 * 1024


def mfu_after(facts: dict[str, Any], *, tokens: int = 1000, step_seconds: float = 0.5, world: int = 1) -> Any:
    processes = [Process(rank, 10 + rank) for rank in range(world)]
    records = [p.step(step, step_seconds, tokens=tokens) for step in range(10) for p in processes]
    projector, rows = projected(records, *(p.hello(world_size=world, model_facts=facts) for p in processes))
    return derived(rows)[9], snapshot(projector.state, now_ns=processes[0].wall_ns)


def test_full_and_causal_follow_their_formulas() -> None:
    model = model_of({"params": 10_000_000, **SHAPE})
    assert model.flops_per_token == 6 * 10_000_000 + ATTENTION
    assert model.flops_per_token_causal == 6 * 10_000_000 + ATTENTION / 2
    assert "6N + 12LHQT" in model.convention


def test_llama_3_8b_at_8192_is_twelve_and_a_half_percent_apart_between_the_conventions() -> None:
    model = model_of({"matmul_params": 7_504_924_672, "layers": 32, "heads": 32, "head_dim": 128, "seq_len": 8192})
    assert model.flops_per_token is not None
    assert model.flops_per_token_causal == pytest.approx(51.5e9, rel=0.01)
    assert model.flops_per_token / model.flops_per_token_causal == pytest.approx(1.125, abs=0.001)


def test_frozen_weights_need_no_weight_gradient() -> None:
    model = model_of({"params": 1_000_000, "trainable_params": 10_000, **SHAPE})
    assert model.flops_per_token == 4 * 990_000 + 6 * 10_000 + ATTENTION
    assert "4N_frozen + 6N_trainable" in model.convention


def test_an_embedding_that_is_only_looked_up_multiplies_nothing() -> None:
    assert model_of({"params": 1000, "embedding_params": 400}).flops_per_token == 6 * 600
    assert model_of({"params": 1000, "embedding_params": 400, "tied_embeddings": True}).flops_per_token == 6 * 1000


def test_only_active_experts_count() -> None:
    assert model_of({"params": 1000, "active_params": 250}).flops_per_token == 1500


def test_a_given_number_wins_and_its_causal_sibling_is_known_when_the_shape_is() -> None:
    assert model_of({"flops_per_token": 5e9, "params": 3, **SHAPE}).flops_per_token == 5e9
    assert model_of({"flops_per_token": 5e9, **SHAPE}).flops_per_token_causal == 5e9 - ATTENTION / 2
    assert model_of({"flops_per_token": 5e9}).flops_per_token_causal is None


@pytest.mark.parametrize("device", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA L4"])
@pytest.mark.parametrize(("dtype", "column"), [("bfloat16", 0), ("torch.float16", 1), ("tf32", 2)])
def test_mfu_for_three_gpus_and_three_data_types(device: str, dtype: str, column: int) -> None:
    peaks = {"NVIDIA A100-SXM4-80GB": (312, 312, 156), "NVIDIA H100 80GB HBM3": (989.4, 989.4, 494.7),
             "NVIDIA L4": (121, 121, 60)}
    facts = {"flops_per_token": 6e9, "device_name": device, "dtype": dtype}
    metrics, shown = mfu_after(facts, tokens=10_000)
    expected = 100 * 6e9 * 20_000 / (peaks[device][column] * 1e12)
    assert metrics["train/mfu_percent"] == pytest.approx(expected, rel=1e-9)
    assert shown.mfu.source == "table"
    assert shown.mfu.denominator.dtype in ("bf16", "fp16", "tf32")


def test_the_denominator_has_one_device_for_each_rank_that_reports() -> None:
    facts = {"flops_per_token": 1e6, "peak_flops": 1e10, "peak_source": "measured"}
    one, shown = mfu_after(facts)
    two, shown_two = mfu_after(facts, world=2)
    assert one["train/mfu_percent"] == pytest.approx(20.0)
    assert two["train/mfu_percent"] == pytest.approx(20.0)
    assert (shown.mfu.denominator.devices, shown_two.mfu.denominator.devices) == (1, 2)
    assert shown.mfu.source == "measured"
    assert shown.mfu.value == pytest.approx(0.2)


def test_flops_are_flops_per_token_times_tokens_and_flops_per_second_is_mfu_times_peak() -> None:
    facts = {"flops_per_token": 123_456.789, "peak_flops": 1e10}
    metrics, shown = mfu_after(facts, world=2)
    assert metrics["train/flops_total"] == pytest.approx(123_456.789 * 20_000, rel=1e-9)
    assert shown.flops_total == pytest.approx(123_456.789 * 20_000, rel=1e-9)
    assert metrics["train/flops_per_second"] == pytest.approx(metrics["train/mfu_percent"] / 100 * 1e10 * 2, rel=1e-9)


@pytest.mark.parametrize(("facts", "word"), [
    ({}, "device"),
    ({"peak_flops": 1e12}, "FLOPs per token"),
    ({"flops_per_token": 1e9, "device_name": "Apple M9", "dtype": "bf16"}, "Apple M9"),
    ({"flops_per_token": 1e9, "device_name": "Tesla V100-SXM2-16GB", "dtype": "bf16"}, "bf16"),
    ({"flops_per_token": float("nan"), "peak_flops": -5}, "device"),
    ({"flops_per_token": "many", "peak_flops": True}, "device"),
])
def test_what_is_not_known_is_absent_with_a_reason(facts: dict[str, Any], word: str) -> None:
    metrics, shown = mfu_after(facts)
    assert "train/mfu_percent" not in metrics
    assert shown.mfu.value is None
    assert word in shown.mfu.reason


def test_no_tokens_no_mfu() -> None:
    p = Process()
    projector, _ = projected([p.step(1), p.step(2)], p.hello(model_facts={"flops_per_token": 1.0, "peak_flops": 1.0}))
    assert "tokens" in (snapshot(projector.state, now_ns=p.wall_ns).mfu.reason or "")


def test_more_than_all_of_the_peak_is_an_alert() -> None:
    _, shown = mfu_after({"flops_per_token": 1e9, "peak_flops": 1e9})
    assert shown.mfu.reason is not None
    assert "above 100 %" in shown.mfu.reason
    assert [alert.name for alert in shown.alerts] == ["mfu_above_one"]
    assert "which is impossible" in shown.verdict


def test_flops_sent_step_by_step_replace_the_constant() -> None:
    p = Process()
    records = [p.raw_step(i, {"train/flops": 5e9 * (1 + i % 2)}) for i in range(11)]
    projector, rows = projected(records, p.hello(model_facts={"peak_flops": 1e10}))
    assert derived(rows)[10]["train/mfu_percent"] == pytest.approx(75.0)
    assert derived(rows)[10]["train/flops_total"] == 5e9 * 16


def test_nvml_names_the_device_of_a_process_that_named_its_gpu() -> None:
    p = Process()
    hello = p.hello(gpu_uuids=["GPU-1"], model_facts={"flops_per_token": 1e9, "dtype": "bf16"})
    gpus = [{"uuid": "GPU-0", "index": 0, "name": "NVIDIA L4"}, {"uuid": "GPU-1", "index": 1, "name": "NVIDIA L40S"}]
    records = [p.step(0), by_sidecar(wire.Hardware(0, 0, gpus=gpus))]
    projector, _ = projected(records, hello)
    assert projector.state.model.peak_flops == 362e12


def test_a_cpu_run_beside_a_gpu_is_not_measured_by_the_gpu() -> None:
    p = Process()
    records = [p.step(0), by_sidecar(wire.Hardware(0, 0, gpus=[{"uuid": "G", "index": 0, "name": "NVIDIA L4"}]))]
    projector, _ = projected(records, p.hello(model_facts={"flops_per_token": 1e9, "dtype": "bf16"}))
    assert projector.state.model.peak_flops is None


def test_facts_that_come_later_count_from_then_on() -> None:
    p = Process()
    records = [p.step(0, tokens=10), p.step(1, tokens=10),
               p.record(wire.FactsChanged, facts={"flops_per_token": 1e3, "peak_flops": 1e5}), p.step(2, tokens=10)]
    _, rows = projected(records, p.hello())
    assert "train/mfu_percent" not in derived(rows)[1]
    assert derived(rows)[2]["train/mfu_percent"] == pytest.approx(10.0)
