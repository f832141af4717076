"""The journal as numbered rows, cut into batches: the reading half of a runner, without threads or sinks.

Given: a journal reader, a projector, the cursor to start from. Hands on: batches of rows not yet delivered.
Never: delivers, or gives a row another number than in an earlier life: projection is a pure function of the journal.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from sidecar import wire
from sidecar.rows import Row, RunInfo
from sidecar.sinks.cursors import Cursor


class Reader(Protocol):
    """What of sidecar.journal.JournalReader is needed here."""

    def hellos(self) -> list[wire.Hello]: ...
    def records(self, after_row: int = 0, rows_max: int | None = None) -> Iterator[Any]: ...
    def last_row(self) -> int: ...
    def close(self) -> None: ...


class Projector(Protocol):
    """What of sidecar.rows.Projector is needed here."""

    def info(self) -> RunInfo: ...
    def greet(self, hello: wire.Hello, received_ns: int) -> None: ...
    def feed(self, record: Any) -> list[Row]: ...


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    batch_rows_max: int = 1_000
    """Rows handed to the sink at once; also what a crash can repeat."""
    read_rows_max: int = 16
    """Journal rows read at once; each may hold many events."""
    pace_seconds: float = 0.25
    """Shortest time between two deliveries, so that a busy run is delivered in batches."""
    poll_seconds: float = 1.0
    """How long an idle runner sleeps when nobody notifies it."""
    linger_seconds: float = 10.0
    """How long after the run's end, with everything delivered, the sink is kept open for latecomers."""
    poison_attempts: int = 5
    """Failures of one batch before its bad rows are looked for."""
    period_steps: int = 1
    """Of step and derived rows only every so many steps are delivered. Selected, never averaged."""


class Batch(msgspec.Struct):
    rows: list[Row]
    """As projected; after the gate, as they may leave."""
    number: int
    cursor: Cursor
    """Where the cursor goes once these were delivered."""
    oldest_received_ns: int
    last_received_ns: int


class Source:
    """The journal as numbered rows: the reading half, without threads or sinks."""

    def __init__(self, reader: Reader, projector: Projector, start: Cursor, policy: Policy) -> None:
        self._reader, self._projector, self._policy = reader, projector, policy
        self._start = start
        self.cursor = Cursor(0, 0)
        self._position = 0
        self._running: set[tuple[int, int]] = set()
        self._trimmed = False
        self._greeted: set[tuple[int, int]] = set()
        self._hellos: dict[tuple[int, int], wire.Hello] = {}
        self._read_hellos(greet_first=True)

    def info(self) -> RunInfo:
        return self._projector.info()

    def last_row(self) -> int:
        return self._reader.last_row()

    def next_batch(self) -> Batch | None:
        """The next rows not yet delivered, None when the journal has no more for now."""
        rows: list[Row] = []
        number, oldest, newest = self.cursor.number, 0, 0
        while len(rows) < self._policy.batch_rows_max:
            read_any = False
            for record in self._reader.records(self._position, self._policy.read_rows_max):
                read_any = True
                fresh = self._feed(record)
                if fresh and not rows:
                    number, oldest = self.cursor.number - len(fresh), record.received_ns
                rows += fresh
                newest = record.received_ns
            if read_any:
                self._position = self.cursor.row
            elif self._position < self._reader.last_row():  # Rows with nothing whole in them: parts, or damaged.
                self._position += self._policy.read_rows_max
            else:
                break
        if not rows:
            return None
        return Batch(rows, number, self.cursor, oldest, newest)

    def close(self) -> None:
        self._reader.close()

    def _feed(self, record: Any) -> list[Row]:
        """Project one record; rows that were delivered in an earlier life come back as nothing."""
        if self.cursor.row == 0 and record.row > 1 and self._start.row:
            self._trimmed = True  # Retention removed the oldest rows: count from the stored number, not from 0.
        stream = (record.rank, record.session)
        if stream not in self._greeted:
            self._greet(stream, record.received_ns)
        event = record.event
        if isinstance(event, wire.Finished):
            self._running.discard(stream)
        elif isinstance(event, wire.RankEnded):
            self._running.discard((event.rank, event.session))
        rows = self._projector.feed(record)
        if self._trimmed and record.row <= self._start.row:
            self.cursor = Cursor(record.row, self._start.number)
            return []
        done = max(0, self._start.number - self.cursor.number)
        self.cursor = Cursor(record.row, self.cursor.number + len(rows))
        return rows[done:]

    @property
    def ended(self) -> bool:
        """Has every training process that was heard of said goodbye, or been found gone?"""
        return bool(self._greeted) and not self._running

    @property
    def complete(self) -> bool:
        """Does the journal still begin at its first row?"""
        first = next(iter(self._reader.records(0, 1)), None)
        return first is None or first.row <= 1

    def _greet(self, stream: tuple[int, int], received_ns: int) -> None:
        """A stream is greeted at its first record, not when its Hello came, so that every replay is alike."""
        if stream not in self._hellos:
            self._read_hellos(greet_first=False)
        self._greeted.add(stream)
        hello = self._hellos.get(stream)
        if hello is not None:
            self._running.add(stream)
            self._projector.greet(hello, received_ns)

    def _read_hellos(self, *, greet_first: bool) -> None:
        hellos = self._reader.hellos()
        self._hellos.update({(hello.rank, hello.session): hello for hello in hellos})
        if greet_first and hellos:
            first = hellos[0]
            self._greeted.add((first.rank, first.session))
            self._running.add((first.rank, first.session))
            self._projector.greet(first, first.time_ns)
