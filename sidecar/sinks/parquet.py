"""Rows as Parquet that grows with the run: a folder of parts, each a long table (see long.py).

Given: rows. Hands on: DIR/files/RUN.parquet/part-FIRST-NEXT.parquet, named after the numbers of their rows; in each
schema what is known of the run.
Never: leaves a part that is not whole, or says of rows that it only gathered that they are there: until a part is
written the journal has them.
"""

import os
import re
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sidecar import export_format
from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import Report, Sink, SinkContext, SinkDied
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.long import COLUMNS, text_of

PART_VALUES = 200_000
PART_SECONDS = 60.0
MARK = b"PAR1"
_PART = re.compile(r"part-\d+-(\d+)\.parquet").fullmatch


class ParquetSink(Sink):
    """In a child of its own: pyarrow is large."""

    isolated: ClassVar[bool] = True
    leaves_machine: ClassVar[bool] = False
    spelled: ClassVar[bool] = False

    def __init__(self, context: SinkContext) -> None:
        self._base = Path(context.options.get("dir") or Path(context.data_dir, "files"))
        self._directory: Path | None = None
        self._facts = b""
        self._part = Part()
        self._first = self._next = 0
        self._oldest = 0.0

    def open(self, run: RunInfo) -> Report:
        self._facts = export_format.encode(export_format.facts(run))
        if self._directory is None:
            import pyarrow.parquet  # noqa: F401 - fail now, with a reason, not at the first part.

            directory = self._base / f"{file_stem(run.run_id)}.parquet"
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._first = self._next = _on_disk(directory)
            self._directory = directory
        return Report(acknowledged=self._first)

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        if not self._part.size:
            self._oldest = time.monotonic()
        for index, row in enumerate(rows, number):
            if index >= self._next:
                self._part.add(index, row)
        self._next = max(self._next, number + len(rows))
        if self._part.size >= PART_VALUES or self._is_due():
            self._write_part()

    def flush(self) -> Report:
        if self._is_due():
            self._write_part()
        return self.report()

    def report(self) -> Report:
        return Report(acknowledged=self._first)

    def close(self) -> None:
        if self._next > self._first:  # Rows without values too: the part's name says that they were seen.
            self._write_part()

    def _is_due(self) -> bool:
        return self._part.size > 0 and time.monotonic() - self._oldest >= PART_SECONDS

    def _write_part(self) -> None:
        """Whole or not at all: written beside, then renamed."""
        import pyarrow.parquet as pq

        assert self._directory is not None
        if not self._directory.is_dir():
            raise SinkDied(f"{self._directory} was removed; writing it anew from the first row")
        path = self._directory / f"part-{self._first:012d}-{self._next:012d}.parquet"
        draft = path.with_suffix(".draft")
        try:
            pq.write_table(self._part.table({export_format.METADATA_KEY: self._facts}), draft, compression="zstd")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        self._first, self._part = self._next, Part()


class Part:
    """Lines of the long table, by column."""

    def __init__(self) -> None:
        self._numbers, self._times, self._ranks, self._values = array("q"), array("d"), array("i"), array("d")
        self._steps: list[int | None] = []
        self._kinds: list[str] = []
        self._names: list[str] = []
        self._texts: dict[int, str | None] = {}
        """By line: what is no number."""

    @property
    def size(self) -> int:
        return len(self._names)

    def add(self, number: int, row: Row) -> None:
        metrics: Iterable[Any] = row.metrics.values()
        try:
            values = array("d", metrics)  # Nearly always they are numbers; else it raises.
        except TypeError:
            values = array("d", [self._value(at, value) for at, value in enumerate(metrics, self.size)])
        lines = len(values)
        self._numbers.extend([number] * lines)
        self._times.extend([row.time] * lines)
        self._steps.extend([row.step] * lines)
        self._ranks.extend([row.rank] * lines)
        self._kinds.extend([row.kind] * lines)
        self._names.extend(row.metrics)
        self._values.extend(values)

    def table(self, metadata: dict[bytes, bytes]) -> Any:
        import pyarrow as pa

        values: Sequence[float | None] = self._values
        texts = pa.nulls(self.size, pa.string())
        if self._texts:
            values = [None if at in self._texts else value for at, value in enumerate(self._values)]
            texts = pa.array([self._texts.get(at) for at in range(self.size)], texts.type)
        columns = [
            pa.array(self._numbers, pa.int64()), pa.array(self._times, pa.float64()), pa.array(self._steps, pa.int64()),
            pa.array(self._ranks, pa.int32()), pa.array(self._kinds, pa.string()), pa.array(self._names, pa.string()),
            pa.array(values, pa.float64()), texts,
        ]  # fmt: skip
        return pa.table(dict(zip(COLUMNS, columns, strict=True))).replace_schema_metadata(metadata)

    def _value(self, at: int, value: Any) -> float:
        if isinstance(value, bool | int | float):
            return float(value)
        self._texts[at] = text_of(value)
        return 0.0


def _on_disk(directory: Path) -> int:
    """The number of the first row that is not there. A power cut may leave the last parts with their names and
    without their content, which nobody can read: they are removed, and their rows come again."""
    for draft in directory.glob("*.draft"):
        draft.unlink()
    parts = sorted((int(match[1]), path) for path in directory.iterdir() if (match := _PART(path.name)))
    while parts and not _is_whole(parts[-1][1]):
        parts.pop()[1].unlink()
    return parts[-1][0] if parts else 0


def _is_whole(path: Path) -> bool:
    """Every Parquet file begins and ends with its mark."""
    with path.open("rb") as file:
        head = file.read(len(MARK))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(MARK)))
        return size > 2 * len(MARK) and head == file.read() == MARK
