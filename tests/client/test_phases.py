"""Phases: of one thread, of several at once, entered again, left late."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar import wire
from sidecar.client.run import Run
from tests.client.test_run import of_kind


def test_a_checkpoint_in_another_thread_takes_nothing_from_the_step_and_leaves_no_phase_open(run: Run) -> None:
    entered, leave = threading.Event(), threading.Event()

    def save() -> None:
        with run.phase("checkpoint"):
            entered.set()
            leave.wait(10)

    saver = threading.Thread(target=save)
    saver.start()
    assert entered.wait(10)
    with run.phase("forward"):  # Begins inside the checkpoint and ends after it.
        time.sleep(0.002)
        leave.set()
        saver.join()
    with run.phase("backward"):
        pass
    run.step(1)
    assert set(of_kind(run, wire.Step)[0].phases) == {"forward", "backward"}
    (checkpoint,) = of_kind(run, wire.PhaseExited)
    assert checkpoint.seconds >= 0.002, "the forward pass beside it is not inside it"


def test_a_phase_may_be_entered_again_and_inside_itself(run: Run) -> None:
    forward = run.phase("forward")
    with forward, run.phase("data_wait"):
        time.sleep(0.002)
    once = run._take_phases()
    assert once["data_wait"] >= 0.002 > once["forward"] >= 0
    with forward, forward, forward, run.phase("data_wait"):
        time.sleep(0.002)
    assert len(run._phase_times) == 4
    assert run._take_phases()["forward"] < 0.002
    assert run._open_phases.stack == []


def test_phases_of_a_loop_that_ends_no_step_are_added_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.client.phase.PHASE_TIMES_MAX", 10)
    monkeypatch.setattr("sidecar.client.phase.monotonic_ns", iter(range(0, 10**12, 10**9)).__next__)
    for _ in range(50):
        for name in ("forward", "backward"):
            with run.phase(name):
                pass
        assert len(run._phase_times) <= 10
    run.step(1)
    assert of_kind(run, wire.Step)[0].phases == {"forward": 50.0, "backward": 50.0}


def test_a_phase_that_is_left_without_being_entered_is_nothing(run: Run) -> None:
    run.phase("forward").__exit__(None, None, None)
    run.phase("data_wait").cancel()
    run.step(1)
    assert of_kind(run, wire.Step)[0].phases == {}


def test_a_phase_that_is_left_late_does_not_swallow_those_after_it(run: Run) -> None:
    def reading() -> Iterator[int]:
        with run.phase("evaluation"):
            yield 1
            yield 2

    reader = reading()
    next(reader)
    with run.phase("sampling"):
        reader.close()
    with run.phase("forward"):
        pass
    run.step(1)
    assert set(of_kind(run, wire.Step)[0].phases) == {"forward"}
    assert run._open_phases.stack == []


def test_what_several_threads_count_at_once_is_counted_exactly(run: Run) -> None:
    def read() -> None:
        for _ in range(500):
            run.dataset("a", samples=1, tokens=3)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        run.step(1)
        time.sleep(0.0005)
    run.step(2)
    taken = [event.datasets.get("a", (0, 0)) for event in of_kind(run, wire.Step)]
    assert (sum(samples for samples, _ in taken), sum(tokens for _, tokens in taken)) == (2000, 6000)


def test_a_count_that_a_device_still_computes_is_refused_rather_than_waited_for(run: Run) -> None:
    class OnDevice:
        is_cpu = False

        def __int__(self) -> int:
            raise AssertionError("this would wait for the device")

    device: Any = OnDevice()
    run.dataset("a", samples=1, tokens=device)
    run.checkpoint(1, bytes=device)
    run.dataset("b", samples=2**70)
    run.step(1, loss=1.0)
    assert of_kind(run, wire.Step)[0].datasets == {}
    assert run.rejected == {"bad_dataset": 2, "bad_checkpoint": 1}


def test_datasets_without_a_step_to_carry_them_are_bounded(run: Run) -> None:
    for number in range(2000):
        run.dataset(f"document {number}", samples=1)
    run.step(1)
    assert len(of_kind(run, wire.Step)[0].datasets) == 1024
    assert run.rejected == {"bad_dataset": 976}
