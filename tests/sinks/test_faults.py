"""Bad input and bad places: nobody else notices, the reason is shown, and nothing is lost."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sidecar import wire
from sidecar.rows import Row
from sidecar.sinks.base import Report, Sink, Unavailable
from sidecar.sinks.cursors import Cursors
from sidecar.sinks.deadletters import DeadLetters
from sidecar.sinks.runner import SinkRunner
from sidecar.sinks.source import Policy

from .harness import Manager, Run, until
from .test_files import values_of
from .test_runner import source_of
from .test_tensorboard import load, points
from .test_wandb_online import QUICK

HOUR_SECONDS = 3600.0
STEPS = 7200
"""One a second for two hours."""


class Clock:
    """Time that passes only when somebody waits. It stands still at the first hour until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.goes_on = threading.Event()

    @property
    def stands_still(self) -> bool:
        return self.seconds >= HOUR_SECONDS and not self.goes_on.is_set()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.seconds += seconds
        if self.stands_still:
            self.goes_on.wait(120.0)
        return event.wait(0.001)


class Away(Sink):
    """A far end that cannot be reached before an hour strikes."""

    def __init__(self, clock: Clock, until_seconds: float) -> None:
        self.clock, self.until_seconds = clock, until_seconds
        self.numbers: list[int] = []
        self.attempts = 0

    def open(self, run: object) -> Report:
        return Report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        self.attempts += 1
        if self.clock.seconds < self.until_seconds:
            raise Unavailable("no route to the far end; wait", retry_after_seconds=None)
        self.numbers += range(number, number + len(rows))


def test_an_outage_of_two_hours_loses_nothing_and_gathers_nothing_in_memory(tmp_path: Path) -> None:
    run, clock = Run(tmp_path), Clock()
    sink, cursors = Away(clock, 2 * HOUR_SECONDS), Cursors(tmp_path / "cursors.sqlite")
    policy = Policy(pace_seconds=0.0, poll_seconds=0.05)
    runner = SinkRunner(
        "run-1", "far", sink, lambda start: source_of(run, start), cursors,
        DeadLetters(tmp_path / "dead", "run-1", "far"), policy=policy, random=lambda: 0.5, wait=clock.wait,
    )  # fmt: skip
    runner.start()
    for first in range(0, STEPS, 100):
        run.emit(*(run.step_event(step, {}) for step in range(first, first + 100)))
    until(lambda: clock.stands_still, 60.0)  # However long the machine took: this is in the middle of the outage.
    assert runner.health.failures_total > 3
    held = runner._batch
    assert held is not None
    assert len(held.rows) < policy.batch_rows_max + policy.read_rows_max * 200  # Whole journal rows of 100 events.
    assert (runner.health.state, runner.health.reason) == ("failing", "no route to the far end; wait")
    clock.goes_on.set()
    until(lambda: len(sink.numbers) == 2 * STEPS, 60.0, lambda: str(runner.health))
    assert sink.numbers == list(range(2 * STEPS))
    assert 2 * HOUR_SECONDS / 60.0 < sink.attempts < 2 * HOUR_SECONDS / 10.0  # Neither stubborn nor idle.
    until(lambda: runner.health.state == "ok")
    assert runner.health.dead_letters_total == 0
    runner.stop()
    assert runner.join(10.0)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tensorboard"])
def test_a_full_disk_is_named_and_leaves_no_torn_line(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path)
    with Manager(run, kind, "parquet") as manager:
        run.steps(0, 4)
        manager.drain()
        with full_disk(manager, kind):
            run.steps(5, 9)
            manager.manager.notify("run-1")
            until(lambda: manager.health(kind).failures_total)
            assert "No space left on device" in manager.health(kind).reason
            manager.drain_one("parquet")
            assert manager.health("parquet").state == "ok"
        manager.drain()
    found = points(load(tmp_path), "train/loss") if kind == "tensorboard" else values_of(tmp_path, kind)
    assert found == [(step, pytest.approx(4.0 / (1 + step), rel=1e-6)) for step in range(10)]
    assert values_of(tmp_path, "parquet") == [(step, 4.0 / (1 + step)) for step in range(10)]


class full_disk:  # noqa: N801 - used like a function.
    """The sink's file takes half of what it is given, then nothing: what a full disk does."""

    def __init__(self, manager: Manager, kind: str) -> None:
        self.manager, self.kind = manager, kind
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        from sidecar.sinks import files, tensorboard

        name = "_write_all" if self.kind == "tensorboard" else "_write_or_undo"
        module = tensorboard if self.kind == "tensorboard" else files
        self.patch.setattr(module, name, failing(getattr(module, name)))

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


def failing(write: Callable[..., None]) -> Callable[..., None]:
    class Half:
        def __init__(self, file: object) -> None:
            self.file, self.left = file, 100

        def write(self, data: memoryview) -> int:
            if self.left <= 0:
                raise OSError(28, os.strerror(28))
            written = self.file.write(data[: self.left])
            self.left -= written
            return written

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    return lambda file, data: write(Half(file), data)


def test_a_name_that_does_not_resolve_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://no-such-host.invalid")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = Run(tmp_path)
    with Manager(run, "wandb", "jsonl", **(QUICK | {"wandb_init_seconds": 3.0})) as manager:
        run.steps(0, 4)
        manager.drain_one("jsonl")
        until(lambda: manager.health("wandb").failures_total, 60.0)
        assert manager.health("wandb").reason.startswith("W&B cannot be reached, rows wait in the journal")
        assert manager.health("jsonl").state == "ok"
        manager.manager.close(0.5)


def test_a_rework_after_a_failed_delivery_purges_nothing_that_is_still_true(tmp_path: Path) -> None:
    """A late validation row in a batch that failed half-way must not look like a restart when it comes again."""
    run = Run(tmp_path)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 9)
        manager.drain()
        with full_disk(manager, "tensorboard"):
            run.steps(10, 12)
            run.emit(wire.Log(run.now_ns, 0, 3, {"val/loss": 2.5}))
            manager.manager.notify("run-1")
            until(lambda: manager.health("tensorboard").failures_total >= 2)
        manager.drain()
    assert [step for step, _ in points(load(tmp_path), "train/loss")] == list(range(13))
