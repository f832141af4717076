"""Sinks for tests: ones that keep what they get in a file, and ones that misbehave as told by a file."""

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import Report, Sink, SinkContext, Unavailable


class Recorder(Sink):
    """Writes each delivery to DIR/NAME.delivered, one JSON line a row; obeys the words in DIR/NAME.orders."""

    leaves_machine: ClassVar[bool] = False

    def __init__(self, context: SinkContext) -> None:
        self._file = Path(context.data_dir, f"{context.sink}.delivered")
        self._orders = Path(context.data_dir, f"{context.sink}.orders")
        self._opened = Path(context.data_dir, f"{context.sink}.opened")

    def open(self, run: RunInfo) -> Report:
        with self._opened.open("a") as file:
            seen = {"pid": os.getpid(), "run": run.run_id, "node": run.node, "environ": dict(os.environ)}
            file.write(json.dumps(seen) + "\n")
        if self._obeys("refuse"):
            raise Unavailable("the far end is away; wait")
        return Report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        if self._obeys("hang"):
            time.sleep(3600)
        if self._obeys("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        while self._obeys("wait"):
            time.sleep(0.02)
        if self._obeys("outage"):
            raise ConnectionError("no route")
        for row in rows:
            if "poison" in row.metrics:
                raise ValueError("cannot take this row")
        with self._file.open("a") as file:
            for index, row in enumerate(rows, number):
                file.write(json.dumps([index, row.kind, row.step, row.metrics]) + "\n")

    def _obeys(self, word: str) -> bool:
        return self._orders.exists() and word in self._orders.read_text()


class Isolated(Recorder):
    isolated: ClassVar[bool] = True
    environment: ClassVar[tuple[str, ...]] = ("RECORDER_*",)

    def close(self) -> None:
        self._opened.with_suffix(".closed").touch()


class Remote(Recorder):
    leaves_machine: ClassVar[bool] = True


class Uploader(Remote):
    """Keeps what it is given in memory until it is closed, and knows what the far end has, as W&B does."""

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._gathered: list[tuple[list[Row], int]] = []
        self._arrived = len(delivered(Path(context.data_dir), context.sink))

    def open(self, run: RunInfo) -> Report:
        super().open(run)
        return self.report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        self._gathered.append((list(rows), number))

    def report(self) -> Report:
        return Report(acknowledged=self._arrived)

    def close(self) -> None:
        for rows, number in self._gathered:
            super().deliver(rows, number)


class ByNode(Remote):
    per_node: ClassVar[bool] = True


def order(data_dir: Path, sink: str, word: str) -> None:
    Path(data_dir, f"{sink}.orders").write_text(word)


def delivered(data_dir: Path, sink: str) -> list[list[Any]]:
    path = Path(data_dir, f"{sink}.delivered")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def opened(data_dir: Path, sink: str) -> list[dict[str, Any]]:
    path = Path(data_dir, f"{sink}.opened")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
