"""How a journal's file is laid out, for its writer and its readers, and the number of that layout.

Given: an open database, and values from its columns. Hands on: its tables, or WrongFormat; what the values hold, None
where they are damaged. Never: lets a file of another layout be misread.
"""

import contextlib
import sqlite3
import zlib
from pathlib import Path
from typing import NamedTuple

from sidecar import wire

FORMAT = 1
"""Raise it when a sidecar of before would misread what this one writes, not for a further table."""
CLEAN_KEY = "closed_in_order"
SUMMARY_KEY = "summary"
BUSY_SECONDS = 10.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS streams (
    id INTEGER PRIMARY KEY, rank INTEGER NOT NULL, session INTEGER NOT NULL UNIQUE,
    next_seq INTEGER NOT NULL DEFAULT 0, received_ns INTEGER NOT NULL, hello BLOB
);
CREATE TABLE IF NOT EXISTS frames (
    row INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    count INTEGER NOT NULL, received_ns INTEGER NOT NULL, crc INTEGER NOT NULL, records BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS checkpoints (
    row INTEGER PRIMARY KEY, number INTEGER NOT NULL, crc INTEGER NOT NULL, state BLOB NOT NULL, history BLOB
);
"""


class Checkpoint(NamedTuple):
    """The fold of everything up to a row, so that nobody has to fold it again."""

    row: int
    number: int
    """How many rows of output (sidecar.rows) had been projected by then."""
    state: bytes
    history: bytes | None
    """The series of charts. None in all but the newest, and where they are damaged."""


class WrongFormat(sqlite3.NotSupportedError):
    """A sidecar of another version wrote the file in a layout that this one does not know. Its text is one line for
    people. It is an sqlite3.Error: to whoever cannot use a journal the reason makes no difference."""

    remedy = "upgrade this sidecar (pip install --upgrade trainer-sidecar), or use the one that wrote the run"


def check_format(database: sqlite3.Connection, path: Path) -> None:
    """Closes the database and raises WrongFormat when its layout is another one. A file without tables has none yet,
    and where the number itself is damaged, the checksums of the rows still tell what is good."""
    try:
        found = database.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return  # Whoever reads on meets the same error, and knows what to do about it.
    if found is not None and isinstance(found[0], int) and found[0] != FORMAT:
        database.close()
        whose = "a newer" if found[0] > FORMAT else "an older"
        raise WrongFormat(f"{path.name} was written by {whose} sidecar in journal format {found[0]}; "
                          f"this one reads format {FORMAT} only")  # fmt: skip


def sealed(data: bytes) -> bytes:
    """With its checksum, four bytes, at the end."""
    return data + zlib.crc32(data).to_bytes(4, "big")


def unsealed(found: bytes | None) -> bytes | None:
    """What was sealed; None where the checksum does not agree."""
    data = found[:-4] if found else b""
    return data if found and sealed(data) == found else None


def hello_in(blob: bytes | None) -> wire.Hello | None:
    """None for the sidecar's own stream, and for a damaged one: its trainer will be asked again."""
    with contextlib.suppress(ValueError):
        message = wire.decode_from_trainer(blob or b"")
        return message if isinstance(message, wire.Hello) else None
    return None
