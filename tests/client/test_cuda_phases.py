"""GPU times on a stand-in for torch.cuda, whose kernels finish when the test says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidecar
from sidecar import wire
from sidecar.client import allocator, cuda_phases
from sidecar.client.run import Run
from tests.client.test_run import of_kind


class Event:
    """Carries the number of the kernel before which it stands; refuses whatever would wait."""

    made = 0

    def __init__(self, gpu: "Gpu") -> None:
        self._gpu, self.at = gpu, -1
        Event.made += 1

    def record(self) -> None:
        self.at = self._gpu.queued_ms

    def query(self) -> bool:
        return 0 <= self.at <= self._gpu.done_ms

    def elapsed_time(self, end: "Event") -> float:
        assert self.query()
        assert end.query()
        return float(end.at - self.at)

    def synchronize(self) -> None:
        raise AssertionError("this would wait")


class Gpu:
    """torch.cuda, as far as we use it. Kernels are milliseconds in a queue."""

    def __init__(self) -> None:
        self.queued_ms = self.done_ms = 0
        self.capturing = False
        self.allocated = 2_000_000_000

    def Event(self, enable_timing: bool = False) -> Event:  # noqa: N802 - torch's own name.
        assert enable_timing
        return Event(self)

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def current_device(self) -> int:
        return 1

    def memory_stats_as_nested_dict(self, device: int) -> dict[str, Any]:
        assert device == 1
        sizes = {"current": self.allocated, "peak": 9_000_000_000}
        return {
            "allocated_bytes": {"all": sizes}, "reserved_bytes": {"all": {"current": 4_000_000_000}},
            "num_alloc_retries": 3, "num_ooms": 1,
        }  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(cuda_phases, "cuda", lambda: made)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    return made


@pytest.fixture
def run(tmp_path: Path, gpu: Gpu) -> Iterator[Run]:
    made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    yield made
    made._emitter.pump.stop()
    if made._emitter.is_open:
        made._emitter.emit = made._emitter._after_finish
        made._emitter.ring.remove()


def one_step(run: Run, gpu: Gpu, step: int, forward: int = 20, backward: int = 30, micro: int = 1) -> None:
    for _ in range(micro):
        with run.phase("forward"):
            gpu.queued_ms += forward
        with run.phase("backward"):
            gpu.queued_ms += backward
    run.step(step, loss=1.0)


def test_gpu_times_complete_the_step_they_belong_to_when_the_gpu_is_done(run: Run, gpu: Gpu) -> None:
    one_step(run, gpu, 1)
    one_step(run, gpu, 2, forward=7)
    first, second = of_kind(run, wire.Step)
    assert first.metrics == {"train/loss": 1.0, wire.PENDING: 2}
    assert {"forward", "backward"} == first.phases.keys()  # The host's clock goes along, for its own purposes.
    assert of_kind(run, wire.Completion) == []
    gpu.done_ms = 50
    run.log({"x": 1})
    (done,) = of_kind(run, wire.Completion)
    assert (done.seq, done.metrics) == (0, {"performance/forward_time_ms": 20, "performance/backward_time_ms": 30})
    gpu.done_ms = 1000
    run.log({"x": 1})
    assert of_kind(run, wire.Completion)[1].metrics["performance/forward_time_ms"] == 7


def test_the_sidecar_shows_the_gpus_time_not_the_hosts(run: Run, gpu: Gpu) -> None:
    from types import SimpleNamespace

    from sidecar.rows import Projector
    from tests.client.test_run import events

    for step in (1, 2):
        one_step(run, gpu, step)
        gpu.done_ms = gpu.queued_ms
    run.log({})
    projector = Projector("r")
    rows = []
    for seq, event in enumerate(events(run)):
        record = SimpleNamespace(row=seq, rank=0, session=1, seq=seq, received_ns=event.time_ns, event=event)
        rows += projector.feed(record)
    shown = {(row.kind, row.step): row.metrics for row in rows if row.step == 1}
    assert shown["step", 1]["performance/forward_time_ms"] == 20
    assert "performance/forward_time_ms" not in shown["derived", 1]


def test_a_script_may_come_to_its_gpu_after_some_steps(run: Run, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(cuda_phases, "cuda", lambda: None)
        run.step(1)
        assert run._instruments.may_have_gpu is False
        assert run._instruments.busy is False
    one_step(run, gpu, 2)  # It is looked for about once a second: only what lies before costs nothing.
    run._instruments.look_ns = 0
    one_step(run, gpu, 3)
    one_step(run, gpu, 4)
    assert [event.metrics.get(wire.PENDING) for event in of_kind(run, wire.Step)] == [None, None, None, 2]


def test_a_gpu_is_not_looked_for_in_each_phase(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cuda_phases, "cuda", lambda: None)
    monkeypatch.setattr(run._instruments.gpu_phases, "begin", lambda name, outer: asked.append(name))
    run.step(1)
    run._instruments.look_ns = 2**63
    for step in range(2, 10):
        with run.phase("forward"):
            pass
        run.step(step)
    assert asked == []


def test_micro_batches_add_up_and_nested_phases_count_once(run: Run, gpu: Gpu) -> None:
    one_step(run, gpu, 1, micro=3)
    with run.phase("backward"):
        gpu.queued_ms += 5
        with run.phase("forward"):  # Recomputation.
            gpu.queued_ms += 4
    run.step(2)
    gpu.done_ms = 10**6
    run.log({})
    first, second = (event.metrics for event in of_kind(run, wire.Completion))
    assert first == {"performance/forward_time_ms": 60, "performance/backward_time_ms": 90}
    assert second == {"performance/forward_time_ms": 4, "performance/backward_time_ms": 5}


def test_events_are_used_again(run: Run, gpu: Gpu) -> None:
    Event.made = 0
    for step in range(1, 50):
        one_step(run, gpu, step)
        gpu.done_ms = gpu.queued_ms
    assert Event.made <= 12


def test_nothing_is_recorded_into_a_graph_and_a_part_of_a_step_is_not_shown(run: Run, gpu: Gpu) -> None:
    with run.phase("forward"):
        gpu.queued_ms += 1
    gpu.capturing = True
    with run.phase("backward"):
        pass
    gpu.capturing = False
    run.step(1)
    assert of_kind(run, wire.Step)[0].metrics == {}
    with run.phase("forward"):
        gpu.capturing = True  # Begins before, ends within.
    gpu.capturing = False
    run.step(2)
    assert of_kind(run, wire.Step)[1].metrics == {}
    assert run.rejected == {}


def test_very_many_micro_batches_fall_back_to_the_hosts_clock(run: Run, gpu: Gpu) -> None:
    one_step(run, gpu, 1, micro=cuda_phases.SPANS_MAX)
    assert of_kind(run, wire.Step)[0].metrics == {"train/loss": 1.0}


def test_a_failing_event_is_counted_and_the_loop_goes_on(run: Run, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Event) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(Event, "record", broken)
    one_step(run, gpu, 1)
    assert len(of_kind(run, wire.Step)) == 1
    assert run.rejected == {"failed_gpu_phase": 2}


def test_the_allocators_books_ride_on_every_tenth_step_under_the_gpus_own_number(run: Run, gpu: Gpu) -> None:
    for step in range(1, 21):
        run.step(step)
    found = {event.step: event.metrics for event in of_kind(run, wire.Step) if event.metrics}
    assert found.keys() == {10, 20}
    assert found[10] == {
        "system/gpu_6_memory_allocated_gb": 2.0, "system/gpu_6_memory_reserved_gb": 4.0,
        "system/gpu_6_memory_peak_gb": 9.0, "system/gpu_6_alloc_retries": 3, "system/gpu_6_ooms": 1,
    }  # fmt: skip


def test_what_an_allocator_does_not_say_is_absent(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "memory_stats_as_nested_dict", lambda device: {"num_ooms": 0}, raising=False)
    assert allocator.readings(gpu, {}) == {"system/gpu_1_ooms": 0}
    monkeypatch.setattr(gpu, "memory_stats_as_nested_dict", lambda device: {}, raising=False)
    assert allocator.readings(gpu, {}) == {}


@pytest.mark.parametrize(
    ("visible", "index"), [("", 1), ("4,6", 6), ("GPU-aa,GPU-bb", 1), ("3", 1), ("0,MIG-x", 1), (" 5 , 7 ", 7)]
)
def test_devices_are_numbered_as_nvml_numbers_them(visible: str, index: int) -> None:
    assert allocator.nvml_index(1, {"CUDA_VISIBLE_DEVICES": visible}) == index


def test_without_cuda_the_hosts_clock_is_all_there_is(tmp_path: Path) -> None:
    run = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    with run.phase("forward"):
        pass
    run.step(1)
    (event,) = of_kind(run, wire.Step)
    assert event.metrics == {}
    assert event.phases["forward"] > 0
    assert run._instruments.busy is False
    run._emitter.ring.remove()


class Arrives:
    """A histogram vector on a device that is not done yet."""

    is_cpu = False
    isfinite = detach = lambda self: self

    def __init__(self) -> None:
        self.done, self.size = False, 4

    def ready(self) -> bool:
        return self.done

    def values(self) -> list[float]:
        return [0.0, 2.0, 3.0, 4.0]


def test_bins_of_a_device_are_sent_when_they_are_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = Arrives()
    monkeypatch.setattr("sidecar.client.histogram.packed", lambda given, bins: given)
    monkeypatch.setattr("sidecar.client.instruments.send", lambda given: given)
    run.histogram("weights/w", vector, step=3, bins=2)
    run.step(4)
    assert of_kind(run, wire.Histogram) == []
    vector.done = True
    run.step(5)
    (event,) = of_kind(run, wire.Histogram)
    assert (event.step, event.name, event.edges, event.counts) == (3, "weights/w", [0.0, 1.0, 2.0], [3.0, 4.0])


@pytest.mark.gpu
def test_on_a_real_gpu_phases_probes_and_bins_never_synchronise(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.randn(32, 64, device="cuda")
    run = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    run.watch(model, optimizer, every=2, histograms=True, activations=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 9):
            with run.phase("forward"):
                loss = model(x).square().mean()
            with run.phase("backward"):
                loss.backward()
            with run.phase("optimizer"):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
                optimizer.step()
            optimizer.zero_grad()
            run.step(step, loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    run.step(9)
    assert run.rejected == {}
    names = {name for event in of_kind(run, wire.Completion) for name in event.metrics}
    assert {"gradients/global_norm", "weights/global_std", "performance/forward_time_ms", "train/loss"} <= names
    assert {event.name for event in of_kind(run, wire.Histogram)} >= {"weights/0.weight/histogram"}
    run._emitter.ring.remove()


def test_a_device_that_has_failed_does_not_take_the_step_with_it(run: Run, gpu: Gpu) -> None:
    with run.phase("forward"):
        pass

    class Failed:
        def query(self) -> bool:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    (span,) = run._instruments.gpu_phases._spans
    span.end = Failed()
    run.step(1, loss=2.0)
    (step,) = of_kind(run, wire.Step)
    assert step.metrics["train/loss"] == 2.0
    assert run.rejected == {"failed_gpu_phase": 1}
