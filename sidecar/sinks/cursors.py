"""How far each sink has come: one small SQLite file beside the journals.

Given: (run, sink, journal row, row number). Hands on: the same, after a restart.
Never: moves a cursor before the rows were delivered; that is its callers' promise, kept in runner.py.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sidecar.sinks.base import Unavailable

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS cursors (
    run TEXT NOT NULL, sink TEXT NOT NULL, row INTEGER NOT NULL, number INTEGER NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0, confirmed INTEGER, PRIMARY KEY (run, sink)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (run TEXT NOT NULL, sink TEXT NOT NULL, PRIMARY KEY (run, sink)) WITHOUT ROWID;
"""


class Cursor(NamedTuple):
    """``row``: the last journal row whose rows were all delivered (0: none). ``number``: ordinal of the next row."""

    row: int = 0
    number: int = 0


class Cursors:
    """Thread-safe. A crash loses at most the last moves (repeated batches), never a consistent file.

    Every method raises Unavailable, with the remedy, when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """A damaged file is put aside: every sink then gets its runs from the first row, and most know what they have.
        Raises sqlite3.Error or OSError when the file cannot be opened or written."""
        self._path, self._lock = path, threading.Lock()
        try:
            self._db = _opened(path)
        except sqlite3.OperationalError:  # Locked, or no space or permission: there is nothing wrong with the file.
            raise
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
            log.error("%s is damaged (%s); it is now %s, and sinks begin anew", path, error, aside.name)
            path.replace(aside)
            for suffix in ("-wal", "-shm"):  # SQLite would take them for the new file's.
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = _opened(path)

    def get(self, run: str, sink: str) -> Cursor:
        with self._locked() as db:
            found = db.execute(
                "SELECT row, number FROM cursors WHERE run = ? AND sink = ?", (run, sink)
            ).fetchone()
        return Cursor(*found) if found else Cursor()

    def move(self, run: str, sink: str, cursor: Cursor) -> None:
        with self._locked() as db:
            db.execute(
                "INSERT INTO cursors (run, sink, row, number) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (run, sink) DO UPDATE SET row = excluded.row, number = excluded.number",
                (run, sink, cursor.row, cursor.number),
            )

    def paused(self, run: str, sink: str) -> bool:
        with self._locked() as db:
            found = db.execute(
                "SELECT paused FROM cursors WHERE run = ? AND sink = ?", (run, sink)
            ).fetchone()
        return bool(found and found[0])

    def pause(self, run: str, sink: str, paused: bool) -> None:
        with self._locked() as db:
            db.execute(
                "INSERT INTO cursors (run, sink, row, number, paused) VALUES (?, ?, 0, 0, ?) "
                "ON CONFLICT (run, sink) DO UPDATE SET paused = excluded.paused",
                (run, sink, int(paused)),
            )

    def confirm(self, run: str, sink: str, number: int) -> None:
        """Rows numbered below this are known to have arrived. Only for sinks that can tell."""
        with self._locked() as db:
            db.execute("UPDATE cursors SET confirmed = ? WHERE run = ? AND sink = ?", (number, run, sink))

    def unconfirmed(self) -> set[tuple[str, str]]:
        """Every (run, sink) that was handed rows of which it is not known that they arrived."""
        with self._locked() as db:
            return set(db.execute("SELECT run, sink FROM cursors WHERE confirmed < number").fetchall())

    def all(self) -> dict[tuple[str, str], Cursor]:
        """Every (run, sink) there is."""
        with self._locked() as db:
            rows = db.execute("SELECT run, sink, row, number FROM cursors").fetchall()
        return {(run, sink): Cursor(row, number) for run, sink, row, number in rows}

    def request(self, run: str, sink: str) -> bool:
        """Ask that this run be sent to this sink from its first row. False: it is, or was, already."""
        with self._locked() as db:
            done = db.execute(
                "INSERT OR IGNORE INTO cursors (run, sink, row, number) VALUES (?, ?, 0, 0)", (run, sink)
            )
        return done.rowcount > 0

    def order(self, run: str, sink: str) -> None:
        """Ask the sidecar that serves this directory to deliver now, whatever the run's age."""
        with self._locked() as db:
            db.execute("INSERT OR IGNORE INTO orders VALUES (?, ?)", (run, sink))

    def take_orders(self) -> list[tuple[str, str]]:
        with self._locked() as db:
            taken: list[tuple[str, str]] = db.execute("DELETE FROM orders RETURNING run, sink").fetchall()
        return taken

    def of_run(self, run: str) -> dict[str, Cursor]:
        """Every sink that this run was ever sent to: retention must not pass the lowest of them."""
        with self._locked() as db:
            rows = db.execute("SELECT sink, row, number FROM cursors WHERE run = ?", (run,)).fetchall()
        return {sink: Cursor(row, number) for sink, row, number in rows}

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._db
        except sqlite3.Error as error:
            raise Unavailable(cannot_be_used(self._path, error)) from error


def cannot_be_used(path: Path, error: Exception) -> str:
    """In one line for `/status` and the terminal: what is wrong, and what to do."""
    return f"{path} cannot be used ({error}); make room there, and let this user write there"


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(SCHEMA)
        if "confirmed" not in {column for _, column, *_ in db.execute("PRAGMA table_info(cursors)")}:
            with contextlib.suppress(sqlite3.OperationalError):  # Another process has just added it.
                db.execute("ALTER TABLE cursors ADD COLUMN confirmed INTEGER")  # Made by an earlier version.
    except sqlite3.Error:
        db.close()
        raise
    return db
