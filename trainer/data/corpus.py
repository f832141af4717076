"""A corpus: documents split into training and validation, file by file; and the search for files.

Given: a folder; files (or rows) by name. Hands on: which of them are for training and which for validation.
The choice depends on the names alone: the same on every machine and rank, whatever order the disk lists them in.
"""

import os
import zlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trainer.errors import UserError

T = TypeVar("T")
TEXT_FOLDERS = ("fineweb-edu", "fineweb_edu", "text")


@dataclass(frozen=True)
class Corpus:
    name: str  # As the sidecar shows it, e.g. "python-stdlib".
    train: list[bytes]  # One UTF-8 document each.
    val: list[bytes]
    shards: tuple[Path, ...] = ()  # Parquet to train on as a stream; then train is empty.


def shuffled_by_name(names: Sequence[str]) -> list[str]:
    """A fixed pseudo-random order, by checksum of the name, so that any prefix is a fair sample."""
    return sorted(names, key=lambda name: (zlib.crc32(name.encode("utf-8", "surrogateescape")), name))


def text_folder(folder: Path) -> Path | None:
    """The folder of plain text inside one that holds every stage's datasets."""
    return next((folder / name for name in TEXT_FOLDERS if (folder / name).is_dir()), None)


def files_below(folder: Path, skipped: Container[str] = ()) -> list[Path]:
    """The visible files below ``folder`` in order of path, without folders named in ``skipped``. Links to folders are
    followed, but no folder is read twice: a link may lead back to where it lies."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        found += [Path(parent, file) for file in files if not file.startswith(".")]
    return sorted(found)


def split(items: Sequence[T], val_fraction: float, what: str) -> tuple[list[T], list[T]]:
    """(train, validation): the first items validate, at least one. Raises UserError if a half would be empty."""
    if len(items) < 2:
        raise UserError(
            f"{what} has {len(items)} usable document(s) or row(s): too few to train and to validate",
            "give data with at least two",
        )
    held_out = min(len(items) - 1, max(1, round(val_fraction * len(items))))
    return list(items[held_out:]), list(items[:held_out])


def split_documents(documents: list[bytes], val_fraction: float, what: str) -> tuple[list[bytes], list[bytes]]:
    """As ``split``; a document that is the only one is cut in two, at the beginning of a line if it has lines."""
    if len(documents) != 1:
        return split(documents, val_fraction, what)
    text = documents[0]
    end = round(len(text) * (1 - val_fraction))
    end = text.rfind(b"\n", 0, end) + 1 or end
    return [text[:end]], [text[end:]]
