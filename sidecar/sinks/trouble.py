"""Trouble that keeps every sink from being started, such as a full disk under cursors.sqlite.

Given: errors, and the sinks that have nothing running. Hands on: one line in the log, and the reason in `/status`.
Never: says the same twice before it is over, or touches the health of a sink that runs: its runner has its own reasons.
"""

import logging
import sqlite3
from collections.abc import Iterable

from sidecar.sinks.base import Unavailable, reason_of
from sidecar.telemetry import SinkHealth

log = logging.getLogger(__name__)

DISK_ERRORS = (OSError, sqlite3.Error, Unavailable)
"""Somebody else's to put right, and tried again until then; anything else is a mistake of ours."""
SAID_MAX = 64


class Trouble:
    def __init__(self, healths: dict[str, SinkHealth]) -> None:
        """``healths``: of every sink by name, as `/status` shows them."""
        self._healths = healths
        self._said: set[str] = set()
        """Since it last worked. Several, since a full disk may fail in another place each time."""

    def found(self, error: Exception, waiting: Iterable[str]) -> None:
        """``waiting``: sinks that have no runner yet."""
        reason = reason_of(error)
        if reason not in self._said and len(self._said) < SAID_MAX:
            traceback = None if isinstance(error, DISK_ERRORS) else error
            log.error("no sink can be started: %s", reason, exc_info=traceback)
            self._said.add(reason)
        for name in waiting:
            known = self._healths[name]
            if known.state in ("starting", "failing"):
                failures = known.failures_total + 1
                self._healths[name] = SinkHealth(state="failing", reason=reason, failures_total=failures)

    def over(self, waiting: Iterable[str]) -> None:
        """It works, or works again."""
        if not self._said:
            return
        log.warning("sinks can be started again")
        for name in waiting:
            if self._healths[name].reason in self._said:
                self._healths[name] = SinkHealth(lag_events=0)
        self._said.clear()
