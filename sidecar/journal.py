"""One run's journal: every event as it was sent, committed before it is acknowledged, in one SQLite file.

Given: frames in stream order. Hands on: the same events as Records, to any number of readers in any process.
Never: acknowledges, interprets an event, or stores a part of a batch.

A row holds up to 128 consecutive events of one stream. The next expected sequence number of each stream is stored in
the same transaction as its events, so "committed" and "will not be taken twice" are one fact.
"""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sidecar import damage, wire
from sidecar.decoding import decode
from sidecar.journal_format import CLEAN_KEY, FORMAT, SCHEMA, check_format

READ_ROWS = 128  # Rows fetched per read transaction: short ones let SQLite check-point its log.
BUSY_SECONDS = 10.0
SUMMARY_KEY = "summary"
USAGE_PRAGMAS = ("page_count", "freelist_count", "page_size")

_encode = msgspec.msgpack.Encoder().encode
_decode_records = msgspec.msgpack.Decoder(list[bytes]).decode


class Record(NamedTuple):
    """One event as journaled. Parts have been rejoined: ``seq`` is then that of the last part."""

    row: int
    rank: int
    session: int
    seq: int
    received_ns: int
    event: wire.AnyEvent


class Checkpoint(NamedTuple):
    """The fold of everything up to a row, so that nobody has to fold it again."""

    row: int
    number: int
    """How many rows of output (sidecar.rows) had been projected by then."""
    state: bytes
    history: bytes | None
    """The series of charts. None in all but the newest, and where they are damaged."""


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
                (row, number, zlib.crc32(state), state, None if history is None else _sealed(history)),
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


