"""Stand-ins for the pipeline: a ``Views`` with the same methods, and snapshots with every field set."""

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

from sidecar.history import History
from sidecar.rows import Row
from sidecar.snapshot import (
    Alert,
    DatasetsView,
    DatasetView,
    Eta,
    Goodput,
    GpuState,
    MetricValue,
    Mfu,
    MfuDenominator,
    PhaseTime,
    Progress,
    RankView,
    RunSnapshot,
    StepHistogram,
    StepTime,
)
from sidecar.telemetry import CollectorHealth, GpuHealth, SinkHealth, Telemetry

BOUNDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]


class FakeViews:
    """Publishes what a test puts in."""

    def __init__(self, *snapshots: RunSnapshot, telemetry: Telemetry | None = None) -> None:
        self.version = 1
        self.telemetry = telemetry or make_telemetry()
        self.snapshots = {snapshot.run_id: snapshot for snapshot in snapshots}
        self.histories: dict[str, History] = {}
        self.earlier: list[Any] = []
        self.unpublished: RunSnapshot | None = None

    def publish(self, *snapshots: RunSnapshot) -> None:
        for snapshot in snapshots:
            newest_first = self.snapshots if snapshot.run_id in self.snapshots else {snapshot.run_id: snapshot}
            self.snapshots = newest_first | self.snapshots | {snapshot.run_id: snapshot}
        self.version += 1

    def are_behind(self) -> bool:
        return self.unpublished is not None

    def refresh(self) -> None:
        """Publish what a test has held back in ``unpublished``."""
        held_back, self.unpublished = self.unpublished, None
        if held_back is not None:
            self.publish(held_back)

    def run_ids(self) -> list[str]:
        return list(self.snapshots)

    def snapshot(self, run_id: str | None = None) -> RunSnapshot | None:
        if run_id is None:
            return next(iter(self.snapshots.values()), None)
        return self.snapshots.get(run_id)

    def history(self, run_id: str) -> History | None:
        return self.histories.setdefault(run_id, History()) if run_id in self.snapshots else None

    def is_loaded(self, run_id: str | None = None) -> bool:
        return True

    def runs(self) -> list[Any]:
        live = [SimpleNamespace(run_id=s.run_id, project=s.project, name=s.name, stage=s.stage, state=s.state,
                                last_step=s.step, started_ns=s.started_ns or 0) for s in self.snapshots.values()]
        return live + self.earlier


def make_telemetry() -> Telemetry:
    return Telemetry(
        started_ns=1_790_000_000_000_000_000, version="0.1.0", pid=4711, data_dir="/data/runs",
        http_url="http://127.0.0.1:9797", events_endpoint="ipc:///run/sidecar/events", events_total=12_840,
        frames_total=640, events_lost_total=Counter(), frames_rejected_total=Counter(bad_magic=2), streams=4,
        intake_latency_seconds=[0.01, 0.02, 0.11],
        sinks={
            "wandb": SinkHealth(state="offline", reason="no key: run `wandb login`, then `wandb sync`",
                                url="runs/wandb/offline-run-1", delivered_rows=12_800, lag_events=40,
                                lag_seconds=0.8, latency_seconds=[0.4, 0.5]),
            "tensorboard": SinkHealth(state="ok", delivered_rows=12_840, latency_seconds=[0.1, 0.2],
                                      last_success_ns=1_790_000_100_000_000_000),
        },
        collectors={"host": CollectorHealth(True, 0.002), "nvml": CollectorHealth(True, 0.004)},
        gpus={"GPU-0000": GpuHealth(False, 0, 3), "GPU-0001": GpuHealth(lost=True)},
    )


