"""One run's journal as rows: from the last checkpoint on, and further whenever more is committed.

Given: the path of a journal. Hands on: records with the rows they became, in order, each once.
Never: writes, waits for more, or gives other rows to whoever reads later or in other batches.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from sidecar.journal import Checkpoint, JournalReader, Record
from sidecar.rows import Projector, Row
from sidecar.state import RunState, dump, load

log = logging.getLogger("sidecar.follow")


class Follower:
    """Raises sqlite3.Error when the journal cannot be opened."""

    def __init__(
        self, path: Path, run_id: str, *, from_checkpoint: bool = True, number_max: int | None = None
    ) -> None:
        """Start at the newest checkpoint (with ``number_max``: the newest not beyond that row of output), or
        (``from_checkpoint=False``, or there is none) at the first row that is still there."""
        self.reader = JournalReader(path)
        checkpoint = self.reader.checkpoint(number_max) if from_checkpoint else None
        state = _state_of(checkpoint)
        if state is None:
            checkpoint = self.reader.first_checkpoint()
            if checkpoint is None and self.reader.last_row() == 0:  # All events were removed: start after them.
                checkpoint = self.reader.checkpoint()
            state = _state_of(checkpoint)
        self.projector = Projector(run_id, state)
        self.checkpoint_history = checkpoint.history if checkpoint else None
        self.row = checkpoint.row if checkpoint else 0
        """The last row read."""
        self.number = checkpoint.number if checkpoint else 0
        """How many rows of output there have been since the run began."""
        self.faults_total = 0
        """Records that the fold failed on: a mistake of ours. They are left out, for every reader alike."""
        self._greeted: set[int] = set()
        """Sessions whose Hello was passed on."""
        self._greet_first()

    def read(self, rows_max: int) -> Iterator[tuple[Record, list[Row]]]:
        """At most ``rows_max`` journal rows further; nothing when there are no more for now."""
        last = min(self.row + rows_max, self.reader.last_row())
        if last <= self.row:
            return
        self._greet_first()
        for record in self.reader.records(self.row, last - self.row):
            if record.session not in self._greeted:
                self._greet(record.session)
            try:
                rows = self.projector.feed(record)
            except Exception:  # noqa: BLE001 - Task boundary: one record must not end the view of its run.
                self.faults_total += 1
                if self.faults_total == 1:
                    log.exception("record %d of rank %d in row %d is left out", record.seq, record.rank, record.row)
                rows = []
            self.number += len(rows)
            self.row = record.row
            yield record, rows
        self.row = max(self.row, last)

    def checkpoint(self, history: bytes | None = None) -> Checkpoint | None:
        """The fold so far. None in the middle of a record that came in parts."""
        if self.reader.has_open_parts:
            return None
        return Checkpoint(self.row, self.number, dump(self.projector.state), history)

    def behind_rows(self) -> int:
        return max(0, self.reader.last_row() - self.row)

    def close(self) -> None:
        self.reader.close()

    def _greet_first(self) -> None:
        """The first Hello says which run this is, before there is any record."""
        if not self.projector.state.greeted and (first := self.reader.first_greeting()) is not None:
            self.projector.greet(*first)

    def _greet(self, session: int) -> None:
        """Pass on a stream's Hello, with its first record: a Hello has no effect before that."""
        self._greeted.add(session)
        if (found := self.reader.greeting_of(session)) is not None:
            self.projector.greet(*found)


def _state_of(checkpoint: Checkpoint | None) -> RunState | None:
    """None where a sidecar of another version wrote it and this one cannot read it: its events are folded again."""
    try:
        return load(checkpoint.state) if checkpoint else None
    except ValueError as error:
        log.warning("a checkpoint cannot be read, so what came before it is read again: %s", error)
        return None
