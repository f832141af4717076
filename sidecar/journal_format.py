"""How a journal's file is laid out, and the number of that layout.

Given: an open database. Hands on: its tables, or WrongFormat. Never: lets a file of another layout be misread.
"""

import sqlite3
from pathlib import Path

FORMAT = 1
"""Raise it when a sidecar of before would misread what this one writes, not for a further table."""
CLEAN_KEY = "closed_in_order"

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
