"""Reading an SQLite table of which some pages are damaged.

Given: an open database and a table whose first column is its integer primary key. Hands on: every row that can be
read, in order.
Never: writes, or gives up the good rows before and after a bad page.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # The second: SQLite quotes damaged text in its own messages.
CONTENT_AT_FAULT = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ")
IN_USE = ("SQLITE_BUSY", "SQLITE_LOCKED")
SINGLE_ROWS = 512  # More than a page holds: so many unreadable rows in a row are passed over one by one.
SKIP_ROWS_MAX = 1 << 20  # Beyond that, jumps double up to this length.
ROWID_BOUND = 1 << 32  # Where the last row is not known. The jumps reach it in a few thousand reads.


@contextlib.contextmanager
def passed_over() -> Iterator[None]:
    """Goes on after the block where the content of the file is at fault. A lock or a missing right is raised."""
    try:
        yield
    except DAMAGE as error:
        if not (isinstance(error, UnicodeDecodeError) or _name(error).startswith(CONTENT_AT_FAULT)):
            raise


def is_in_use(error: Exception) -> bool:
    """Nothing is wrong with the file: somebody else holds a lock on it."""
    return _name(error).startswith(IN_USE)


def readable_rows(
    database: sqlite3.Connection, table: str, after: int = -1, last: int | None = None
) -> Iterator[tuple[Any, ...]]:
    """Whole rows with a key above ``after``. ``last``: no key is higher."""
    last = _last_rowid(database, table) if last is None else last
    failures, skip = 0, 1
    while after < last:
        try:
            cursor = database.execute(f"SELECT * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 1", (after,))
            row = cursor.fetchone()
        except DAMAGE as error:
            if isinstance(error, sqlite3.ProgrammingError) or is_in_use(error):
                raise
            after, failures = after + skip, failures + 1
            skip = 1 if failures < SINGLE_ROWS else min(2 * skip, SKIP_ROWS_MAX)
            continue
        if row is None:
            return
        after, failures, skip = row[0], 0, 1
        yield row


def _name(error: Exception) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def _last_rowid(database: sqlite3.Connection, table: str) -> int:
    try:
        return int(database.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0)
    except DAMAGE:
        return ROWID_BOUND


def damaged_text(rows: int) -> str:
    """What a reader of a run's journal must know of ``rows`` that it could not read."""
    one = rows == 1
    which = f"{rows:,} row{'' if one else 's'} of the journal, of up to 128 events{'' if one else ' each'},"
    return f"{which} {'is' if one else 'are'} damaged and left out"
