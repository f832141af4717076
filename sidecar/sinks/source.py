"""The journal as numbered rows, cut into batches: the reading half of a runner, without threads or sinks.

Given: a way to open the journal at a checkpoint, the cursor to start from. Hands on: batches of rows not yet
delivered, what is known of the run, and how many rows are gone for good.
Never: delivers, or gives a row another number than in an earlier life: projection is a pure function of the journal.
"""

from collections.abc import Callable

import msgspec

from sidecar.follow import Follower
from sidecar.journal_reader import JournalReader
from sidecar.rows import Row, RunInfo
from sidecar.sinks.cursors import Cursor
from sidecar.sinks.period import Period
from sidecar.sinks.steps import StepJoiner
from sidecar.state import ENDS, current_ranks


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    batch_rows_max: int = 1_000
    """Rows handed to the sink at once; also what a crash can repeat."""
    read_rows_max: int = 16
    """Journal rows read at once; each may hold many events."""
    pace_seconds: float = 0.25
    """Shortest time between two deliveries, so that a busy run is delivered in batches; full ones do not wait."""
    poll_seconds: float = 1.0
    """How long an idle runner sleeps when nobody notifies it."""
    linger_seconds: float = 10.0
    """How long after the run's end, with everything delivered, the sink is kept open for latecomers."""
    poison_attempts: int = 5
    """Failures of one batch before its bad rows are looked for."""
    period_steps: Period | None = 1
    """Of step and derived rows only every so many steps are delivered. Selected, never averaged. None: a local one."""
    names: str | None = None
    """The profile of further metric names, see names.py: s1, s2 or s3."""
    one_rank: bool = False
    """Of a name that several ranks log, only the lowest rank's values."""
    one_row_per_step: bool = False
    """A step's own values come in its derived row."""
    node_seconds: float = 30.0
    """How long a node waits for rank 0 before it takes itself for a further node of the run."""


class Batch(msgspec.Struct):
    rows: list[Row]
    """As projected; after the gate, as they may leave."""
    number: int
    cursor: Cursor
    """Where the cursor goes once these were delivered."""
    last_received_ns: int


class Source:
    """Starts at the newest checkpoint that is not beyond the cursor, and projects from there."""

    def __init__(self, open_follower: Callable[[int], Follower], start: Cursor, policy: Policy) -> None:
        self._open_follower, self._start, self._policy = open_follower, start, policy
        self._next = start.number
        """Number of the next row to deliver."""
        self.lost_rows = 0
        """Rows that retention removed before they were read here."""
        self._joiner: StepJoiner | None = None
        self._follower = self._open()
        self._known_alerts: set[str] | None = None
        self._alerts: list[tuple[str, str, str, int | None]] = []

    @property
    def cursor(self) -> Cursor:
        """What was read, all of it."""
        return Cursor(self._follower.row, max(self._next, self._follower.number))

    def info(self) -> RunInfo:
        info, node = self._follower.projector.info(), self.reader.lowest_rank() or None
        return msgspec.structs.replace(info, end=self.end, node=node, alerts=list(self._alerts))

    @property
    def end(self) -> str | None:
        """How the run ended: every training process that was heard of said goodbye, or was found gone."""
        states = {rank.state for rank in current_ranks(self._follower.projector.state)}
        return next((end for end in ENDS if end in states), None) if states <= set(ENDS) else None

    @property
    def reader(self) -> JournalReader:
        return self._follower.reader

    def next_batch(self) -> Batch | None:
        """The next rows not yet delivered, None when the journal has no more for now."""
        rows: list[Row] = []
        number, newest, cursor = self._next, 0, self.cursor
        while len(rows) < self._policy.batch_rows_max:
            fresh, last_ns = self._read()
            if self._gap_after(cursor.row):
                self._reopen(cursor)
                if rows:
                    break
                number, cursor = self._next, self.cursor
                continue
            if fresh and not rows:
                number = self._next - len(fresh)
            rows += fresh
            newest = last_ns or newest
            self._note_alerts()
            if self._follower.row == cursor.row:
                break
            cursor = self.cursor
        return Batch(rows, number, cursor, newest) if rows else None

    def close(self) -> None:
        self._follower.close()

    def _open(self) -> Follower:
        follower = self._open_follower(self._next)
        self.lost_rows += max(0, follower.number - self._next)
        self._next = max(self._next, follower.number)
        if self._policy.one_row_per_step:
            self._joiner = StepJoiner(follower.projector.state)
        return follower

    def _read(self) -> tuple[list[Row], int]:
        """The undelivered rows of some more of the journal, and when the last of them was received."""
        rows: list[Row] = []
        last_ns = 0
        for record, fresh in self._follower.read(self._policy.read_rows_max):
            number = self._follower.number
            if self._joiner is not None:
                fresh = self._joiner.feed(fresh)
            fresh = fresh[max(0, self._next - (number - len(fresh))) :]
            self._next = max(self._next, number)
            if fresh:
                last_ns = record.received_ns
            rows += fresh
        return rows, last_ns

    def _gap_after(self, row: int) -> bool:
        """Did retention remove rows ahead of us? Asked after reading them, so that nothing can slip between."""
        return self._follower.reader.first_row() > row + 1

    def _reopen(self, cursor: Cursor) -> None:
        """Go on from the checkpoint behind the gap."""
        self._follower.close()
        self._next = cursor.number
        self._follower = self._open()

    def _note_alerts(self) -> None:
        """Those that came up after the cursor; what an earlier life has seen is not announced again."""
        if self._follower.number < self._start.number:
            return
        alerts = self._follower.projector.state.alerts
        if self._known_alerts is None:
            self._known_alerts = {alert.name for alert in alerts} if self._start.number else set()
        for alert in reversed(alerts):
            if alert.name not in self._known_alerts:
                self._known_alerts.add(alert.name)
                self._alerts.append((alert.name, alert.severity, alert.message, alert.step))
