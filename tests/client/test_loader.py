"""A timed loader is the loader, with a clock on the waiting; a timed optimizer is left as it is."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidecar
from sidecar import wire
from sidecar.client.run import Run
from tests.client.test_run import of_kind


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    yield made
    made._emitter.pump.stop()
    if made._emitter.is_open:
        made._emitter.emit = made._emitter._after_finish
        made._emitter.ring.remove()


class Loader:
    """Waits before each batch, as one whose workers are slow."""

    batch_size = 4

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.epoch = seconds, 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        for batch in range(3):
            time.sleep(self.seconds)
            yield batch

    def __getitem__(self, index: int) -> int:
        return 10 * index


def test_the_wait_for_each_batch_is_the_data_wait_of_its_step(run: Run) -> None:
    for step, _ in enumerate(run.data(Loader(0.05)), 1):
        time.sleep(0.02)  # Work is no waiting.
        run.step(step)
    waits = [event.phases["data_wait"] for event in of_kind(run, wire.Step)]
    assert len(waits) == 3
    assert all(0.05 <= wait < 5 for wait in waits)


def test_work_between_batches_is_not_waiting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**12, 10**9))  # Each look at the clock finds one second gone.
    monkeypatch.setattr("sidecar.client.phase.monotonic_ns", lambda: next(clock))
    batches = iter(run.data([1, 2]))
    for _ in batches:
        for _ in range(50):
            next(clock)
        break
    assert run._take_phases() == {"data_wait": 2.0}  # One second for the iterator, one for the batch.


def test_length_attributes_items_and_truth_are_the_loaders_own(run: Run) -> None:
    loader = Loader()
    timed = run.data(loader)
    timed.epoch = 5
    assert (len(timed), timed.batch_size, timed[2], bool(timed), loader.epoch) == (3, 4, 20, True, 5)
    assert list(timed) == [0, 1, 2]
    assert list(timed) == [0, 1, 2]
    assert not run.data([])
    assert 3 in run.data([3])
    with pytest.raises(AttributeError):
        _ = timed.nonsense


def test_what_has_no_length_has_none_and_an_iterator_stays_one(run: Run) -> None:
    timed = run.data(iter([1, 2, 3]))
    with pytest.raises(TypeError):
        len(timed)
    assert bool(timed)
    assert next(timed) == 1
    assert list(timed) == [2, 3]
    with pytest.raises(StopIteration):
        next(timed)


def test_exceptions_of_the_loader_pass_and_no_phase_stays_open(run: Run) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    batches = iter(run.data(broken()))
    assert next(batches) == 1
    with pytest.raises(OSError, match="disk"):
        next(batches)
    with pytest.raises(TypeError, match="not iterable"):
        iter(run.data(5))
    assert run._open_phases.stack == []


def test_a_real_loader_with_workers_gives_what_it_would_give(run: Run) -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(10))
    loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=torch.utils.data.SequentialSampler(data))
    timed = run.data(loader)
    assert [batch[0].tolist() for batch in timed] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert timed.sampler is loader.sampler
    assert len(timed) == 3


def stepped(optimizer: Any, parameter: Any, torch: Any) -> None:
    parameter.grad = torch.ones(2)
    optimizer.step()


def test_the_time_of_an_optimizer_is_a_phase_and_its_step_is_left_alone(run: Run) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    before = optimizer.step.__func__
    timed = run.time_optimizer(optimizer)
    assert optimizer.step.__func__ is before
    stepped(optimizer, parameter, torch)
    run.step(1)
    timed.remove()
    stepped(optimizer, parameter, torch)
    run.step(2)
    first, second = of_kind(run, wire.Step)
    assert first.phases["optimizer"] > 0
    assert second.phases == {}


def test_an_optimizer_that_raises_leaves_no_phase_open_beyond_the_next_step(run: Run) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    run.time_optimizer(optimizer)

    def closure() -> float:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        optimizer.step(closure)
    stepped(optimizer, parameter, torch)
    assert run._open_phases.stack == []


def test_wrappers_of_optimizers_are_seen_through_and_others_counted(run: Run) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(2))

    class Wrapper:
        def __init__(self) -> None:
            self.optimizer = torch.optim.SGD([parameter], lr=0.1)

        def step(self) -> None:
            self.optimizer.step()

    wrapped = Wrapper()
    run.time_optimizer(wrapped)
    stepped(wrapped, parameter, torch)
    assert "optimizer" in run._take_phases()
    run.time_optimizer(object()).remove()
    assert run.rejected == {"bad_optimizer": 1}
