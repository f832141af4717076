"""Device scalars on a stand-in for an asynchronous device: copied when passed, never waited for, sent when there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sidecar
from sidecar import wire
from sidecar.client.device import TRANSFERS_MAX, DeviceScalars
from sidecar.client.run import Run
from sidecar.client.values import Unsupported
from tests.client.test_run import of_kind


class Tensor:
    """Raises on anything that would make the host wait."""

    is_cpu = False
    is_meta = False
    is_cuda = True

    def __init__(self, value: float) -> None:
        self.value = value

    def numel(self) -> int:
        return 1

    def _waits(self, *args: object) -> Any:
        raise AssertionError("this would synchronise the device")

    item = tolist = __float__ = cpu = __int__ = __bool__ = numpy = _waits


class Device:
    """Finishes copies when told to, in order."""

    def __init__(self) -> None:
        self.transfers: list[Copy] = []

    def copy(self, tensors: Sequence[Tensor]) -> "Copy":
        self.transfers.append(Copy([tensor.value for tensor in tensors]))
        return self.transfers[-1]

    def finish(self, count: int = 1000) -> None:
        for transfer in [transfer for transfer in self.transfers if not transfer.done][:count]:
            transfer.done = True


class Copy:
    def __init__(self, values: list[float]) -> None:
        self._values, self.done = values, False

    def ready(self) -> bool:
        return self.done

    def values(self) -> list[float]:
        assert self.done
        return self._values


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def run(tmp_path: Path, device: Device) -> Iterator[Run]:
    made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    made._emitter.device = DeviceScalars(device.copy)
    yield made
    made._emitter.pump.stop()
    if made._emitter.is_open:
        made._emitter.emit = made._emitter._after_finish
        made._emitter.ring.remove()


def test_a_step_enters_the_ring_at_once_and_is_completed_when_the_device_is_done(run: Run, device: Device) -> None:
    loss = Tensor(2.5)
    run.step(1, loss=loss, tokens=10, metrics={"aux": Tensor(0.5)})
    loss.value = 99.0  # The buffer is reused at once: the value was copied when it was passed.
    (step,) = of_kind(run, wire.Step)
    assert step.metrics == {"train/num_tokens": 10, wire.PENDING: 2}
    assert of_kind(run, wire.Completion) == []
    device.finish()
    run.step(2)
    (late,) = of_kind(run, wire.Completion)
    assert (late.seq, late.metrics) == (0, {"train/loss": 2.5, "aux": 0.5})


def test_completions_keep_the_order_of_their_records(run: Run, device: Device) -> None:
    for step in range(5):
        run.step(step, loss=Tensor(float(step)))
    device.transfers[3].done = True
    run.step(5)
    assert of_kind(run, wire.Completion) == []
    device.finish()
    run.step(6)
    assert [late.metrics["train/loss"] for late in of_kind(run, wire.Completion)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_nan_and_infinity_of_a_device_arrive_as_such(run: Run, device: Device) -> None:
    run.step(1, loss=Tensor(float("inf")), grad_norm=Tensor(float("nan")))
    device.finish()
    run.step(2)
    metrics = of_kind(run, wire.Completion)[0].metrics
    assert metrics["train/loss"] == float("inf")
    assert metrics["train/grad_norm"] != metrics["train/grad_norm"]


def test_log_takes_device_scalars_too(run: Run, device: Device) -> None:
    run.log({"val/loss": Tensor(1.25), "n": 3}, step=4)
    device.finish()
    run.step(5)
    assert of_kind(run, wire.Log)[0].metrics == {"n": 3, wire.PENDING: 1}
    assert of_kind(run, wire.Completion)[0].metrics == {"val/loss": 1.25}


def test_finish_gives_the_device_a_moment_and_a_hung_one_no_more_than_that(
    run: Run, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.client.emitter.DEVICE_SECONDS", 0.05)
    run.step(1, loss=Tensor(1.0))
    run.step(2, loss=Tensor(2.0))
    device.finish(1)
    run.finish(timeout_seconds=0.01)
    assert run.rejected.get("internal_error") is None


def test_a_device_that_never_finishes_costs_bounded_memory_and_is_counted(run: Run) -> None:
    for step in range(TRANSFERS_MAX + 10):
        run.step(step, loss=Tensor(1.0))
    assert run.rejected == {"device_too_late": 10}


def test_what_cannot_be_copied_is_counted_and_the_step_arrives(run: Run, device: Device) -> None:
    def refuse(tensors: Sequence[Tensor]) -> Copy:
        raise Unsupported("graph_capture")

    run._emitter.device = DeviceScalars(refuse)
    run.step(1, loss=Tensor(1.0), tokens=5)
    assert of_kind(run, wire.Step)[0].metrics == {"train/num_tokens": 5}
    assert run.rejected["graph_capture"] == 1


def test_one_tensor_that_cannot_be_copied_does_not_take_the_others_with_it(run: Run, device: Device) -> None:
    torch = pytest.importorskip("torch")
    vector = Tensor(1.0)
    vector.numel = lambda: 3  # type: ignore[method-assign]
    run.step(
        1, loss=Tensor(2.5), grad_norm=torch.empty((), device="meta"),
        metrics={"vector": vector, "stranger": SimpleNamespace(is_cpu=False)},
    )  # fmt: skip
    device.finish()
    run.step(2)
    assert of_kind(run, wire.Step)[0].metrics == {wire.PENDING: 1}
    assert of_kind(run, wire.Completion)[0].metrics == {"train/loss": 2.5}
    assert run.rejected == {"meta_tensor": 1, "not_a_scalar": 1, "unsupported_type": 1}


FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "uint8", "int32", "int64", "bool"])
def test_a_scalar_of_any_type_arrives_as_the_number_it_is(run: Run, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    value = torch.tensor(1.0, requires_grad=dtype == "float32").to(getattr(torch, dtype))
    run.step(1, loss=value, metrics={"one": value.reshape(1)})
    assert of_kind(run, wire.Step)[0].metrics == {"train/loss": 1.0, "one": 1.0}


class Spread(Tensor):
    """A tensor spread over ranks, of which this one has the value given."""

    def __init__(self, value: float, *, whole: bool) -> None:
        super().__init__(value)
        self.placements = [SimpleNamespace(is_replicate=lambda: whole, is_shard=lambda: False)]

    def to_local(self) -> Tensor:
        return Tensor(self.value)


def test_a_tensor_spread_over_ranks_is_taken_where_this_rank_has_it_whole(run: Run, device: Device) -> None:
    """The norm that clip_grad_norm_ returns under FSDP2 is whole; a partial sum is no number to show."""
    run.step(1, grad_norm=Spread(0.5, whole=True), loss=Spread(7.0, whole=False))
    device.finish()
    run.step(2)
    assert of_kind(run, wire.Completion)[0].metrics == {"train/grad_norm": 0.5}
    assert run.rejected == {"partial_tensor": 1}


@pytest.mark.gpu
def test_on_a_real_gpu_nothing_synchronises(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    run = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(50):
            loss = torch.full((), float(step), device="cuda", dtype=torch.bfloat16)
            run.step(step, loss=loss, grad_norm=loss * 2)
            loss.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    run.step(50)
    assert [late.metrics["train/loss"] for late in of_kind(run, wire.Completion)] == [float(s) for s in range(50)]
    run._emitter.ring.remove()


def test_a_device_that_fails_takes_neither_the_step_nor_the_end_of_the_run_with_it(run: Run, device: Device) -> None:
    def broken() -> bool:
        raise RuntimeError("CUDA error: device-side assert triggered")

    run.step(1, loss=Tensor(1.0), tokens=5)
    device.transfers[0].ready = broken  # type: ignore[method-assign]
    run.step(2)
    assert [late.metrics for late in of_kind(run, wire.Completion)] == [{"train/loss": None}]

    def refuse(tensors: Sequence[Tensor]) -> Copy:
        raise RuntimeError("CUDA error: out of memory")

    run._emitter.device = DeviceScalars(refuse)
    run.step(3, loss=Tensor(1.0), tokens=5)
    assert of_kind(run, wire.Step)[2].metrics == {"train/num_tokens": 5}
    assert run.rejected == {"device_copy_failed": 1}
