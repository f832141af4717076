"""Rows of JSONL, JSON and parquet files, one dictionary each; unusable rows are counted and named, or refused.

Given: a file or a folder of them. Hands on: examples, and a DataReport of what could not be used.
Never: stops at a bad line unless told to, or reads files of other kinds.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainer.data.corpus import files_below
from trainer.data.quality import DataReport, Quality
from trainer.errors import UserError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")
NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "state.json")
"""Metadata that the datasets library and the hub keep beside the rows."""
LINE_BYTES_MAX = 16 * 1024 * 1024
"""A longer line is not a row, but a file that lost its line breaks."""


class Readable(Protocol):
    def text(self) -> str: ...


T = TypeVar("T", bound=Readable)


def files_of(path: Path) -> list[Path]:
    """The data files at ``path``, in order of name. Raises UserError if there are none."""
    found = [path] if path.is_file() else files_below(path)
    files = [f for f in found if f.suffix in SUFFIXES and f.is_file() and f.name not in NOT_ROWS]
    if not files:
        raise UserError(f"no {', '.join(SUFFIXES)} file at {path}", "check the path, or fetch the data set again")
    return files


def read(files: list[Path], to_example: Callable[[Row], T], report: DataReport, stop: int | None = None) -> list[T]:
    """At most ``stop`` examples; ``to_example`` raises KeyError or ValueError for an unusable row."""
    examples: list[T] = []
    for file in files:
        for where, row in _rows(file, report):
            if stop is not None and len(examples) >= stop:
                return examples
            try:
                example = to_example(row)
            except (KeyError, ValueError) as error:
                report.add(where, f"no field {error}" if isinstance(error, KeyError) else str(error))
                continue
            if keep(example, report.quality, row):
                examples.append(example)
    return examples


def keep(example: Readable, quality: Quality, row: Row | None = None) -> bool:
    """May it be trained on? ``row``: its source, which may say its language, score and license."""
    field = (row or {}).get
    return quality.keep(example.text().encode(errors="replace"), field("language"), field("score"), field("license"))


def _rows(file: Path, report: DataReport) -> Iterator[tuple[str, Row]]:
    if file.suffix == ".parquet":
        from trainer.data import parquet

        yield from parquet.rows(file, report)
        return
    try:
        for number, row in _parsed(file):
            where = f"{file.name}:{number}"
            if isinstance(row, dict):
                yield where, row
            else:
                report.add(where, row if isinstance(row, str) else "not an object")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", "check its permissions") from error


def _parsed(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, row), or (number, what is wrong with that line)."""
    if file.suffix == ".json" and (whole := _listed(file)) is not None:
        yield from ((number, row if isinstance(row, dict) else None) for number, row in enumerate(whole, start=1))
        return
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(LINE_BYTES_MAX):
            number += 1
            if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
                while (rest := lines.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                    pass
                yield number, f"longer than {LINE_BYTES_MAX // 1024**2} MiB"
            elif line.strip():
                yield number, _row_or_reason(line)


def _row_or_reason(line: bytes) -> Any:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not JSON"
    return row if isinstance(row, dict) else None


def _listed(file: Path) -> list[Any] | None:
    """The rows of a .json file that holds a list of them, or one; None if it is JSONL under another name."""
    try:
        whole = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, list) else [whole]
