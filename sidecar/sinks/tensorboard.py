"""Rows as TensorBoard event files: scalars, text, histograms, hyper-parameters; one folder a run.

Given: rows. Hands on: DIR/tensorboard/RUN/events.out.tfevents.*, a new file in each life, and beside it sidecar.place.
Never: sends anything anywhere, or imports tensorboard: a browser of these files needs it, their writer does not.

sidecar.place says how far the files are whole, and which steps they have come to. What a crash left beyond it is cut
off and delivered again, and steps that a resumed trainer does again, even in another life of the sidecar, are
announced, so that TensorBoard forgets the first attempt. Of a step there is one point: what all ranks come to, once it
is known, in place of what the first rank sent.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import msgspec

from sidecar.atomic_file import write_atomic
from sidecar.rows import Row, RunInfo
from sidecar.sinks import tfevents
from sidecar.sinks.base import Report, Sink, SinkContext, SinkDied
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.privacy import Gate

PLACE_FILE = "sidecar.place"
PLAIN = bool | int | float


class Place(msgspec.Struct):
    """How far the files of a run have come."""

    file: str = ""
    """The last event file."""
    size: int = 0
    """Bytes of whole records in it."""
    number: int = 0
    """Of the next row."""
    last_step: int = 0
    furthest: dict[int, int] = {}
    """The highest step that each rank has named."""
    ended: dict[int, int] = {}
    """The highest step that each rank has ended."""
    seq: dict[int, int] = {}
    """The last sequence number of each rank: it starts again with a new process."""


class TensorBoardSink(Sink):
    one_rank: ClassVar[bool] = True
    one_row_per_step: ClassVar[bool] = True
    leaves_machine: ClassVar[bool] = False

    def __init__(self, context: SinkContext) -> None:
        self._context = context
        self._base = Path(context.options.get("dir") or Path(context.data_dir, "tensorboard"))
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self._place = Place()
        self._pending: list[bytes] = []
        self._shown: dict[str, Any] = {}

    def open(self, run: RunInfo) -> Report:
        self._check_it_is_there()
        try:
            if self._file is None:
                self._begin_file(self._base / file_stem(run.run_id))
            self._show_config(run)
            self._commit(self._place)
        except BaseException:  # Half of it must not look like all of it when it is tried again.
            if self._path is not None and self._place.size == 0:
                self._path.unlink(missing_ok=True)
            self.close()
            raise
        return self.report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        self._check_it_is_there()
        place = self._next_place(max(self._place.number, number + len(rows)))
        fresh = rows[max(0, self._place.number - number) :]
        try:
            for row in fresh:
                if row.kind != "step" or row.rank == 0:
                    self._note_rework(row, place)
                self._add(row, place)
            self._commit(place)
        finally:
            self._pending = []  # If it failed the same rows come again.

    def report(self) -> Report:
        return Report(acknowledged=self._place.number)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._pending, self._shown = None, [], {}

    def _next_place(self, number: int) -> Place:
        """A copy to work on: if the delivery fails, nothing of it was."""
        place = self._place
        return msgspec.structs.replace(
            place, number=number, furthest=dict(place.furthest), ended=dict(place.ended), seq=dict(place.seq)
        )

    def _check_it_is_there(self) -> None:
        if self._file is not None and self._path is not None and not self._path.exists():
            self.close()
            raise SinkDied(f"{self._path.parent} was removed; writing it anew from the first row")

    def _begin_file(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        known = _resume(directory)
        path = _new_file(directory)
        self._place = msgspec.structs.replace(known or Place(), file=path.name, size=0)
        self._path, self._file = path, path.open("xb", buffering=0)
        self._write(tfevents.first_event(time.time()))
        if known is None:  # Files that we know nothing of: whatever is in them comes again.
            self._write(tfevents.restart_event(time.time(), 0))

    def _add(self, row: Row, place: Place) -> None:
        if not row.metrics:
            return
        if row.step is not None:
            place.last_step = row.step
        self._pending.append(_record(row, place.last_step))

    def _write(self, event: bytes) -> None:
        self._pending.append(tfevents.record(event))

    def _commit(self, place: Place) -> None:
        """All that is pending or nothing: on a full disk the file ends with its last whole record."""
        assert self._file is not None
        assert self._path is not None
        data, self._pending = b"".join(self._pending), []
        before = self._place.size
        try:
            _write_all(self._file, data)
            place.size = before + len(data)
            write_atomic(self._path.with_name(PLACE_FILE), msgspec.msgpack.encode(place))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
                self._file.seek(before)
            self._place.size = before
            raise
        self._place = place

    def _note_rework(self, row: Row, place: Place) -> None:
        """A new process of the same rank that begins at a step we have seen, or a step that ends again."""
        rank, step = row.rank, row.step
        if rank < 0 or step is None or row.kind not in ("step", "log"):
            return
        furthest, ended = place.furthest.get(rank, -1), place.ended.get(rank, -1)
        is_new = row.seq <= place.seq.get(rank, -1)
        again = (is_new and step <= furthest) or (row.kind == "step" and step <= ended)
        if again:
            self._write(tfevents.restart_event(row.time, step))
            ended = min(ended, step - 1)
        place.seq[rank] = row.seq
        place.furthest[rank] = step if again else max(furthest, step)
        place.ended[rank] = step if row.kind == "step" else ended

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


def _resume(directory: Path) -> Place | None:
    """Where an earlier life ended, and the torn end of its last file cut off. None: nothing there can be relied on."""
    if not any("tfevents" in path.name for path in directory.iterdir()):
        return Place()
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        place = msgspec.msgpack.decode((directory / PLACE_FILE).read_bytes(), type=Place)
        last = directory / place.file
        if place.file and last.stat().st_size >= place.size:
            os.truncate(last, place.size)
            return place
    return None


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
        elif row.kind == "histogram" and isinstance(value, dict) and value["counts"]:
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
