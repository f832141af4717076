"""A run as the sidecar sees it, without sockets: a real store and journal, events put in by hand."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sidecar import wire
from sidecar.journal import Chunk
from sidecar.sinks.manager import SinkManager
from sidecar.sinks.source import Policy
from sidecar.store import Store
from sidecar.telemetry import Telemetry

START_NS = 1_790_000_000_000_000_000
STEP_NS = 500_000_000
FAST = Policy(pace_seconds=0.0, poll_seconds=0.05, linger_seconds=60.0)


class Run:
    """One training process' stream in a journal. Times are made up, so that two runs of a test are equal."""

    def __init__(self, data_dir: Path, run_id: str = "run-1", session: int = 7, rank: int = 0, **hello: Any) -> None:
        self.run_id, self.session, self.seq, self.now_ns = run_id, session, 0, START_NS
        self.store = Store(data_dir)
        self.store.prepare()
        self.journal = self.store.journal(run_id)
        fields = {"project": "demo", "name": "d12", "stage": "pretrain", "total_steps": 100} | hello
        self.hello = wire.Hello(
            run_id=run_id, rank=rank, session=session, time_ns=START_NS, mono_ns=0, **fields
        )
        self.journal.greet(self.hello, START_NS)

    def emit(self, *events: wire.AnyEvent) -> None:
        """One journal row with these events."""
        records = [wire.encode_event(event) for event in events]
        self.journal.append([Chunk(self.session, self.seq, self.now_ns, records)])
        self.seq += len(records)

    def steps(self, first: int, last: int, **extra: Any) -> None:
        """Steps first..last, both included, one journal row each, half a second apart."""
        for step in range(first, last + 1):
            self.now_ns += STEP_NS
            self.emit(self.step_event(step, extra))

    def step_event(self, step: int, extra: dict[str, Any]) -> wire.Step:
        metrics = {
            "train/loss": 4.0 / (1 + step), "train/learning_rate": 1e-3, "train/grad_norm": 0.5 + step,
            "train/num_tokens": 1000, "train/num_samples": 10, "train/epoch": step / 100,
        }  # fmt: skip
        return wire.Step(self.now_ns, self.now_ns - START_NS, step, metrics | extra)

    def command_ended(self, exit_code: int) -> None:
        """What a launcher tells of it."""
        self.journal.own_stream(99, self.now_ns)
        event = wire.RankEnded(self.now_ns, 0, self.hello.rank, self.session, f"exit code {exit_code}", exit_code)
        self.journal.append([Chunk(99, 0, self.now_ns, [wire.encode_event(event)])])

    def finish(self) -> None:
        self.emit(wire.Finished(self.now_ns, self.now_ns - START_NS))


def config(data_dir: Path, *sinks: str, **more: Any) -> SimpleNamespace:
    fields = {
        "dir": str(data_dir), "sinks": sinks, "allow_sinks": None, "sink_period_steps": 1, "allow": (),
        "allow_config": (), "wandb_mode": None, "wandb_entity": None, "wandb_dir": None,
    }  # fmt: skip
    return SimpleNamespace(**(fields | more))


class Manager:
    """A SinkManager with its telemetry, closed at the end of the block."""

    def __init__(self, run: Run, *sinks: str, policy: Policy = FAST, **more: Any) -> None:
        self.telemetry = Telemetry()
        data_dir = run.store.directory
        self.manager = SinkManager(config(data_dir, *sinks, **more), run.store, self.telemetry, policy=policy)
        self.run = run

    def __enter__(self) -> "Manager":
        self.manager.run_started(self.run.hello)
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close(0.1 if self.manager._closing.is_set() else 20.0)

    def health(self, sink: str) -> Any:
        return self.telemetry.sinks[sink]

    def drain_one(self, sink: str, seconds: float = 60.0) -> None:
        self.manager.notify(self.run.run_id)
        runner = self.manager._runners[self.run.run_id, sink]
        until(lambda: runner.drained, seconds, lambda: f"not drained: {runner.health}")

    def drain(self, seconds: float = 60.0) -> None:
        self.manager.notify(self.run.run_id)
        until(self.manager.drained, seconds, lambda: f"not drained: {self.telemetry.sinks}")


def until(condition: Callable[[], Any], seconds: float = 30.0, say: Callable[[], str] = str) -> Any:
    """The first true value of ``condition``; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen in {seconds} s: {say()}")
