"""Rows of JSONL, JSON and parquet files, one dictionary each; what is no row is named and counted, or refused.

Given: a file or a folder of them. Hands on: (where, row) pairs, where being "train.jsonl:17" for the reader's eye.
Never: stops at a bad line unless told to, nor reads files that are none of these.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trainer.errors import UserError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")
NAMED_MAX = 3
T = TypeVar("T")


@dataclass
class Problems:
    """What could not be used: all of it counted, the first few named. ``refuse``: the first one ends it all."""

    refuse: bool = False
    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Raises UserError if bad rows are refused."""
        if self.refuse:
            raise UserError(f"{where}: {reason}", "mend that line, or pass over such lines with --bad_rows skip")
        self.count += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(f"{where}: {reason}")

    def sentence(self) -> str:
        more = "" if self.count <= NAMED_MAX else f" and {self.count - NAMED_MAX} more"
        return f"skipped {self.count} bad row(s): {'; '.join(self.named)}{more}"


def files_of(path: Path) -> list[Path]:
    """The data files at ``path``, in order of name. Raises UserError if there are none."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
    files = [file for file in files if file.suffix in SUFFIXES]
    if not files:
        raise UserError(f"no {', '.join(SUFFIXES)} file at {path}", "check the path, or fetch the data set again")
    return files


def read(files: list[Path], understand: Callable[[Row], T], problems: Problems, stop: int | None = None) -> list[T]:
    """At most ``stop`` understood rows; ``understand`` raises KeyError, TypeError or ValueError for what it cannot."""
    understood: list[T] = []
    for file in files:
        for where, row in _rows(file, problems):
            if stop is not None and len(understood) >= stop:
                return understood
            try:
                understood.append(understand(row))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                problems.add(where, reason)
    return understood


def _rows(file: Path, problems: Problems) -> Iterator[tuple[str, Row]]:
    if file.suffix == ".parquet":
        from trainer.data import parquet

        for number, row in enumerate(parquet.rows(file), start=1):
            yield f"{file.name}:{number}", row
        return
    try:
        text = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", "check its permissions") from error
    lines = _listed(file, text) if file.suffix == ".json" else text.splitlines()
    for number, line in enumerate(lines, start=1):
        where = f"{file.name}:{number}"
        if isinstance(line, bytes):
            if not line.strip():
                continue
            try:
                line = json.loads(line)
            except ValueError:
                problems.add(where, "not JSON")
                continue
        if isinstance(line, dict):
            yield where, line
        else:
            problems.add(where, "not an object")


def _listed(file: Path, text: bytes) -> list[Any]:
    """A .json file holds one list of rows; many are JSONL in truth."""
    try:
        whole = json.loads(text)
    except ValueError:
        return list(text.splitlines())
    return whole if isinstance(whole, list) else [whole]
