"""A sink added late ends up identical to one that was there from the start: every format, by its own reader."""

import math
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidecar import export_format, wire
from sidecar.sinks import late
from sidecar.sinks.cursors import Cursors

from .harness import Manager, Run, config, until
from .test_otlp import Receiver, serving
from .test_runner import checkpointed
from .wandb_file import read_all

LOCAL = ("jsonl", "csv", "parquet", "tensorboard")
WHEN_OVER = (*LOCAL, "otlp")
SINKS = (*WHEN_OVER, "wandb")
LATE_STEP = 5_000


class Recorded(Run):
    """The same run each time, in parts: five thousand steps, something of every kind, a trainer that resumes."""

    def first_part(self) -> None:
        for first in range(0, LATE_STEP, 250):
            events: list[wire.AnyEvent] = []
            for step in range(first, first + 250):
                self.now_ns += 1_000_000
                events.append(self.step_event(step, {"odd": math.nan} if step % 100 == 7 else {}))
            self.emit(*events)

    def second_part(self) -> None:
        now = self.now_ns
        self.emit(wire.Text(now, 0, LATE_STEP, "sample/one", "once, \"upon\"\na time"))
        self.emit(wire.Histogram(now, 0, LATE_STEP, "weights/wte", [0.0, 1.0, 2.0], [3.0, 4.0]))
        self.emit(wire.PhaseExited(now, 0, LATE_STEP, "evaluation", 1.5))
        self.emit(wire.Consumed(now, 0, LATE_STEP, {"web": (2, 64)}))
        self.emit(wire.Checkpoint(now, 0, LATE_STEP, 2.0, 1024, "last"))
        self.emit(wire.Log(now, 0, 10, {"val/loss": math.inf}, True))
        self.steps(LATE_STEP, LATE_STEP + 9)

    def resume(self) -> "Recorded":
        again = Recorded(self.store.directory, session=8, model_facts={"params": 10})
        again.now_ns = self.now_ns
        again.steps(LATE_STEP + 5, LATE_STEP + 14)
        return again


class Places:
    """One run recorded three times; its outlets there from the start, added late, and added when all was over."""

    def __init__(self, base: Path, receivers: dict[str, Receiver]) -> None:
        self.base, self.receivers = base, receivers
        for name, deliver in (("start", self._from_the_start), ("late", self._late), ("over", self._when_over)):
            run = Recorded(base / name, model_facts={"params": 10})
            deliver(run, {"otlp_endpoint": receivers[name].url})

    def _from_the_start(self, run: Recorded, options: dict[str, Any]) -> None:
        with Manager(run, *SINKS, **options) as manager:
            self._record(run, manager, lambda: manager.drain(120.0))

    def _late(self, run: Recorded, options: dict[str, Any]) -> None:
        run.first_part()
        checkpointed(run)  # The pipeline does this; a late sink must begin before it all the same.
        with Manager(run, **options) as manager:
            for sink in SINKS:
                manager.manager.add("run-1", sink)
            manager.drain(120.0)
            self._record(run, manager, lambda: manager.drain(60.0), parts=1)

    def _when_over(self, run: Recorded, options: dict[str, Any]) -> None:
        run.first_part()
        run.second_part()
        run.resume().finish()
        pairs = [("run-1", sink) for sink in WHEN_OVER]
        late.deliver_now(config(run.store.directory, **options), run.store, pairs, timeout_seconds=120.0)

    @staticmethod
    def _record(run: Recorded, manager: Manager, drain: Callable[[], None], parts: int = 2) -> None:
        if parts == 2:
            run.first_part()
            drain()
        run.second_part()
        drain()
        again = run.resume()
        manager.manager.run_started(again.hello)
        again.finish()
        drain()

    def content(self, sink: str, which: str) -> Any:
        return content(self.base / which, sink, self.receivers[which])


@cache
def content(directory: Path, sink: str, receiver: Receiver | None = None) -> Any:
    """What the format's own reader finds, comparable."""
    if sink == "parquet":
        table = pq.read_table(directory / "files/run-1.parquet").replace_schema_metadata().combine_chunks()
        bits = table["value"].combine_chunks().view(pa.int64())  # NaN is not equal to itself; its bits are.
        return table.set_column(table.schema.get_field_index("value"), "value", bits)
    if sink == "tensorboard":
        return b"".join(records(directory))
    if sink == "otlp" and receiver is not None:
        return sorted((at, name, value if value == value else "NaN") for name, at, value in receiver.every_point())
    if sink == "wandb":
        (file,) = read_all(directory, "run-1")
        rows = [{name: value for name, value in row.items() if name != "_runtime"} for row in file.history]
        return [repr(sorted(row.items())) for row in rows]  # _runtime is wandb's own, not the run's.
    return (directory / f"files/run-1.{sink}").read_bytes()


def records(directory: Path) -> Iterator[bytes]:
    """The events as they were written, but for each file's first and the configuration."""
    for path in sorted((directory / "tensorboard/run-1").glob("*tfevents*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            record = data[at + 12 : at + 12 + size]
            at += 16 + size
            if b"brain.Event:2" not in record and b"\x0a\x06config" not in record:
                yield record


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with serving() as start, serving() as late_one, serving() as over:
        yield Places(tmp_path_factory.mktemp("places"), {"start": start, "late": late_one, "over": over})


@pytest.mark.parametrize(
    ("sink", "which"), [*((sink, "late") for sink in SINKS), *((sink, "over") for sink in WHEN_OVER)]
)
def test_a_sink_added_late_is_identical_to_one_from_the_start(places: Places, sink: str, which: str) -> None:
    whole = places.content(sink, "start")
    assert len(whole) > LATE_STEP * (1 if sink == "wandb" else 10)
    assert places.content(sink, which) == whole


def test_what_is_known_of_the_run_lies_beside_its_files(places: Places) -> None:
    for which in ("start", "late", "over"):
        for name in ("run-1.jsonl", "run-1.csv", "run-1.parquet"):
            facts = export_format.read(places.base / which / "files" / name)
            assert facts is not None
            assert (facts.project, facts.name, facts.stage) == ("demo", "d12", "pretrain")
            assert facts.model_facts == {"params": 10}


@pytest.mark.parametrize("sink", LOCAL)
def test_a_paused_sink_keeps_its_place_and_misses_nothing(tmp_path: Path, sink: str) -> None:
    whole = Run(tmp_path / "whole")
    with Manager(whole, sink) as manager:
        whole.steps(0, 29)
        manager.drain()
    run = Run(tmp_path / "paused")
    cursors = Cursors(tmp_path / "paused" / "cursors.sqlite")
    with Manager(run, sink) as manager:
        run.steps(0, 9)
        manager.drain()
        cursors.pause("run-1", sink, True)
        run.steps(10, 19)
        manager.manager.notify("run-1")
        until(lambda: manager.health(sink).state == "paused")
        assert cursors.get("run-1", sink).number == 20
        cursors.pause("run-1", sink, False)
        run.steps(20, 29)
        until(lambda: cursors.get("run-1", sink).number == 60)
    assert content(tmp_path / "paused", sink) == content(tmp_path / "whole", sink)
