"""Reading a run's journal, from any process and while it is written.

Given: the file that journal.py writes. Hands on: its events as Records, who sent them, the checkpoints of the fold.
Never: writes, or gives up what is good in a file of which a part is damaged.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sidecar import damage, wire
from sidecar.decoding import NO_EVENT, decode
from sidecar.journal_format import BUSY_SECONDS, Checkpoint, check_format, hello_in, unsealed

READ_ROWS = 128  # Rows fetched per read transaction: short ones let SQLite check-point its log.

_decode_records = msgspec.msgpack.Decoder(list[bytes]).decode


class Record(NamedTuple):
    """One event as journaled. Parts have been rejoined: ``seq`` is then that of the last part."""

    row: int
    rank: int
    session: int
    seq: int
    received_ns: int
    event: wire.AnyEvent


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
            if (hello := hello_in(blob)) is not None:
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
                        return Checkpoint(row, number, state, unsealed(history))
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
            except NO_EVENT:
                whole = False
            if whole:
                yield Record(row, rank, session, seq, received_ns, event)
                continue
            repaired = decode(data, session, self._parts)
            if repaired is not None:
                yield Record(row, rank, session, seq, received_ns, repaired)
            elif session not in self._parts:
                self.bad_records += 1


def _is_archived(path: Path) -> bool:
    """Whether SQLite could not put its files beside the journal, as on a read-only mount, and need not."""
    if os.access(path.parent, os.W_OK):
        return False
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size == 0
    except FileNotFoundError:
        return True
