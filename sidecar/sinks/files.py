"""Rows as plain files of lines that grow with the run: JSON lines and CSV. `sidecar export` makes one at the end.

Given: rows. Hands on: DIR/files/RUN.jsonl or RUN.csv, and beside them RUN.run.json with what is known of the run.
Never: writes a row twice: each carries its number.

.RUN.jsonl.place says what a file held when it was closed. After a crash there is none: then the last row may be torn,
or there may have been more lines of it, so it is cut off and delivered again.

JSON lines have the export's shape plus ``number``. CSV is long: see long.py.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, ClassVar, Protocol

import msgspec

from sidecar import export_format
from sidecar.atomic_file import write_atomic
from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import Report, Sink, SinkContext, SinkDied
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.long import COLUMNS, encode, finite_or_word, text_of

TAIL_BYTES = 8 << 20  # More than the longest line: a record is at most 1 MiB, escaped a few times that.
PLAIN = (float, int, bool)


class Place(msgspec.Struct):
    """How far a file has come."""

    size: int = 0
    """Bytes of whole rows in it."""
    number: int = 0
    """Of the next row. The last ones may have left no line."""


class LineFormat(Protocol):
    """How a row becomes lines, and how a line tells which row it is of."""

    suffix: str
    header: bytes

    def lines(self, number: int, row: Row) -> bytes:
        """Whole lines, each with its end; none for a row that has nothing to say."""
        ...

    def number_of(self, line: bytes) -> int: ...


class JsonLines:
    suffix = ".jsonl"
    header = b""

    def lines(self, number: int, row: Row) -> bytes:
        metrics = {name: finite_or_word(value) for name, value in row.metrics.items()}
        fields = {
            "number": number, "run": row.run, "rank": row.rank, "seq": row.seq, "step": row.step, "time": row.time,
            "kind": row.kind, "metrics": metrics,
        }  # fmt: skip
        return encode(fields) + b"\n"

    def number_of(self, line: bytes) -> int:
        return int(json.loads(line)["number"])


class Csv:
    """A row without metrics leaves no line."""

    suffix = ".csv"
    header = (",".join(COLUMNS) + "\r\n").encode()

    def lines(self, number: int, row: Row) -> bytes:
        start = f"{number},{row.time!r},{'' if row.step is None else row.step},{row.rank},{row.kind},"
        return "".join([
            f"{start}{_cell(name)},{float(value)!r},\r\n" if type(value) in PLAIN  # type: ignore[arg-type]
            else f"{start}{_cell(name)},,{_quoted(text_of(value) or '')}\r\n"
            for name, value in row.metrics.items()
        ]).encode()  # fmt: skip

    def number_of(self, line: bytes) -> int:
        return int(line.partition(b",")[0])


@lru_cache(maxsize=4096)
def _cell(name: str) -> str:
    return _quoted(name)


def _quoted(text: str) -> str:
    """One cell, on one line: the last line must be found from the end of the file."""
    text = text.replace("\r", " ").replace("\n", " ")
    return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text


class LinesSink(Sink):
    """A file of lines that is only ever appended to; a torn last line is cut off when it is opened again."""

    leaves_machine: ClassVar[bool] = False
    spelled: ClassVar[bool] = False

    def __init__(self, context: SinkContext, form: LineFormat) -> None:
        self._base = Path(context.options.get("dir") or Path(context.data_dir, "files"))
        self._form = form
        self._path: Path | None = None
        self._place = Place()

    def open(self, run: RunInfo) -> Report:
        self._check_it_is_there()
        path = self._base / f"{file_stem(run.run_id)}{self._form.suffix}"
        if self._path is None:
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._place = self._resume(path)
            self._path = path
        export_format.write(export_format.beside(path), export_format.facts(run))
        return self.report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        self._check_it_is_there()
        assert self._path is not None
        next_number = self._place.number
        lines = [self._form.lines(index, row) for index, row in enumerate(rows, number) if index >= next_number]
        with self._path.open("ab", buffering=0) as file:
            size = _write_or_undo(file, b"".join(lines))
        self._place = Place(size, max(next_number, number + len(rows)))

    def report(self) -> Report:
        return Report(acknowledged=self._place.number)

    def close(self) -> None:
        if self._path is not None and self._path.exists():
            with contextlib.suppress(OSError):  # Without it the last row comes again, which is no harm.
                write_atomic(_beside(self._path), msgspec.json.encode(self._place), mode=0o600)

    def _check_it_is_there(self) -> None:
        path = self._path
        if path is not None and not path.exists():
            self._path = None
            raise SinkDied(f"{path} was removed; writing it anew from the first row")

    def _resume(self, path: Path) -> Place:
        """Where an earlier life ended. What it noted when it closed the file holds until the next write only."""
        known = _noted(_beside(path))
        _beside(path).unlink(missing_ok=True)
        if known is not None and path.exists() and path.stat().st_size == known.size and _ends_a_line(path):
            return known
        return self._repair(path)

    def _repair(self, path: Path) -> Place:
        """Cuts off the last row, which a crash may have left in the middle, and whatever comes after it that is no
        row."""
        header = self._form.header
        if not path.exists() or path.stat().st_size < len(header):
            return self._begin(path)
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
            lines = tail[: tail.rfind(b"\n") + 1].splitlines(keepends=True)
            last: int | None = None
            while lines and lines[-1] != header:
                number = self._number_of(lines[-1])
                if last is not None and number not in (None, last):
                    break
                last = number if last is None else last
                lines.pop()
            whole = file.truncate(size - len(tail) + sum(map(len, lines)))
        return Place(whole, last or 0) if whole >= len(header) else self._begin(path)

    def _begin(self, path: Path) -> Place:
        path.write_bytes(self._form.header)
        os.chmod(path, 0o600)
        return Place(len(self._form.header))

    def _number_of(self, line: bytes) -> int | None:
        try:
            return self._form.number_of(line)
        except (ValueError, KeyError, TypeError):
            return None


class JsonLinesSink(LinesSink):
    def __init__(self, context: SinkContext) -> None:
        super().__init__(context, JsonLines())


class CsvSink(LinesSink):
    def __init__(self, context: SinkContext) -> None:
        super().__init__(context, Csv())


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.place")


def _noted(path: Path) -> Place | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Place)
    except (OSError, msgspec.MsgspecError):
        return None


def _ends_a_line(path: Path) -> bool:
    """A power cut may leave a file with its size and without its content."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() in (b"", b"\n")


def _write_or_undo(file: IO[bytes], data: bytes) -> int:
    """Returns the size of the file. On a full disk it is left as it was, so that the rows can come again."""
    size, rest = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(size)
        raise
    return size + len(data)
