"""The journals that are open for writing, of a bounded number of runs, and whether the disk takes what they are given.

Given: run ids; what failed. Hands on: journals, opened on first use; ``Telemetry.journal``.
Never: raises for a file that cannot be used, or closes a journal that somebody still waits for.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator

from sidecar.journal import Journal, JournalFull, JournalGone
from sidecar.journal_format import WrongFormat
from sidecar.store import Store
from sidecar.telemetry import Telemetry

log = logging.getLogger("sidecar.intake")

IDLE_SECONDS = 60.0  # A run that was silent for so long makes room for another when there are too many.
REMEDIES: dict[type[Exception], str] = {
    JournalFull: "free some space",
    WrongFormat: WrongFormat.remedy,
    JournalGone: "restart the sidecar when its folder is there again",
}
OTHER_REMEDY = "see to the disk, it is tried again each time"


class OpenJournals:
    """For one thread."""

    def __init__(self, store: Store, telemetry: Telemetry, runs_max: int) -> None:
        self.runs_max = runs_max
        self.on_closed: Callable[[str], None] = lambda run_id: None
        """Called with the run whose journal was closed to make room."""
        self._store, self._health = store, telemetry.journal
        self._journals: dict[str, Journal] = {}
        self._used: dict[str, float] = {}
        """Run -> when its journal was opened, or last got something from a training process."""

    def __getitem__(self, run_id: str) -> Journal:
        return self._journals[run_id]

    def __iter__(self) -> Iterator[tuple[str, Journal]]:
        return iter(list(self._journals.items()))

    def open(self, run_id: str, busy: Collection[str]) -> Journal | None:
        """None when there are too many, or the file is not usable. ``busy`` runs are never closed to make room."""
        journal = self._journals.get(run_id)
        if journal is None:
            if not self.has_room_for(run_id, busy):
                return None
            try:
                journal = self._store.journal(run_id)
            except (sqlite3.Error, OSError) as error:
                self.note_failure(error, f"cannot open the journal of {run_id}: ")
                return None
            self._journals[run_id] = journal
            self._used[run_id] = time.monotonic()
            with contextlib.suppress(sqlite3.Error):  # Retention measures all of them now and then.
                self._health.bytes = (self._health.bytes or 0) + journal.used_bytes()
        return journal

    def has_room_for(self, run_id: str, busy: Collection[str]) -> bool:
        """Closes the journal that was idle for longest when there are too many. Its trainers may come back later."""
        if run_id in self._journals or len(self._journals) < self.runs_max:
            return True
        oldest = min(self._journals.keys() - set(busy), key=self._used.__getitem__, default=None)
        if oldest is None or time.monotonic() - self._used[oldest] < IDLE_SECONDS:
            return False
        self._journals.pop(oldest).close()
        del self._used[oldest]
        self.on_closed(oldest)
        return True

    def note_use(self, run_id: str, now: float) -> None:
        """A training process has sent something. ``now``: monotonic seconds."""
        self._used[run_id] = now

    def note_commit(self) -> None:
        self._health.commits_total += 1
        if self._health.state != "ok":
            log.warning("the journal takes events again")
            self._health.state, self._health.reason = "ok", None

    def note_failure(self, error: OSError | sqlite3.Error, while_doing: str = "") -> None:
        reason = f"{while_doing}{error}"
        if self._health.state == "ok":
            log.error("%s; trainers hold their events until it works again", reason)
        remedy = REMEDIES.get(type(error), OTHER_REMEDY)
        self._health.state = "full" if isinstance(error, JournalFull) else "failing"
        self._health.reason = f"{reason}; {remedy}: events wait in the trainers' rings"
        self._health.commit_failures_total += 1

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()