def make_snapshot(run_id: str = "nanochat-d12-1", *, step: int = 12_840, ranks: int = 4, gpus: int = 4,
                  metrics: int = 0, **changed: Any) -> RunSnapshot:
    """A running pretraining run, all fields set. ``metrics``: how many extra logged names."""
    logged = {"train/loss": 2.314, "train/aux_loss": 0.02, "val/loss": 2.41, "val/perplexity": 11.1,
              "train/lrm": 0.8} | {f"custom/metric_{i}": float(i) for i in range(metrics)}
    fields: dict[str, Any] = dict(  # noqa: C408 - half as many quotes.
        run_id=run_id, project="nanochat", name="d12", stage="pretrain", group="sweep-3", tags=["demo"],
        state="running", verdict="Training. Step 12,840 of 100,000, loss 2.31 and falling; 3 % slower than its own "
        "best, because rank 3 (node-0) waits on data.",
        started_at="2026-11-21T07:00:00Z", started_ns=1_790_000_000_000_000_000, elapsed_seconds=7_384.2,
        last_step_age_seconds=0.41, last_step_ns=1_790_007_384_000_000_000, stall_limit_seconds=30.0,
        step=step, total_steps=100_000, epoch=0.42, loss=2.314, loss_smoothed=2.327, perplexity=10.11,
        learning_rate=2.9e-4, grad_norm=0.71, tokens_per_second=412_000.0, samples_per_second=201.2,
        steps_per_second=1.74, tokens=step * 262_144, samples=step * 128, flops=3.1e18, flops_per_second=1.9e15,
        training_seconds=6_900.0, steps_total=step, tokens_total=step * 262_144, samples_total=step * 128,
        flops_total=3.1e18, checkpoints_total=12, world_size=ranks,
        step_time=StepTime(0.575, 0.571, 0.612, 0.9),
        step_histogram=StepHistogram(BOUNDS, [0] * 8 + [30, step - 42, 10, 2, 0, 0], step * 0.575),
        progress=Progress(12.84, 42.0, 61.2),
        mfu=Mfu(0.412, 41.2, "full attention, 6N + 12LHQT", 0.386, 38.6, None,
                MfuDenominator(989.4e12, ranks, "bfloat16", "NVIDIA H100 80GB HBM3"), "table", None),
        eta=Eta(50_100.0, 835.0, 13.9),
        goodput=Goodput(0.934, {"productive": 6_900.0, "checkpoint": 210.0, "evaluation": 160.0, "startup": 84.2,
                                "stalled": 30.0}),
        phases={"data_wait": PhaseTime(420.0, 0.03, step), "forward": PhaseTime(2_300.0, 0.19, step),
                "backward": PhaseTime(3_700.0, 0.29, step), "optimizer": PhaseTime(480.0, 0.04, step),
                "checkpoint": PhaseTime(210.0, 17.0, 12), "evaluation": PhaseTime(160.0, 13.0, 12)},
        val={"loss": 2.41, "perplexity": 11.1, "accuracy": 0.532},
        metrics={name: MetricValue(value, None, step, 0.4) for name, value in logged.items()},
        ranks=[RankView(rank, step - (rank == 3), 0.4 + 0.2 * (rank == 3), "running", rank + 1, 1, None,
                        103_000.0 - 4_000 * (rank == 3), 0.57 + 0.02 * (rank == 3), f"node-{rank // 8}", 100 + rank,
                        [f"GPU-{rank:04d}"]) for rank in range(ranks)],
        dataset=DatasetsView("fineweb-edu", {
            "fineweb-edu": DatasetView(1_200_000, 2_400_000_000, 0.713, 0.24, 5_000_000, 0, 0.7, 1_210_000,
                                       2_420_000_000),
            "smoltalk": DatasetView(300_000, 620_000_000, 0.184, 0.65, 460_000, 0, 0.2),
            "gsm8k": DatasetView(90_000, 346_000_000, 0.103, 12.04, 7_473, 12, 0.1)}),
        gpus=[make_gpu(index) for index in range(gpus)],
        gpu=GpuState(gpus > 0, None if gpus else "no NVIDIA driver: libnvidia-ml.so.1 was not found"),
        host={"cpu_percent": 41.0, "cpu_count": 128, "memory_used_bytes": 310 * 2**30, "memory_total_bytes": 2**40,
              "memory_percent": 30.3, "disk_free_bytes": 2.1 * 2**40, "disk_total_bytes": 4 * 2**40,
              "disk_percent": 47.5, "network_received_bytes_total": 1e12, "network_sent_bytes_total": 2e11,
              "trainer_processes": ranks, "trainer_memory_bytes": 40 * 2**30, "trainer_cpu_percent": 400.0,
              "trainer_cpu_percent@100": 100.0, "uptime_seconds": 1e6},
        energy_joules=18_400_000.0, config={"depth": 12, "lr": 3e-4}, model_facts={"params": 124_000_000},
        alerts=[Alert("loss_spike", "warning", "Loss rose to 3.9 at step 12,101 (usual range 2.2 to 2.5).", 12_101,
                      1_790_006_900_000_000_000, False, 1),
                Alert("straggler", "warning", "Rank 3 (node-0) is 3 % slower than the median.", 12_839,
                      1_790_007_380_000_000_000, True, 4)],
        rejected={"unsupported_type": 3}, lost_events=0, events=step + 40,
    )
    return RunSnapshot(**(fields | changed))


