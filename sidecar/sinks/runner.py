"""One sink of one run: reads the journal from its cursor, projects rows, delivers them, moves the cursor.

Given: a journal reader, a projector, a sink, a place for the cursor. Hands on: batches, each at least once, in order;
health. Never: moves the cursor before the sink took the rows, delays anybody else (it is a thread of its own), or
stops for one bad row.

The sink's state is rebuilt by projecting again from a checkpoint of the journal: projection is a pure function, so the
same row gets the same number in every life, and only rows numbered at or above the cursor's are delivered. A sink that
knows what arrived at the far end (``Report.acknowledged``) may move the start back: that repairs a dead uploader.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from sidecar.journal_reader import JournalReader
from sidecar.rows import Row, RunInfo
from sidecar.sinks.backoff import delay_seconds
from sidecar.sinks.base import Report, Sink, SinkDied, Unavailable, reason_of
from sidecar.sinks.cursors import Cursor, Cursors
from sidecar.sinks.deadletters import DeadLetters
from sidecar.sinks.names import spelled
from sidecar.sinks.period import StepSampler, period_of
from sidecar.sinks.privacy import Gate
from sidecar.sinks.ranks import LowestRank
from sidecar.sinks.source import Batch, Policy, Source
from sidecar.telemetry import SinkHealth

log = logging.getLogger(__name__)

OUTAGES = (Unavailable, OSError, TimeoutError)
"""Errors that say nothing about the rows: retried for ever, never a reason to give a row up."""
IN_VAIN_FAILURES = 2
"""So many attempts in a row have failed: one may be an accident that the next one mends."""
LATENCIES_MAX = 512
REST_PER_CPU_SECOND = 0.25
"""Pause between full batches, as a share of the CPU time that a batch took: it leaves room for the other threads."""


class SinkRunner:
    """``start``, ``notify`` as often as you like, ``close``. Everything else happens on its own thread."""

    def __init__(
        self,
        run_id: str,
        name: str,
        sink: Sink,
        open_source: Callable[[Cursor], Source],
        cursors: Cursors,
        dead_letters: DeadLetters,
        *,
        gate: Gate | None = None,
        policy: Policy | None = None,
        health: SinkHealth | None = None,
        random: Callable[[], float],
        now_ns: Callable[[], int] = time.time_ns,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self.run_id, self.name = run_id, name
        self.health = health or SinkHealth()
        self.expects_more = True
        """False: nobody has spoken for this run since the sidecar started, so what is in the journal is all of it."""
        self._sink, self._open_source, self._cursors, self._dead_letters = sink, open_source, cursors, dead_letters
        self._gate, self._policy = gate, policy or Policy()
        self._random, self._now_ns, self._wait = random, now_ns, wait
        self._source: Source | None = None
        self._info: RunInfo | None = None
        self._opened = self._died = False
        self._batch: Batch | None = None
        self._failures = 0
        self._latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._notified = self._caught_up_with = 0
        self._confirmed: int | None = None
        self._noted: int | None = None
        """The same as stored with the cursor."""
        self._outage = False
        self._more = False
        """Was the last batch a full one? Then there is more, and no reason to let a batch gather."""
        self._sampler, self._lowest = StepSampler(), LowestRank()
        self._over_since_ns: int | None = None
        self._thread = threading.Thread(target=self._main, name=f"sink-{name}-{run_id[:24]}", daemon=True)

    # --- called by others

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        self._notified += 1
        self._wake.set()

    def stop(self) -> None:
        """Ask it to deliver what is left, once, and end. Returns at once."""
        self._stop.set()
        self._wake.set()

    def join(self, timeout_seconds: float) -> bool:
        """True once the thread has ended. One that hangs is a daemon: it cannot keep the process alive."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_seconds))
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """It did not end in time: kill what can be killed. What the far end has not confirmed stays to be sent."""
        kill = getattr(self._sink, "kill", None)
        if kill is not None:
            kill()
        self._unconfirm("it did not finish in time")

    @property
    def ended(self) -> bool:
        """Its thread is over, or was never started."""
        return not self._thread.is_alive()

    @property
    def has_news(self) -> bool:
        """It ended because its run was over, and was notified since it last looked."""
        over = self.ended and not self._stop.is_set() and self.health.state != "disabled"
        return over and self._caught_up_with != self._notified + 1

    @property
    def drained(self) -> bool:
        """Everything in the journal was delivered, or will not be for now."""
        return not self.is_behind or self.health.state == "paused"

    @property
    def is_behind(self) -> bool:
        """There is something to deliver, or there may be."""
        caught_up = self._caught_up_with == self._notified + 1
        return not (caught_up or self.health.state == "disabled" or self.ended)

    @property
    def keeps_failing(self) -> bool:
        """It has tried more than once since it was last well."""
        return self._failures >= IN_VAIN_FAILURES

    @property
    def confirmed(self) -> int | None:
        """Rows numbered below this have arrived for certain; None for a sink that cannot tell."""
        return self._confirmed

    def measure_lag(self, reader: JournalReader) -> None:
        """While the runner is stuck, or paused, the manager's ticker calls this."""
        row = self._cursors.get(self.run_id, self.name).row
        oldest_ns = reader.received_ns_after(row)
        self.health.lag_events = max(0, reader.last_row() - row)
        self.health.lag_seconds = None if oldest_ns is None else max(0.0, (self._now_ns() - oldest_ns) / 1e9)

    # --- the runner's own thread

    def _main(self) -> None:
        while not self._stop.is_set() and not self._is_over():
            self._wake.clear()
            notified = self._notified
            pause = self._turn(notified)
            if self._failures:
                self._wait(self._stop, pause)
            elif pause > self._policy.pace_seconds:
                self._wait(self._wake, pause)
                self._wait(self._stop, self._policy.pace_seconds)  # Let a batch gather.
            else:
                self._wait(self._stop, pause)
        self._finish()

    def _is_over(self) -> bool:
        """The run has ended, or nobody speaks for it, and all of it was delivered, some time ago: the sink need not be
        kept open."""
        if self.health.state == "disabled":
            return True
        goes_on = self._source is None or (self._source.end is None and self.expects_more)
        if goes_on or not self.drained or self._failures:
            self._over_since_ns = None
            return False
        self._over_since_ns = self._over_since_ns or self._now_ns()
        return (self._now_ns() - self._over_since_ns) / 1e9 >= self._policy.linger_seconds

    def _turn(self, notified: int) -> float:
        """One delivery, or one failure. Returns how long to rest, seconds."""
        try:
            if self._cursors.paused(self.run_id, self.name):
                self.health.state, self.health.reason = "paused", "paused by `sidecar sink pause`"
                return self._policy.poll_seconds
            self._ensure_open()
            if self.health.state == "disabled":
                return self._policy.poll_seconds
            began = time.thread_time()
            if not self._deliver_next():
                self._caught_up_with = notified + 1  # What was notified after that is not covered.
                return self._policy.poll_seconds
            if self._stop.is_set():
                return 0.0
            rest = self._policy.pace_seconds
            return min(rest, REST_PER_CPU_SECOND * (time.thread_time() - began)) if self._more else rest
        except Exception as error:  # noqa: BLE001 - the sink's task boundary: whatever it was, back off and show it.
            return self._failed(error)

    def _ensure_open(self) -> None:
        if self._source is None:
            self._source = self._open_source(self._cursors.get(self.run_id, self.name))
            self._note_lost()
        info = self._source.info()
        if self._opened and not self._died and info == self._info:
            return
        report = self._sink.open(self._gate.info(info) if self._gate else info)
        if self._died:
            self.health.restarts_total += 1
        first_time = not self._opened or self._died
        self._info, self._opened, self._died = info, True, False
        arrived = self._confirmed if report.acknowledged is None else report.acknowledged
        self._take(report)
        if first_time and arrived is not None:
            self._rewind_to(arrived)

    def _rewind_to(self, acknowledged: int) -> None:
        """The far end lacks rows that were handed over: deliver them again from the journal."""
        assert self._source is not None
        handed_over = self._cursors.get(self.run_id, self.name).number
        if acknowledged >= handed_over:
            return
        log.warning("sink %s: far end has %d of %d rows, sending the rest again", self.name, acknowledged, handed_over)
        self._source.close()
        self._batch = None
        self._source = self._open_source(Cursor(0, acknowledged))
        self._sampler = StepSampler()
        self._note_lost()

    def _deliver_next(self) -> bool:
        assert self._source is not None
        batch = self._batch = self._batch or self._read(self._source)
        if batch is None:
            self._caught_up()
            return False
        if self._failures >= self._policy.poison_attempts and not self._outage:
            self._deliver_without_poison(batch.rows, batch.number)
        else:
            self._sink.deliver(batch.rows, batch.number)
        self._delivered(batch)
        return True

    def _read(self, source: Source) -> Batch | None:
        """The next batch, fit to be delivered. After an error what was read is read again, from the cursor."""
        try:
            batch = source.next_batch()
            self._note_lost()
            if batch is not None:
                batch.rows = self._selected(batch.rows, source)
            return batch
        except Exception:
            self._source, self._sampler = None, StepSampler()
            source.close()
            raise

    def _selected(self, rows: list[Row], source: Source) -> list[Row]:
        """As many rows: those left out, and what may not leave the machine, are empty."""
        policy = self._policy
        if policy.one_rank:
            rows = self._lowest.feed(rows)
        period = period_of(policy.period_steps, self.name, self._info or source.info())
        rows = spelled(self._sampler.feed(rows, period), policy.names)
        return self._gate.rows(rows) if self._gate else rows

    def _delivered(self, batch: Batch) -> None:
        self._cursors.move(self.run_id, self.name, batch.cursor)
        now_ns = self._now_ns()
        self._batch, self._failures = None, 0
        self._more = len(batch.rows) >= self._policy.batch_rows_max
        self.health.delivered_rows += len(batch.rows)
        self.health.last_success_ns = now_ns
        self._latencies.append(max(0.0, (now_ns - batch.last_received_ns) / 1e9))
        self.health.latency_seconds = list(self._latencies)
        if self._source is not None:
            self.measure_lag(self._source.reader)
        self._take(self._sink.report())

    def _caught_up(self) -> None:
        report = self._sink.flush()
        self._failures = 0
        if self._source is not None and self._source.cursor != self._cursors.get(self.run_id, self.name):
            self._cursors.move(self.run_id, self.name, self._source.cursor)  # Past events that make no row.
        self._take(report)
        self.health.lag_events, self.health.lag_seconds = 0, None

    def _take(self, report: Report) -> None:
        if not self._failures or report.state == "disabled":  # Opened again is not yet delivered again.
            self.health.state, self.health.reason = report.state, report.reason
        self.health.url = report.url or self.health.url
        if report.acknowledged is not None:
            self._note_confirmed(report.acknowledged)

    def _note_confirmed(self, number: int) -> None:
        """On the disk too, so that after a crash of everything it is known what may not have arrived."""
        self._confirmed = number
        if number != self._noted:
            with contextlib.suppress(Unavailable):  # Tried again with the next report; until then it is too low.
                self._cursors.confirm(self.run_id, self.name, number)
                self._noted = number

    def _note_lost(self) -> None:
        if self._source is not None and self._source.lost_rows:
            self.health.lost_rows_total += self._source.lost_rows
            log.error("sink %s: %d rows of run %s were removed before it had them", self.name, self._source.lost_rows,
                      self.run_id)  # fmt: skip
            self._source.lost_rows = 0

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        self._outage = isinstance(error, OUTAGES) and not (isinstance(error, SinkDied) and error.by_itself)
        self._died = self._died or isinstance(error, SinkDied)
        self.health.state, self.health.reason = "failing", reason_of(error)
        self.health.failures_total += 1
        log.log(
            logging.WARNING if self._failures == 1 else logging.DEBUG,
            "sink %s of run %s failed: %s", self.name, self.run_id, self.health.reason,
        )  # fmt: skip
        asked_seconds = getattr(error, "retry_after_seconds", None) or 0.0
        return max(asked_seconds, delay_seconds(self._failures, self._random))

    # --- poison

    def _deliver_without_poison(self, rows: Sequence[Row], number: int) -> None:
        """Find the rows that the sink can never take; the others are delivered."""
        bad: dict[int, Exception] = {}
        self._bisect(rows, number, bad)
        if len(bad) == len(rows) > 1:
            raise next(iter(bad.values()))  # All of them: that is the sink's fault, not the rows'.
        for index, error in sorted(bad.items()):
            self._dead_letters.add(rows[index - number], index, reason_of(error))
            self.health.dead_letters_total += 1

    def _bisect(self, rows: Sequence[Row], number: int, bad: dict[int, Exception]) -> None:
        try:
            if self._died:
                self._ensure_open()
            self._sink.deliver(rows, number)
            return
        except Exception as error:  # noqa: BLE001 - the sink's task boundary.
            if isinstance(error, OUTAGES) and not (isinstance(error, SinkDied) and error.by_itself):
                raise
            self._died = self._died or isinstance(error, SinkDied)
            if len(rows) == 1:
                bad[number] = error
                return
        half = len(rows) // 2
        self._bisect(rows[:half], number, bad)
        self._bisect(rows[half:], number + half, bad)

    # --- the end

    def _finish(self) -> None:
        """Deliver what is left until the first failure, then close. One that was failing tries once more: what it lacks
        may be all that there is. The manager bounds how long it waits for this."""
        try:
            if self.health.state not in ("disabled", "paused"):
                self._ensure_open()
                notified = self._notified
                while self._deliver_next():
                    notified = self._notified
                self._caught_up_with = notified + 1
                self._ensure_open()  # How the run ended came with the last rows.
        except Exception as error:  # noqa: BLE001 - the task boundary again: closing must still happen.
            self._failed(error)
        try:
            self._sink.close()
            if self._died:
                self._unconfirm(self.health.reason or "it died")
            elif self._confirmed is not None:
                self._note_confirmed(self._cursors.get(self.run_id, self.name).number)
        except Exception as error:  # noqa: BLE001 - the sink's task boundary.
            self.health.failures_total += 1
            self._unconfirm(reason_of(error))
        if self._source is not None:
            self._source.close()
            self._source = self._batch = None  # An ended runner is kept for its health, not for the run's state.

    def _unconfirm(self, reason: str) -> None:
        """Move the cursor back to what the far end is known to have. A repeat is recognised there by its number."""
        confirmed = self._confirmed
        try:
            if confirmed is None or confirmed >= self._cursors.get(self.run_id, self.name).number:
                return
            self._cursors.move(self.run_id, self.name, Cursor(0, confirmed))
        except Unavailable as error:
            log.error("sink %s of run %s is known to have %s rows, which cannot be noted: %s", self.name, self.run_id,
                      confirmed, error)  # fmt: skip
        self.health.state = "failing"
        self.health.reason = f"not all rows are confirmed ({reason}); `sidecar sync {self.run_id}` sends the rest"
