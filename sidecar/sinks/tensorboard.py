"""Rows as TensorBoard event files: scalars, text, histograms, hyper-parameters; one folder a run.

Given: rows. Hands on: DIR/tensorboard/RUN/events.out.tfevents.*, a new file in each life.
Never: sends anything anywhere, or imports tensorboard: a browser of these files needs it, their writer does not.

What is repeated after a crash (at most one batch) lies twice at equal steps, which every view draws as one point.
Steps that a resumed trainer does again are announced, so that TensorBoard forgets the first attempt.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

from sidecar.rows import Row, RunInfo
from sidecar.sinks import tfevents
from sidecar.sinks.base import Report, SinkContext, SinkDied
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.privacy import Gate

FLUSH_BYTES = 1 << 20
PLAIN = bool | int | float


class TensorBoardSink:
    isolated: ClassVar[bool] = False
    spelled: ClassVar[bool] = True
    leaves_machine: ClassVar[bool] = False
    environment: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: SinkContext) -> None:
        self._context = context
        self._base = Path(context.options.get("dir") or Path(context.data_dir, "tensorboard"))
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self._size = 0
        """Bytes of whole records in the file."""
        self._pending: list[bytes] = []
        self._removed = False
        self._shown: dict[str, Any] = {}
        self._last_step = 0
        self._furthest: dict[int, int] = {}
        """The highest step of each rank."""
        self._seq: dict[int, int] = {}
        """The last sequence number of each rank: it starts again with a new process."""

    def open(self, run: RunInfo) -> Report:
        if self._file is None:
            directory = self._base / file_stem(run.run_id)
            directory.mkdir(parents=True, exist_ok=True)
            self._path = _new_file(directory)
            self._file, self._size = self._path.open("xb", buffering=0), 0
            self._write(tfevents.first_event(time.time()))
        self._show_config(run)
        self._commit()
        removed, self._removed = self._removed, False
        return Report(acknowledged=0) if removed else Report()  # Then all of it comes again.

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        assert self._path is not None
        if not self._path.exists():
            self._forget()
            raise SinkDied(f"{self._path.parent} was removed; writing it anew from the first row")
        before = self._last_step, dict(self._furthest), dict(self._seq)
        try:
            self._add(rows)
            self._commit()
        except BaseException:  # The same rows come again: they must not look like work done again.
            self._last_step, self._furthest, self._seq = before
            raise

    def flush(self) -> Report:
        return self.report()

    def report(self) -> Report:
        return Report(reason=None, url=None)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.kind == "step" and row.rank > 0:  # The derived row joins all ranks.
                continue
            self._note_rework(row)
            if row.step is not None:
                self._last_step = row.step
            if row.metrics:
                self._pending.append(_record(row, self._last_step))

    def _write(self, event: bytes) -> None:
        self._pending.append(tfevents.record(event))

    def _commit(self) -> None:
        """All that is pending or nothing: on a full disk the file ends with its last whole record."""
        assert self._file is not None
        data, self._pending = b"".join(self._pending), []
        try:
            _write_all(self._file, data)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._size += len(data)

    def _forget(self) -> None:
        """The folder is gone, and with it everything that was in it."""
        self.close()
        self._removed, self._shown, self._last_step = True, {}, 0
        self._furthest, self._seq = {}, {}

    def _note_rework(self, row: Row) -> None:
        """A new process of the same rank that begins at a step we have seen, or a step that goes back."""
        if row.rank < 0 or row.step is None or row.kind not in ("step", "log"):
            return
        furthest, seq = self._furthest.get(row.rank, -1), self._seq.get(row.rank, -1)
        again = row.step <= furthest and (row.seq <= seq or row.kind == "step")
        self._seq[row.rank] = row.seq
        if again:
            self._write(tfevents.restart_event(row.time, row.step))
        if again or row.step > furthest:
            self._furthest[row.rank] = row.step

    def _show_config(self, run: RunInfo) -> None:
        """As text and for the HParams page. Local files: everything but secrets and paths."""
        gate = Gate(run.run_id, self._context.sink, ("text", "histograms"), ("*",))
        config = {**{f"model/{key}": value for key, value in gate.config(run.model_facts).items()}}
        config |= gate.config(run.config) | ({"stage": run.stage} if run.stage else {})
        if not config or config == self._shown:
            return
        started = run.started_ns / 1e9 or time.time()
        lines = [f"| {key} | {_cell(config[key])} |" for key in sorted(config)]
        values = [tfevents.text("config", "\n".join(["| key | value |", "|---|---|", *lines]))]
        if not self._shown:  # TensorBoard takes the first session only.
            plain = {key: value for key, value in config.items() if isinstance(value, PLAIN | str)}
            values.append(tfevents.hparams(plain, started, run.group or ""))
        self._write(tfevents.summary_event(started, 0, values))
        self._shown = config


def _write_all(file: IO[bytes], data: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _record(row: Row, step: int) -> bytes:
    """Empty when there is nothing in the row that TensorBoard can show."""
    record = tfevents.scalars_record(row.time, step, row.metrics)  # type: ignore[arg-type]  # It says when they are not.
    if record is None and (values := _values(row)):
        record = tfevents.record(tfevents.summary_event(row.time, step, values))
    return record or b""


def _values(row: Row) -> list[bytes]:
    values = []
    for name, value in row.metrics.items():
        if isinstance(value, PLAIN):
            values.append(tfevents.scalar(name, value))
        elif row.kind == "histogram" and isinstance(value, dict):
            values.append(tfevents.histogram(name, value["edges"], value["counts"]))
        elif isinstance(value, str):
            values.append(tfevents.text(name, value))
    return values


def _new_file(directory: Path) -> Path:
    """TensorBoard sorts by name and reads them in turn, so a later file must sort after an earlier one."""
    for count in range(1_000_000):
        path = directory / f"events.out.tfevents.{int(time.time()):010d}.sidecar.{os.getpid()}.{count:06d}"
        if not path.exists():
            return path
    raise FileExistsError(f"no free name in {directory}")


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