def make_gpu(index: int) -> dict[str, Any]:
    return {"index": index, "uuid": f"GPU-{index:04d}", "name": "NVIDIA H100 80GB HBM3",
            "pci_bus_id": f"0000:{index:02x}",
            "driver_version": "580.1", "utilization_percent": 97 - index, "memory_utilization_percent": 61,
            "memory_used_bytes": (61 + index) * 2**30, "memory_total_bytes": 80 * 2**30, "power_watts": 640.0 + index,
            "power_limit_watts": 700.0, "temperature_celsius": 61 + 5 * index, "sm_clock_hertz": 1.755e9,
            "sm_clock_max_hertz": 1.98e9, "energy_joules": 4.6e6, "fan_percent": 40,
            "throttle_reasons": ["sw_power_cap"] if index == 2 else [], "throttle_seconds": {"sw_power_cap": 12.5},
            "pcie_receive_bytes_total": 1e12, "ecc_uncorrected_errors_total": 0, "processes": [{"pid": 1}],
            "attributed": True}


def make_history(steps: int = 12_840, run_id: str = "nanochat-d12-1") -> History:
    """A plausible loss curve with one spike, validation every 200 steps, rates, and a NaN near the end."""
    history, noise = History(), random.Random(7)
    for step in range(1, steps + 1):
        loss = 2.1 + 8.5 * (step + 12) ** -0.32 + noise.gauss(0, 0.05) + (1.6 if step == int(steps * 0.62) else 0)
        warm = min(1.0, step / (steps * 0.05))
        metrics: dict[str, Any] = {
            "train/loss": loss, "train/learning_rate": 3e-4 * warm * (1 - 0.6 * step / steps),
            "train/grad_norm": 0.6 + 0.4 * warm / (1 + step / 800) + abs(noise.gauss(0, 0.06)),
        }
        derived = {"train/loss_ema": loss * 0.02 + 0.98 * (2.1 + 8.5 * (step + 12) ** -0.32),
                   "train/tokens_per_second": 412_000 + noise.gauss(0, 9_000) - (60_000 if step % 1_000 < 8 else 0),
                   "train/mfu_percent": 41.2 + noise.gauss(0, 0.5),
                   "performance/batch_time_ms": 575 + noise.gauss(0, 12),
                   "train/num_input_tokens_seen": step * 262_144}
        at = 1_790_000_000 + step * 0.575
        history.add(Row(run_id, 0, step, step, at, "step", metrics))
        history.add(Row(run_id, 0, step, step, at, "derived", derived))
        if step % 200 == 0:
            history.add(Row(run_id, 0, step, step, at, "log", {"val/loss": 2.2 + 8.6 * (step + 12) ** -0.32}))
    return history
