"""A run's rows as JSON lines, CSV or Parquet.

Given: a data directory and a run. Hands on: rows, one at a time, in the order they were emitted.
Never: holds a run in memory, or needs the journal to be finished.

CSV and Parquet have a column for each metric, so they read the journal twice: once for the names, once for the rows.
What is known of the run as a whole goes with a file (export_format.py), never to standard output.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import msgspec

from sidecar import export_format
from sidecar.atomic_file import is_stream, open_atomic
from sidecar.config import Config
from sidecar.errors import Exit, UserError
from sidecar.export_format import FIXED_COLUMNS, column_of
from sidecar.follow import Follower
from sidecar.journal_format import WrongFormat
from sidecar.rows import Row
from sidecar.salvage import settle
from sidecar.sinks.long import finite_or_word
from sidecar.state import RunState
from sidecar.store import RunEntry, Store

COMPUTED = frozenset({"derived", "hardware"})
"""Kinds of row that the sidecar made: no trainer emitted them."""
PARQUET_ROWS = 8192  # A row group: bounds memory at a few tens of megabytes with 500 columns.


class OpenRun(AbstractContextManager["OpenRun"]):
    """One run's journal, open for reading: what was committed when it was opened."""

    def __init__(self, entry: RunEntry) -> None:
        self.entry = entry
        self._follower = self._follow()
        self._last_row = self._follower.reader.last_row()

    @property
    def state(self) -> RunState:
        """What ``rows`` has folded so far."""
        return self._follower.projector.state

    @property
    def damaged_rows(self) -> int:
        """Rows of the journal that ``rows`` had to leave out."""
        return self._follower.reader.damaged_rows

    @property
    def facts(self) -> export_format.RunFacts:
        """What is known of the run as a whole, by the rows read so far."""
        return export_format.facts(self._follower.projector.info(), self.entry.state)

    def rows(self, *, derived: bool) -> Iterator[Row]:
        """Every row from the first; repeatable, one after the other.

        Where retention removed the oldest events, totals go on from what they had come to.
        """
        self._follower.close()
        self._follower = follower = self._follow()
        for record, rows in follower.read(max(0, self._last_row - follower.row)):
            if record.row > self._last_row:  # Rows ahead of us were removed meanwhile.
                break
            yield from _wanted(rows, derived)

    def __exit__(self, *_: object) -> None:
        self._follower.close()

    def _follow(self) -> Follower:
        return Follower(self.entry.path, self.entry.run_id, from_checkpoint=False)


def open_run(config: Config, word: str) -> OpenRun:
    """``word`` is an id, a name (its newest run) or "latest". Raises UserError (exit code 3) when there is none."""
    store = Store(config.data_directory)
    entry = store.find(word)
    if entry is None:
        known = ", ".join(run.run_id for run in store.runs()[:5])
        remedy = f"there are: {known}" if known else "name the directory the run was written to with --dir"
        raise UserError(f"no run {word!r} in {config.dir}", remedy, Exit.NO_DATA)
    settle(entry.path)
    try:
        return OpenRun(entry)
    except WrongFormat as error:
        raise UserError(str(error), error.remedy, Exit.NO_DATA) from None


def write_jsonl(run: OpenRun, out: IO[bytes], *, derived: bool) -> None:
    encode = msgspec.json.Encoder().encode
    for row in run.rows(derived=derived):
        row.metrics = {name: finite_or_word(value) for name, value in row.metrics.items()}
        out.write(encode(row) + b"\n")


def write_csv(run: OpenRun, out: IO[bytes], *, derived: bool) -> None:
    names = sorted(columns(run, derived=derived))
    text = _Utf8(out)
    writer = csv.writer(text)
    writer.writerow([*FIXED_COLUMNS, *map(column_of, names)])
    for row in run.rows(derived=derived):
        fixed = ["" if value is None else value for value in _fixed(row)]
        writer.writerow([*fixed, *(_cell(row.metrics.get(name)) for name in names)])


def write_parquet(run: OpenRun, out: IO[bytes], *, derived: bool) -> None:
    """Numbers as doubles (whole columns of integers as int64), everything else as text. Needs pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = columns(run, derived=derived)
    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}
    fixed = zip(FIXED_COLUMNS, ("text", "int", "int", "int", "float", "text"), strict=True)
    metrics = ((column_of(name), kind) for name, kind in sorted(kinds.items()))
    fields = [pa.field(column, types[kind]) for column, kind in (*fixed, *metrics)]
    schema = pa.schema(fields, metadata={export_format.METADATA_KEY: export_format.encode(run.facts)})
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in _batches(run.rows(derived=derived), PARQUET_ROWS):
            cells = [dict(zip(FIXED_COLUMNS, _fixed(row), strict=True)) | _typed(row, kinds) for row in batch]
            writer.write_table(pa.Table.from_pylist(cells, schema=schema))


FORMATS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


def write_file(run: OpenRun, path: Path, kind: str, *, derived: bool) -> None:
    """Writes the file atomically. Raises OSError.

    Formats without metadata get a second file, NAME.run.json, with what is known of the run as a whole. A device or a
    pipe is written to directly, and gets no second file.
    """
    with open_atomic(path) as out:
        FORMATS[kind](run, out, derived=derived)
        if kind != "parquet" and not is_stream(path):
            export_format.write(export_format.beside(path), run.facts)


def columns(run: OpenRun, *, derived: bool) -> dict[str, str]:
    """Every metric name in the run and what it holds: int, float, bool or text."""
    kinds: dict[str, str] = {}
    for row in run.rows(derived=derived):
        for name, value in row.metrics.items():
            if value is not None:
                kinds[name] = _join(kinds.get(name), _kind_of(value))
    return kinds


def _wanted(rows: list[Row], derived: bool) -> Iterator[Row]:
    return (row for row in rows if derived or row.kind not in COMPUTED)


def _fixed(row: Row) -> tuple[str, int, int, int | None, float, str]:
    return row.run, row.rank, row.seq, row.step, row.time, row.kind


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "text"
    return "float" if isinstance(value, float) else "text"


def _join(one: str | None, other: str) -> str:
    if one is None or one == other:
        return other
    return "float" if {one, other} == {"int", "float"} else "text"


def _typed(row: Row, kinds: dict[str, str]) -> dict[str, Any]:
    cells = {}
    for name, value in row.metrics.items():
        if value is not None:
            kind = kinds[name]
            number = float(value) if kind == "float" and isinstance(value, (int, float)) else value
            cells[column_of(name)] = _cell(value) if kind == "text" else number
    return cells


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(finite_or_word(value), ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    value = finite_or_word(value)
    return "" if value is None else str(value)


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class _Utf8:
    """What csv.writer needs of a file, over a binary one that stays open."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._out.write(text.encode("utf-8", errors="replace"))
