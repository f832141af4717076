"""Threads, forks and signals that come at the worst moment."""

import array
import contextlib
import dis
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import sidecar
from sidecar import wire
from sidecar.client.device import DeviceScalars
from sidecar.client.emitter import Emitter
from sidecar.client.run import Run
from sidecar.ring import Ring
from tests.client.test_run import events, of_kind


class Transfer:
    """Asking it lets other threads run, as asking a CUDA event does."""

    def __init__(self, number: int) -> None:
        self._number = number

    def ready(self) -> bool:
        time.sleep(0)
        return True

    def values(self) -> list[float]:
        time.sleep(0)
        return [float(self._number)]


def test_device_values_asked_for_by_several_threads_arrive_once_each() -> None:
    scalars, count = DeviceScalars(), 2000
    scalars.outstanding.extend((number, ["loss"], Transfer(number)) for number in range(count))
    found: list[tuple[int, dict[str, Any]]] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            found.extend(scalars.arrived())
        except Exception as error:  # noqa: BLE001 - To be seen by the test, whatever it is.
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(found, key=lambda entry: entry[0]) == [(n, {"loss": float(n)}) for n in range(count)]


def test_ctrl_c_while_a_device_is_asked_loses_no_value() -> None:
    class Interrupted(Transfer):
        interrupt = True

        def ready(self) -> bool:
            if self.interrupt:
                self.interrupt = False
                raise KeyboardInterrupt
            return True

    scalars = DeviceScalars()
    scalars.outstanding.extend([(1, ["loss"], Transfer(1)), (2, ["loss"], Interrupted(2))])
    found: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(seq for seq, _ in scalars.arrived())
    assert found == [1]
    assert list(scalars.arrived()) == [(2, {"loss": 2.0})]


class InterruptedLock:
    """Ctrl-C comes right after the lock was taken, before anybody could know."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.interrupt = True

    def acquire(self, *given: Any, **named: Any) -> bool:
        taken: bool = self._lock.acquire(*given, **named)
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
        return taken

    def release(self) -> None:
        self._lock.release()


@pytest.mark.parametrize("way", ["step", "long text"])
def test_ctrl_c_in_the_middle_of_a_call_reaches_the_loop_and_stalls_nothing_after_it(run: Run, way: str) -> None:
    real = run._emitter.lock
    run._emitter.lock = InterruptedLock(real)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        run.step(1) if way == "step" else run.text("t", "x" * 300_000)
    assert not real.locked()
    run.step(2)
    assert [event.step for event in of_kind(run, wire.Step)] == [2]


def test_an_end_that_meets_a_held_lock_is_stored_before_the_flush(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    emitter, kept = run._emitter, []
    real = emitter.lock

    class HeldOnce:
        """As if the pump held it at the moment of the last event."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            return False if not blocking else real.acquire(timeout=timeout)

        def release(self) -> None:
            real.release()

    emitter.lock = HeldOnce()  # type: ignore[assignment]
    monkeypatch.setattr(emitter.pump, "flush", lambda timeout: kept.extend(events(run)) or False)
    run.finish(timeout_seconds=0)
    assert [type(event) for event in kept] == [wire.Finished]


class AtPlace:
    """Does something at the n-th place of a call on the run where Python handles signals, as a handler would."""

    def __init__(self, place: int, functions: set[Any], action: Callable[[], None]) -> None:
        self._left, self._codes = place, {function.__code__ for function in functions}
        self._action = action
        self.done = False

    def __enter__(self) -> "AtPlace":
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *failure: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, kind: str, value: object) -> Any:
        if frame.f_code not in self._codes:
            return None
        frame.f_trace_opcodes = True
        names = {found.offset: found.opname for found in dis.get_instructions(frame.f_code)}
        last = ""

        def each(frame: FrameType, kind: str, value: object) -> Any:
            nonlocal last
            if kind == "opcode":
                if last.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and frame.f_locals.get("self") is not None:
                    self._left -= 1
                    if self._left < 0 and not self.done:
                        self.done = True
                        self._action()
                last = names[frame.f_lasti]
            return each

        return each


CALLS_TO_END_IN: dict[str, Callable[[Run], object]] = {
    "a step": lambda run: run.step(2),
    "a long text": lambda run: run.text("t", "x" * 100_000),
    "a row that may change": lambda run: run._hold(wire.Log(1, 1, 2, {})),
}


@pytest.mark.parametrize("name", CALLS_TO_END_IN)
def test_an_end_in_a_signal_handler_within_a_call_stores_that_call_and_the_end_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.client.emitter.LOCK_SECONDS", 0.01)
    monkeypatch.setenv("SIDECAR_RING_MB", "4")
    functions = {Emitter._to_ring, Emitter._put, Emitter.hold, Ring.append, Ring.append_unsettled}
    expected = {"a step": [wire.Step], "a long text": [wire.Part] * 3, "a row that may change": []}[name]
    within = 0
    for place in range(1000):
        run = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
        lock, kept = run._emitter.lock, []

        def flush(timeout: float, run: Run = run, kept: list[type] = kept) -> bool:
            assert not run._emitter.lock.locked()  # The pump could not go on.
            kept.extend(type(event) for event in events(run))
            return True

        monkeypatch.setattr(run._emitter.pump, "flush", flush)
        held: list[bool] = []

        def end(run: Run = run, held: list[bool] = held) -> None:
            held.append(run._emitter.lock.locked())
            run.finish("failed", reason="SIGTERM")

        with AtPlace(place, functions, end) as at:
            CALLS_TO_END_IN[name](run)
        assert not lock.locked()
        if not at.done:
            run.finish()
            break
        within += held[0]
        kept = kept[-len(expected) - 1 :] if wire.Part in expected else kept  # Its first parts may be there twice.
        assert kept == [*expected, wire.Finished] if held[0] else kept[-1:] == [wire.Finished], (place, kept, held)
        assert run.rejected in ({}, {"after_finish": 1}), place
    assert within >= 4


