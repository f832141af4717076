"""One run's journal as rows: from the last checkpoint on, and further whenever more is committed.

Given: the path of a journal. Hands on: records with the rows they became, in order, each once.
Never: writes, waits for more, or gives other rows to whoever reads later or in other batches.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidecar import wire
from sidecar.damage import DAMAGE, damaged_text
from sidecar.derive.anomalies import alert
from sidecar.journal_format import SUMMARY_KEY, Checkpoint
from sidecar.journal_reader import JournalReader, Record
from sidecar.rows import Projector, Row
from sidecar.snapshot import RunSummary
from sidecar.state import ENDS, LIVE, RunState, current_ranks, dump, load
from sidecar.streams import count_alive

log = logging.getLogger("sidecar.follow")


class Follower:
    """Raises sqlite3.Error when the journal cannot be opened."""

    def __init__(
        self, path: Path, run_id: str, *, from_checkpoint: bool = True, number_max: int | None = None
    ) -> None:
        """Start at the newest checkpoint if it has the series of charts, or (``from_checkpoint=False``, or it has not)
        at the first row that is still there. With ``number_max`` no series are needed: start at the newest checkpoint
        not beyond that row of output."""
        self.reader = JournalReader(path)
        checkpoint = self.reader.checkpoint(number_max) if from_checkpoint else None
        if checkpoint is not None and checkpoint.history is None and number_max is None:
            log.warning("the stored series of %s cannot be used, so its events are read again", path.name)
            checkpoint = None
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
        self._damaged_rows = 0
        """How many the state knows of."""
        self._spoken_row = 0
        """The last row that a training process sent."""
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
            speaker = record.session
            if record.rank == wire.SIDECAR_RANK and type(record.event) is wire.RankEnded:
                speaker = record.event.session
            if speaker not in self._greeted:
                self._greet(speaker)
            try:
                rows = self.projector.feed(record)
            except Exception:  # noqa: BLE001 - Task boundary: one record must not end the view of its run.
                self.faults_total += 1
                if self.faults_total == 1:
                    log.exception("record %d of rank %d in row %d is left out", record.seq, record.rank, record.row)
                rows = []
            self.number += len(rows)
            self.row = record.row
            if record.rank != wire.SIDECAR_RANK:
                self._spoken_row = record.row
            yield record, rows
        self.row = max(self.row, last)
        if self.reader.damaged_rows > self._damaged_rows and not self.behind_rows():
            self._note_damage()

    def checkpoint(self, history: bytes | None = None) -> Checkpoint | None:
        """The fold so far. None in the middle of a record that came in parts."""
        if self.reader.has_open_parts:
            return None
        return Checkpoint(self.row, self.number, dump(self.projector.state), history)

    def behind_rows(self) -> int:
        return max(0, self.reader.last_row() - self.row)

    def close(self) -> None:
        self.reader.close()

    def _note_damage(self) -> None:
        """Tell the state what is missing. Where that is how the run ended, the stored summary still says it."""
        state, self._damaged_rows = self.projector.state, self.reader.damaged_rows
        text = damaged_text(self._damaged_rows)
        last_ns = max((rank.last_time_ns for rank in state.ranks.values()), default=0)
        alert(state, "journal_damaged", "warning", text, state.step, last_ns)
        if self.reader.last_damaged_row > self._spoken_row and (end := self._stored_end()):
            for rank in current_ranks(state):
                if rank.state in LIVE:
                    rank.state, rank.reason = end, text
            count_alive(state)

    def _stored_end(self) -> str | None:
        with contextlib.suppress(*DAMAGE, ValueError):
            stored = msgspec.msgpack.decode(self.reader.get(SUMMARY_KEY) or b"", type=RunSummary)
            return stored.state if stored.state in ENDS else None
        return None

    def _greet_first(self) -> None:
        """The first Hello says which run this is, before there is any record."""
        if not self.projector.state.greeted and (first := self.reader.first_greeting()) is not None:
            self.projector.greet(*first)

    def _greet(self, session: int) -> None:
        """Pass on a stream's Hello, with its first record or the news of its end: it has no effect before that."""
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
