"""Rows as plain files that grow with the run: JSON lines, CSV, Parquet. Local; `sidecar export` makes one at the end.

Given: rows. Hands on: DIR/files/RUN.jsonl, DIR/files/RUN.csv, or the parts of DIR/files/RUN.parquet/.
Never: writes a row twice: each carries its number, and a file knows by its last one what it has.

JSON lines have the export's shape plus ``number``. CSV and Parquet are long, one line for each value, because new
names may come at any time: number, time (seconds since the epoch), step, rank, kind, name, value (double), text.
"""

import contextlib
import csv
import io
import json
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import msgspec

from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import Report, SinkContext, SinkDied
from sidecar.sinks.deadletters import file_stem

COLUMNS = ("number", "time", "step", "rank", "kind", "name", "value", "text")
PART_VALUES = 200_000
PART_SECONDS = 60.0
TAIL_BYTES = 8 << 20  # More than the longest line: a record is at most 1 MiB, escaped a few times that.

_encode = msgspec.json.Encoder().encode
Line = tuple[int, float, int | None, int, str, str, float | None, str | None]


class _Appended:
    """A file of lines that is only ever appended to; a torn last line is cut off when it is opened again."""

    isolated: ClassVar[bool] = False
    leaves_machine: ClassVar[bool] = False
    spelled: ClassVar[bool] = False
    environment: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str]
    header: ClassVar[bytes] = b""

    def __init__(self, context: SinkContext) -> None:
        self._base = Path(context.options.get("dir") or Path(context.data_dir, "files"))
        self._path: Path | None = None
        self._next = 0

    def open(self, run: RunInfo) -> Report:
        path = self._base / f"{file_stem(run.run_id)}{self.suffix}"
        if self._path is None or not path.exists():
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._next = self._repair(path)
            self._path = path
        return Report(acknowledged=self._next)

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        assert self._path is not None
        lines = [self.line(index, row) for index, row in enumerate(rows, number) if index >= self._next]
        if not self._path.exists():
            raise SinkDied(f"{self._path} was removed; writing it anew from the first row")
        with self._path.open("ab", buffering=0) as file:
            _write_or_undo(file, b"".join(lines))
        self._next = max(self._next, number + len(rows))

    def flush(self) -> Report:
        return self.report()

    def report(self) -> Report:
        return Report(acknowledged=self._next)

    def close(self) -> None:
        return None

    def line(self, number: int, row: Row) -> bytes:
        raise NotImplementedError

    def number_of(self, line: bytes) -> int:
        raise NotImplementedError

    def _repair(self, path: Path) -> int:
        """The number of the next row. Cuts off the last row: a crash may have left it in the middle."""
        if not path.exists() or path.stat().st_size < len(self.header):
            path.write_bytes(self.header)
            os.chmod(path, 0o600)
            return 0
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
            lines = tail[: tail.rfind(b"\n") + 1].splitlines(keepends=True)
            last = self.number_of(lines[-1]) if lines and lines[-1] != self.header else 0
            while lines and lines[-1] != self.header and self.number_of(lines[-1]) == last:
                lines.pop()
            file.truncate(size - len(tail) + sum(map(len, lines)))
        return last


class JsonLinesSink(_Appended):
    suffix: ClassVar[str] = ".jsonl"

    def line(self, number: int, row: Row) -> bytes:
        metrics = {name: _finite_or_word(value) for name, value in row.metrics.items()}
        fields = {
            "number": number, "run": row.run, "rank": row.rank, "seq": row.seq, "step": row.step, "time": row.time,
            "kind": row.kind, "metrics": metrics,
        }  # fmt: skip
        return _encode(fields) + b"\n"

    def number_of(self, line: bytes) -> int:
        return int(json.loads(line)["number"])


class CsvSink(_Appended):
    """A row without metrics leaves no line; what it would repeat after a crash is nothing."""

    suffix: ClassVar[str] = ".csv"
    header: ClassVar[bytes] = (",".join(COLUMNS) + "\r\n").encode()

    def line(self, number: int, row: Row) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text)
        for line in _lines(number, row):
            cells = ["" if cell is None else cell for cell in line]
            cells[-1] = str(cells[-1]).replace("\r", " ").replace("\n", " ")  # A line is a line: see _repair.
            writer.writerow(cells)
        return text.getvalue().encode()

    def number_of(self, line: bytes) -> int:
        return int(line.partition(b",")[0])


class ParquetSink:
    """In a child of its own: pyarrow is large. Rows are gathered; until a part is written the journal has them."""

    isolated: ClassVar[bool] = True
    leaves_machine: ClassVar[bool] = False
    spelled: ClassVar[bool] = False
    environment: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: SinkContext) -> None:
        self._base = Path(context.options.get("dir") or Path(context.data_dir, "files"))
        self._directory: Path | None = None
        self._lines: list[Line] = []
        self._first = self._next = 0
        self._oldest = 0.0

    def open(self, run: RunInfo) -> Report:
        if self._directory is None:
            import pyarrow.parquet  # noqa: F401 - fail now, with a reason, not at the first part.

            self._directory = self._base / f"{file_stem(run.run_id)}.parquet"
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._first = self._next = self._on_disk()
        return Report(acknowledged=self._first)

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        if not self._lines:
            self._oldest = time.monotonic()
        for index, row in enumerate(rows, number):
            if index >= self._next:
                self._lines.extend(_lines(index, row))
        self._next = max(self._next, number + len(rows))
        if len(self._lines) >= PART_VALUES:
            self._write_part()

    def flush(self) -> Report:
        if self._lines and time.monotonic() - self._oldest >= PART_SECONDS:
            self._write_part()
        return self.report()

    def report(self) -> Report:
        return Report(acknowledged=self._first)

    def close(self) -> None:
        if self._lines:
            self._write_part()

    def _write_part(self) -> None:
        """Whole or not at all: written beside, then renamed."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert self._directory is not None
        if not self._directory.is_dir():
            raise SinkDied(f"{self._directory} was removed; writing it anew from the first row")
        types = (pa.int64(), pa.float64(), pa.int64(), pa.int32(), pa.string(), pa.string(), pa.float64(), pa.string())
        columns = list(zip(*self._lines, strict=True))
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        path = self._directory / f"part-{self._first:012d}-{self._next:012d}.parquet"
        draft = path.with_suffix(".draft")
        pq.write_table(pa.table(dict(zip(COLUMNS, arrays, strict=True))), draft, compression="zstd")
        draft.replace(path)
        self._first, self._lines = self._next, []

    def _on_disk(self) -> int:
        assert self._directory is not None
        for draft in self._directory.glob("*.draft"):
            draft.unlink()
        ends = [re.fullmatch(r"part-\d+-(\d+)\.parquet", path.name) for path in self._directory.iterdir()]
        return max((int(match[1]) for match in ends if match), default=0)


def _write_or_undo(file: IO[bytes], data: bytes) -> None:
    """On a full disk the file is left as it was, so that the rows can come again."""
    size, rest = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(size)
        raise


def _lines(number: int, row: Row) -> list[Line]:
    lines: list[Line] = []
    for name, value in row.metrics.items():
        number_like = isinstance(value, bool | int | float)
        text = None if number_like or value is None else value if isinstance(value, str) else _encode(value).decode()
        lines.append(
            (number, row.time, row.step, row.rank, row.kind, name, float(value) if number_like else None, text)  # type: ignore[arg-type]
        )
    return lines


def _finite_or_word(value: Any) -> Any:
    """JSON has no NaN: the export's words stand for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_finite_or_word(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite_or_word(item) for key, item in value.items()}
    return value