STORING = {Emitter._to_ring, Emitter._store_deferred, Emitter._follow_up, Ring.append, Ring.append_unsettled}


def defer(run: Run, *steps: int) -> None:
    """As though another thread stored something at that moment."""
    with run._emitter.lock:
        for step in steps:
            run.step(step)
        run.text("t", "x" * 100_000)


@pytest.mark.parametrize("handler", ["raises", "ends the run"])
def test_what_was_deferred_is_stored_once_whatever_a_signal_handler_does_meanwhile(
    handler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.client.emitter.LOCK_SECONDS", 0.01)
    monkeypatch.setenv("SIDECAR_RING_MB", "1")
    places = 0
    for place in range(1000):
        run = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
        run._emitter.pump.stop()
        found: list[Any] = []

        def act(run: Run = run, found: list[Any] = found) -> None:
            if handler == "raises":
                raise KeyboardInterrupt
            run.finish()

        def flush(timeout: float, run: Run = run, found: list[Any] = found) -> bool:
            found.extend(event for event in events(run) if not isinstance(event, wire.ClientReport))
            return True

        monkeypatch.setattr(run._emitter.pump, "flush", flush)
        defer(run, 1, 2)
        with contextlib.suppress(KeyboardInterrupt), AtPlace(place, STORING, act) as at:
            run.step(3)
        if handler == "raises":
            run.step(4)
        run.finish()
        steps = [event.step for event in found if isinstance(event, wire.Step)]
        parts = [event.index for event in found if isinstance(event, wire.Part)]
        assert parts == [0, 1, 2], (place, parts)
        later = [4] if handler == "raises" else []
        assert steps in ([1, 2, 3, *later], [1, 2, *later] if at.done else []), place  # The call itself may be cut off.
        assert set(run.rejected) <= {"after_finish"}, place
        if not at.done:
            break
        places += 1
    assert places >= 20


def test_a_signal_during_the_end_does_not_end_it_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = []
    again = run.finish
    monkeypatch.setattr(run._instruments, "close", lambda: again("failed", reason="SIGTERM"))
    monkeypatch.setattr(run._emitter, "finish", lambda event, limit: finished.append(event.state))
    run.finish()
    assert finished == ["finished"]
    assert run.rejected == {}


def test_a_child_forked_while_a_call_was_under_way_lets_go_of_every_run(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    with run._counts:
        child = os.fork()
        if child == 0:
            for each in (run, second):
                each.step(1)
                each.dataset("a", samples=1)
            os._exit(0 if run.rejected == second.rejected == {"in_forked_child": 1} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert events(second) == []
    assert "Exception ignored" not in capfd.readouterr().err
    second.finish(timeout_seconds=0)


def test_a_forked_child_that_reports_is_told_to_begin_its_own_run(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    child = os.fork()
    if child == 0:
        logging.getLogger("sidecar").addHandler(logging.StreamHandler(sys.__stderr__))
        run.step(1)
        run.step(2)
        os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr().err.count("forked after sidecar.init") == 1


WRONG_METRICS = [0.5, "text", array.array("d", [1.0, 2.0]), torch.zeros(3)]


@pytest.mark.parametrize("wrong", WRONG_METRICS, ids=lambda wrong: type(wrong).__name__)
def test_metrics_of_a_wrong_kind_do_not_take_the_step_with_them(run: Run, wrong: Any) -> None:
    run.step(1, loss=2.0, metrics=wrong)
    assert [event.metrics for event in of_kind(run, wire.Step)] == [{"train/loss": 2.0}]
    assert run.rejected == {"bad_metrics": 1}


def test_one_name_that_is_no_text_does_not_take_the_loss_on_a_device_with_it(run: Run) -> None:
    class OnDevice:
        is_cpu = False

    names: Any = {5: 1.0, wire.PENDING: 2, "good": 3.0}
    run._emitter.device._copy = lambda tensors: Transfer(7)
    import sidecar.client.device as device

    original, device.scalar = device.scalar, lambda value: value
    try:
        run.step(1, loss=OnDevice(), metrics=names)
        run.step(2)
    finally:
        device.scalar = original
    (completion,) = of_kind(run, wire.Completion)
    assert (completion.seq, completion.metrics) == (0, {"train/loss": 7.0})
    assert of_kind(run, wire.Step)[0].metrics == {"good": 3.0, wire.PENDING: 1}
    assert run.rejected == {"name_not_string": 1, "reserved_name": 1}