class JournalReader:
    """Reads a journal that may still be written, in this or another process.

    Raises sqlite3.Error if it cannot; WrongFormat, which is one, already from the constructor.
    """

    def __init__(self, path: Path, *, is_settled: bool = False) -> None:
        """``is_settled``: nobody writes to it while it is read. That is quicker, and leaves no files beside it."""
        self.path = path
        self.damaged_rows = 0
        """Rows that are damaged, left out."""
        self.last_damaged_row = 0
        """The newest of them; 0 when there are none."""
        self.bad_records = 0
        """Records that are no event of this version even after their bad values were dropped."""
        address = path.absolute().as_uri()  # Quoted: a "#" or "?" in the path would end it otherwise.
        options = "mode=ro&immutable=1" if is_settled or _is_archived(path) else "mode=ro"
        self._db = sqlite3.connect(f"{address}?{options}", uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
        check_format(self._db, path)
        self._parts: dict[int, list[bytes]] = {}
        self._streams_by_id: dict[int, tuple[int, int]] = {}  # stream id -> (rank, session)

    def hellos(self) -> list[wire.Hello]:
        """Who has spoken, in order of arrival. Grows when a trainer restarts."""
        return [hello for hello, _ in self._greetings("ORDER BY id")]

    def lowest_rank(self) -> int | None:
        """Of those that have introduced themselves."""
        found = self._db.execute("SELECT min(rank) FROM streams WHERE rank >= 0").fetchone()
        return None if found[0] is None else int(found[0])

    def first_greeting(self) -> tuple[wire.Hello, int] | None:
        """The first Hello and when it was received, nanoseconds."""
        return next(self._greetings("WHERE hello IS NOT NULL ORDER BY id"), None)

    def greeting_of(self, session: int) -> tuple[wire.Hello, int] | None:
        """The same of one stream; None for the sidecar's own."""
        return next(self._greetings("WHERE session = ?", session), None)

    @property
    def has_open_parts(self) -> bool:
        """Has the reader stopped in the middle of a record that was sent in parts?"""
        return bool(self._parts)

    def records(self, after_row: int = 0, rows_max: int | None = None) -> Iterator[Record]:
        """Events of the rows after ``after_row``, oldest first, up to what is committed when the reader gets there."""
        left = rows_max
        while left is None or left > 0:
            limit = READ_ROWS if left is None else min(READ_ROWS, left)
            rows = self._rows_after(after_row, limit)
            if not rows:
                return
            for row, stream, first_seq, _, received_ns, crc, blob in rows:
                rank, session = self._streams_by_id.get(stream) or self._find_stream(stream)
                yield from self._row(row, rank, session, first_seq, received_ns, crc, blob)
            after_row = rows[-1][0]
            left = None if left is None else left - len(rows)

    def last_row(self) -> int:
        with damage.passed_over():
            return int(self._db.execute("SELECT coalesce(max(row), 0) FROM frames").fetchone()[0])
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'frames'").fetchone()
        return int(found[0]) if found else 0

    def received_ns_after(self, row: int) -> int | None:
        """When the first row after ``row`` was received; None when there is none."""
        found = self._db.execute("SELECT received_ns FROM frames WHERE row > ? ORDER BY row LIMIT 1", (row,)).fetchone()
        return int(found[0]) if found else None

    def first_row(self) -> int:
        """The oldest row that is still there; 1 when nothing was dropped."""
        with damage.passed_over():
            return int(self._db.execute("SELECT coalesce(min(row), 1) FROM frames").fetchone()[0])
        return next((row for row, *_ in damage.readable_rows(self._db, "frames")), 1)

    def checkpoint(self, number_max: int | None = None) -> Checkpoint | None:
        """The newest usable checkpoint (with ``number_max``: the newest not beyond that row of output)."""
        return self._newest_checkpoint("? IS NULL OR number <= ?", (number_max, number_max))

    def first_checkpoint(self) -> Checkpoint | None:
        """Where the events begin when older ones were dropped; None when none were."""
        first = self.first_row()
        return self._newest_checkpoint("row < ?", (first,)) if first > 1 else None

    def get(self, key: str) -> bytes | None:
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        self._db.close()

    def _greetings(self, which: str, *values: int) -> Iterator[tuple[wire.Hello, int]]:
        for blob, received_ns in self._db.execute(f"SELECT hello, received_ns FROM streams {which}", values):
            if (hello := _hello(blob)) is not None:
                yield hello, received_ns

    def _rows_after(self, after_row: int, limit: int) -> list[tuple[Any, ...]]:
        """The next rows of the table, without those on damaged pages."""
        with damage.passed_over():
            query = "SELECT * FROM frames WHERE row > ? ORDER BY row LIMIT ?"
            return self._db.execute(query, (after_row, limit)).fetchall()
        last = self.last_row()
        found = [*islice(damage.readable_rows(self._db, "frames", after_row, last), limit)]
        newest = end = found[-1][0] if found else last
        for row, *_ in reversed(found):
            if row != newest:
                break
            newest -= 1
        if damaged := end - after_row - len(found):
            self._note_damaged(damaged, newest)
        return found

    def _note_damaged(self, rows: int, newest: int) -> None:
        self.damaged_rows += rows
        self.last_damaged_row = max(self.last_damaged_row, newest)

    def _newest_checkpoint(self, where: str, values: tuple[Any, ...]) -> Checkpoint | None:
        """The newest of these that is not damaged."""
        with damage.passed_over():
            rows = f"SELECT row FROM checkpoints WHERE {where} ORDER BY row DESC"
            for (row,) in self._db.execute(rows, values).fetchall():
                with damage.passed_over():
                    found = "SELECT number, crc, state, history FROM checkpoints WHERE row = ?"
                    number, crc, state, history = self._db.execute(found, (row,)).fetchone()
                    if zlib.crc32(state) == crc:
                        return Checkpoint(row, number, state, _unsealed(history))
        return None

    def _find_stream(self, stream: int) -> tuple[int, int]:
        found = self._db.execute("SELECT rank, session FROM streams WHERE id = ?", (stream,)).fetchone()
        self._streams_by_id[stream] = key = found or (wire.SIDECAR_RANK, 0)
        return key

    def _row(
        self, row: int, rank: int, session: int, first_seq: int, received_ns: int, crc: int, blob: bytes
    ) -> Iterator[Record]:
        if zlib.crc32(blob) != crc:
            self._note_damaged(1, row)
            return
        for seq, data in enumerate(_decode_records(blob), first_seq):
            try:
                event = wire.decode_event(data)  # The usual case, without detours.
                whole = event.__class__ is not wire.Part and not self._parts
            except Exception:  # noqa: BLE001 - as in sidecar.decoding
                whole = False
            if whole:
                yield Record(row, rank, session, seq, received_ns, event)
                continue
            repaired = decode(data, session, self._parts)
            if repaired is not None:
                yield Record(row, rank, session, seq, received_ns, repaired)
            elif session not in self._parts:
                self.bad_records += 1


def _sealed(data: bytes) -> bytes:
    """With its checksum, four bytes, at the end."""
    return data + zlib.crc32(data).to_bytes(4, "big")


def _unsealed(sealed: bytes | None) -> bytes | None:
    """None where the checksum does not agree."""
    data = sealed[:-4] if sealed else b""
    return data if sealed and _sealed(data) == sealed else None


def _is_archived(path: Path) -> bool:
    """Whether SQLite could not put its files beside the journal, as on a read-only mount, and need not."""
    if os.access(path.parent, os.W_OK):
        return False
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size == 0
    except FileNotFoundError:
        return True


def _streams(db: sqlite3.Connection, where: str = "", values: tuple[Any, ...] = ()) -> list[Stream]:
    rows = db.execute(f"SELECT id, rank, session, next_seq, hello FROM streams {where} ORDER BY id", values).fetchall()
    return [Stream(id, rank, session, next_seq, _hello(blob)) for id, rank, session, next_seq, blob in rows]


def _hello(blob: bytes | None) -> wire.Hello | None:
    """None for the sidecar's own stream, and for a damaged one: its trainer will be asked again."""
    with contextlib.suppress(ValueError):
        message = wire.decode_from_trainer(blob or b"")
        return message if isinstance(message, wire.Hello) else None
    return None
