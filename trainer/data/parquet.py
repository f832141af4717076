"""Parquet shards of FineWeb-EDU's shape: a column ``text`` with one document per row; other columns are not read.

    python -m trainer pretrain --data ./fineweb_edu            a folder of shards: the last one validates
    python -m trainer pretrain --data ./000_00000.parquet      one shard: some of its rows validate

Given: .parquet files. Hands on: documents, those of several shards row group by row group (for stream.py); or rows.
Rows on damaged pages are reported, and those after them in the same row group; the next row group is read again. So is
a file that cannot be read at all, such as one that was cut off, where others remain.
Never: loads a whole shard (it reads batch by batch, up to the limit), or imports pyarrow unless parquet is asked for.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.quality import DataReport, Quality
from trainer.errors import UserError

COLUMN = "text"
TEXT = re.compile(r"(dictionary<values=)?(large_)?string")  # The types that it may have, as Arrow names them.
METADATA = ("language", "score", "license")  # Columns about a document, where a shard has them.


class Unreadable(UserError):
    """A file of which nothing can be read."""

    def __init__(self, file: Path, error: Exception) -> None:
        self.reason = f"cannot be read: {_reason(error)}"
        super().__init__(f"cannot read {file}: {_reason(error)}", "fetch the file again, or remove it from the folder")


def readable(shards: Sequence[Path], report: DataReport) -> list[Path]:
    """Without those of which nothing can be read: they are reported. Raises UserError if none remains, or one has no
    column of texts."""
    if len(shards) == 1:
        row_groups(shards[0])
        return [*shards]
    found = []
    for shard in shards:
        try:
            row_groups(shard)
        except Unreadable as error:
            report.add(shard.name, error.reason)
        else:
            found.append(shard)
    if not found:
        raise UserError(f"cannot read any of {len(shards)} parquet files", "fetch them again, or give --data others")
    return found


def row_groups(shard: Path) -> list[int]:
    """Rows in each. Raises UserError for a shard that cannot be read, or has no column of texts."""
    with _opened(shard) as file:
        return [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]


def text_bytes(shard: Path) -> int:
    """Size of all its texts, by the footer alone."""
    with _opened(shard) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        columns = [group.column(place) for group in groups for place in range(group.num_columns)]
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == COLUMN)


def group_texts(
    shard: Path, group: int, report: DataReport, quality: Quality, wanted: slice = slice(None)
) -> list[bytes]:
    """The documents in the ``wanted`` rows of one row group that ``quality`` keeps; rows without text are left out."""
    with _opened(shard) as file:
        if group >= file.metadata.num_row_groups:
            return []
        found = [row for _, row in _rows_of_group(file, shard.name, group, report, _columns_of(file), wanted)]
    return [text for row in found if (text := _text_of(row)) and _is_kept(text, row, quality)]


def rows(file: Path, report: DataReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row with all its columns) of every row; one batch in memory at a time."""
    try:
        with _opened(file, needed=None) as opened:
            for group in range(opened.metadata.num_row_groups):
                yield from _rows_of_group(opened, file.name, group, report)
    except Unreadable as error:
        report.add(file.name, error.reason)


def documents(shard: Path, bytes_max: int, report: DataReport, quality: Quality) -> list[bytes]:
    """The first documents of a shard that ``quality`` keeps, up to so many bytes; one batch in memory at a time."""
    read: list[bytes] = []
    size = 0
    with _opened(shard) as file:
        for group in range(file.metadata.num_row_groups):
            for _, row in _rows_of_group(file, shard.name, group, report, _columns_of(file)):
                text = _text_of(row)[: bytes_max - size]
                if text and _is_kept(text, row, quality):
                    read.append(text)
                    size += len(text)
                if size >= bytes_max:
                    return read
    return read


def _rows_of_group(
    file: Any, name: str, group: int, report: DataReport, columns: list[str] | None = None, wanted: slice = slice(None)
) -> Iterator[tuple[str, dict[str, Any]]]:
    """("NAME:NUMBER", row) of the ``wanted`` rows of a row group, numbered from 1 throughout the file. Rows that cannot
    be read are reported: one that is not UTF-8, and on a damaged page all that follow in the group."""
    import pyarrow

    *before, size = (file.metadata.row_group(number).num_rows for number in range(group + 1))
    numbers, first, place = range(size)[wanted], sum(before) + 1, 0
    try:
        for batch in file.iter_batches(row_groups=[group], columns=columns):
            for row in _decoded(batch):
                if place in numbers and row is None:
                    report.add(f"{name}:{first + place}", "not UTF-8")
                elif place in numbers and row is not None:
                    yield f"{name}:{first + place}", row
                place += 1
    except (pyarrow.ArrowException, OSError) as error:
        if lost := sum(number >= place for number in numbers):
            what = f"damaged, with {lost} row(s) of row group {group}: {_reason(error)}"
            report.add(f"{name}:{first + place}", what, lost)


def _decoded(batch: Any) -> list[dict[str, Any] | None]:
    """None for a row with text that is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for place in range(batch.num_rows) for row in _decoded(batch.slice(place, 1))]


def _columns_of(file: Any) -> list[str]:
    return [COLUMN, *(name for name in METADATA if name in file.schema_arrow.names)]


def _text_of(row: dict[str, Any]) -> bytes:
    return (row[COLUMN] or "").encode("utf-8", errors="replace")


def _is_kept(text: bytes, row: dict[str, Any], quality: Quality) -> bool:
    return quality.keep(text, *(row.get(name) for name in METADATA))


@contextmanager
def _opened(shard: Path, needed: str | None = COLUMN) -> Iterator[Any]:
    """The file, with whatever goes wrong while it is read as a UserError."""
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(shard, page_checksum_verification=True) as file:
            if needed and needed not in file.schema_arrow.names:
                raise UserError(
                    f"{shard} has no column {needed!r} (it has {', '.join(file.schema_arrow.names)})",
                    "give --data parquet files of FineWeb-EDU's shape",
                )
            if needed and not TEXT.match(kind := str(file.schema_arrow.field(needed).type)):
                raise UserError(
                    f"the column {needed!r} of {shard} is of {kind}, not of text",
                    "give --data parquet files of FineWeb-EDU's shape",
                )
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Unreadable(shard, error) from error


def _reason(error: Exception) -> str:
    """Its first sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow, which is not installed", "pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
