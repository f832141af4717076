"""A journal that was not closed in order: made one file again, checked when it is opened again, and what is good saved.

Given: the path of a journal. Hands on: a journal that can be opened. Never: deletes a damaged file (it goes to the
quarantine folder beside it), or gives up the good records before and after a bad one.
"""

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

from sidecar.damage import DAMAGE, is_in_use, readable_rows
from sidecar.journal_format import CLEAN_KEY, SCHEMA, WrongFormat, check_format

log = logging.getLogger("sidecar.salvage")

QUARANTINE = "quarantine"
SUFFIXES = ("", "-wal", "-shm")
BUSY_SECONDS = 10.0  # Another process may be settling it.


def ensure_sound(path: Path) -> int | None:
    """Check a journal that was not closed in order. None: it is sound, or does not exist yet; else how many good rows
    were saved of it.

    Raises OSError when the damaged file cannot be moved away, and WrongFormat for one that is not ours to judge.
    """
    if not path.exists() or path.stat().st_size == 0 or _is_sound(path):
        return None
    folder = path.parent / QUARANTINE
    folder.mkdir(mode=0o700, exist_ok=True)
    stem = folder / f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}{path.suffix}"
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{stem}{suffix}")
    frames = _copy_good_rows(stem, path)
    log.error("the journal %s was damaged: %d good frames were saved, the file is kept as %s", path.name, frames, stem)
    return frames


def settle(path: Path) -> None:
    """Copy into the journal what a killed sidecar left in the log beside it, so that a copy of the one file has
    everything. Does nothing while anybody has the journal open, or where it cannot be written."""
    log_file = path.with_name(f"{path.name}-wal")
    with contextlib.suppress(OSError, *DAMAGE):
        if not log_file.stat().st_size:
            return
        address = f"{path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0.0, isolation_level=None)) as database:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")  # Fails at the first access while others have it open.
            check_format(database, path)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _is_sound(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
            check_format(database, path)
            with contextlib.suppress(sqlite3.OperationalError):  # No such table: empty, or damaged, as the check says.
                if database.execute("SELECT 1 FROM meta WHERE key = ?", (CLEAN_KEY,)).fetchone():
                    return True
            return database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except WrongFormat:
        raise
    except DAMAGE as error:
        if is_in_use(error):
            raise
        return False


def _copy_good_rows(source: Path, target: Path) -> int:
    frames = 0
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as new:
        new.executescript(SCHEMA)
        new.execute("BEGIN")
        with contextlib.suppress(*DAMAGE), contextlib.closing(sqlite3.connect(source)) as old:
            for row in readable_rows(old, "frames"):
                new.execute("INSERT OR IGNORE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                frames += 1
            for row in readable_rows(old, "streams"):
                new.execute("INSERT OR IGNORE INTO streams VALUES (?, ?, ?, ?, ?, ?)", row)
            for row in readable_rows(old, "checkpoints"):  # Where retention removed events, totals live on only here.
                new.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?, ?, ?)", row)
        _restore_positions(new)
        new.execute("COMMIT")
    return frames


def _restore_positions(database: sqlite3.Connection) -> None:
    """Let each stream continue after its last good frame.

    Trainers no longer hold what was acknowledged beyond it; what was not acknowledged they send again from there.
    """
    database.execute(
        "UPDATE streams SET next_seq = max(next_seq, coalesce("
        "(SELECT max(first_seq + count) FROM frames WHERE frames.stream = streams.id), 0))"
    )
