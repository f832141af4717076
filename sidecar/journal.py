"""One run's journal: every event as it was sent, committed before it is acknowledged, in one SQLite file.

Given: frames in stream order. Hands on: the file, for any number of readers in any process (journal_reader.py).
Never: acknowledges, interprets an event, or stores a part of a batch.

A row holds up to 128 consecutive events of one stream. The next expected sequence number of each stream is stored in
the same transaction as its events, so "committed" and "will not be taken twice" are one fact.
"""

import contextlib
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sidecar import wire
from sidecar.journal_format import (
    BUSY_SECONDS,
    CLEAN_KEY,
    FORMAT,
    SCHEMA,
    SUMMARY_KEY,
    Checkpoint,
    check_format,
    hello_in,
    sealed,
)

USAGE_PRAGMAS = ("page_count", "freelist_count", "page_size")

_encode = msgspec.msgpack.Encoder().encode


class Chunk(NamedTuple):
    """Consecutive events of one stream, about to be appended."""

    session: int
    first_seq: int
    received_ns: int
    records: list[bytes]


class JournalFull(OSError):
    """There is no space for the batch. Nothing of it was stored; the same batch may be tried again."""


class JournalGone(OSError):
    """The file was removed or replaced under us: what is written now would have no name, so nothing is."""


class Stream:
    """What the journal knows of one stream. ``next_seq`` counts committed events only."""

    __slots__ = ("hello", "id", "next_seq", "rank", "session")

    def __init__(self, id: int, rank: int, session: int, next_seq: int, hello: wire.Hello | None) -> None:
        self.id, self.rank, self.session, self.next_seq, self.hello = id, rank, session, next_seq, hello


class Journal:
    """The one writer of a run's journal. The constructor raises sqlite3.Error when the file is not usable, WrongFormat
    among them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
        check_format(self._db, path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # Acknowledged means on the disk.
        self._db.executescript(SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (FORMAT,))
        self._db.execute("DELETE FROM meta WHERE key = ?", (CLEAN_KEY,))
        self.streams = {stream.session: stream for stream in _streams(self._db)}
        self._inode = path.stat().st_ino
        self._summary: bytes | None = None
        """As it was last committed by this process."""

    def greet(self, hello: wire.Hello, received_ns: int) -> Stream:
        """Store who is speaking; a known session keeps its place. Raises JournalFull."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO streams (rank, session, received_ns, hello) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (session) DO UPDATE SET hello = excluded.hello",
                (hello.rank, hello.session, received_ns, wire.encode(hello)),
            )
        return self._load_stream(hello.session)

    def own_stream(self, session: int, received_ns: int) -> Stream:
        """The sidecar's own stream in this journal. Raises JournalFull."""
        if session not in self.streams:
            with self._transaction():
                self._db.execute(
                    "INSERT INTO streams (rank, session, received_ns) VALUES (?, ?, ?)",
                    (wire.SIDECAR_RANK, session, received_ns),
                )
            self._load_stream(session)
        return self.streams[session]

    def append(self, chunks: Iterable[Chunk], summary: bytes | None = None) -> None:
        """Commit all chunks or none. Raises JournalFull, JournalGone, or sqlite3.Error for other faults.

        ``summary`` is stored beside them: what `sidecar runs` shows without reading the events.
        """
        frames: list[tuple[int, int, int, int, int, bytes]] = []
        next_seqs: dict[int, int] = {}
        for session, first_seq, received_ns, records in chunks:
            next_seqs[session] = first_seq + len(records)
            if records:  # An empty chunk only moves the stream on, past events that are lost.
                blob = _encode(records)
                stream = self.streams[session].id
                frames.append((stream, first_seq, len(records), received_ns, zlib.crc32(blob), blob))
        with self._transaction():
            self._db.executemany(
                "INSERT INTO frames (stream, first_seq, count, received_ns, crc, records) VALUES (?, ?, ?, ?, ?, ?)",
                frames,
            )
            self._db.executemany(
                "UPDATE streams SET next_seq = ? WHERE session = ?", [(seq, s) for s, seq in next_seqs.items()]
            )
            if summary is not None and summary != self._summary:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SUMMARY_KEY, summary))
        for session, seq in next_seqs.items():  # Only now: a failed batch must not look like a duplicate when retried.
            self.streams[session].next_seq = seq
        self._summary = summary or self._summary

    def put(self, key: str, value: bytes) -> None:
        """Store a small fact about the run. Raises JournalFull."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def put_summary(self, summary: bytes) -> None:
        """What `append` stores beside events, when there are none. Does nothing if it has not changed."""
        if summary != self._summary:
            self.put(SUMMARY_KEY, summary)
            self._summary = summary

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store the fold up to a row. Only the newest keeps its history. Raises JournalFull."""
        row, number, state, history = checkpoint
        with self._transaction():
            self._db.execute("UPDATE checkpoints SET history = NULL WHERE history IS NOT NULL")
            self._db.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)",
                (row, number, zlib.crc32(state), state, None if history is None else sealed(history)),
            )

    def drop_through(self, row: int) -> int:
        """Remove the events up to ``row``, a checkpoint's; return how many events went. Raises JournalFull."""
        with self._transaction():
            counted = self._db.execute("SELECT coalesce(sum(count), 0) FROM frames WHERE row <= ?", (row,))
            dropped = int(counted.fetchone()[0])
            self._db.execute("DELETE FROM frames WHERE row <= ?", (row,))
            self._db.execute("DELETE FROM checkpoints WHERE row < ?", (row,))
        return dropped

    def checkpoint_rows(self) -> list[int]:
        return [row for (row,) in self._db.execute("SELECT row FROM checkpoints ORDER BY row")]

    def used_bytes(self) -> int:
        """Bytes in use inside the file; space that was freed is used again before the file grows."""
        pages, free, size = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in USAGE_PRAGMAS)
        return int((pages - free) * size)

    def close(self) -> None:
        """Mark the file as closed in order, so that the next opening need not check it."""
        with contextlib.suppress(OSError, sqlite3.Error):
            self.put(CLEAN_KEY, b"1")
            # Into the one file, so that whoever copies it has everything: a reader that closes last does not do it, and
            # the log would stay, as large as the file. One who reads just now is not waited for; the log stays then.
            self._db.execute("PRAGMA busy_timeout = 0")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def _check_it_is_there(self) -> None:
        try:
            if self.path.stat().st_ino == self._inode:
                return
        except OSError:
            pass
        raise JournalGone(f"{self.path} was removed under the sidecar")

    def _load_stream(self, session: int) -> Stream:
        (stream,) = _streams(self._db, "WHERE session = ?", (session,))
        self.streams[session] = stream
        return stream

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_it_is_there()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
                raise JournalFull(f"no space left for {self.path}") from error
            raise


def _streams(db: sqlite3.Connection, where: str = "", values: tuple[Any, ...] = ()) -> list[Stream]:
    rows = db.execute(f"SELECT id, rank, session, next_seq, hello FROM streams {where} ORDER BY id", values).fetchall()
    return [Stream(id, rank, session, next_seq, hello_in(blob)) for id, rank, session, next_seq, blob in rows]
