"""The end of the sinks: who is waited for, and for how long.

Given: runners. Hands on: runners that have ended, or were given up. Never: waits longer than it was told to, or for a
sink that keeps failing: rows stay in the journal, and a later sidecar sends them.
"""

import logging
import time
from collections.abc import Collection

from sidecar.sinks.runner import SinkRunner

log = logging.getLogger(__name__)

LAST_ATTEMPT_SECONDS = 1.0
"""For a sink that keeps failing: perhaps its far end is back."""


def is_worth_waiting(runners: Collection[SinkRunner]) -> bool:
    """Is one behind that works, however slowly, or has had no more than an accident?"""
    return any(not (runner.drained or runner.keeps_failing) for runner in runners)


def end(runners: Collection[SinkRunner], timeout_seconds: float) -> None:
    """Let every one deliver what is left and close, all at once, within the time; then give up on the rest."""
    began = time.monotonic()
    failing = {runner for runner in runners if runner.keeps_failing}  # As they were before their last attempt.
    for runner in runners:
        runner.stop()
    for runner in runners:
        limit_seconds = min(timeout_seconds, LAST_ATTEMPT_SECONDS) if runner in failing else timeout_seconds
        if not runner.join(began + limit_seconds - time.monotonic()):
            log.warning("sink %s of run %s did not end in time", runner.name, runner.run_id)
            runner.abandon()
