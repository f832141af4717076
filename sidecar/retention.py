"""Retention: a journal that reached its size limit drops its oldest events, up to a checkpoint.

Given: a journal, how far its slowest sink has come, the limit. Hands on: how much was removed.
Never: removes what a sink still needs while there is another way, or removes anything without counting it.
"""

import logging
from typing import NamedTuple

from sidecar.journal import Journal

log = logging.getLogger("sidecar.retention")

TARGET_RATIO = 0.9  # Of the limit, so that the next batch does not exceed it again at once.


class Removed(NamedTuple):
    events: int
    unsent_events: int
    """How many of them some sink had not delivered yet: the limit left no choice."""


def make_room(journal: Journal, passed_row: int | None, bytes_max: int) -> Removed:
    """Remove the oldest events up to a checkpoint until the journal is within ``bytes_max``.

    ``passed_row`` is the last row that every sink has delivered; None when there is no sink to wait for. Only rows
    up to a checkpoint can go, because what came before must not be folded again. Raises JournalFull, sqlite3.Error.
    """
    events = unsent = 0
    if journal.used_bytes() <= bytes_max:
        return Removed(0, 0)
    for row in journal.checkpoint_rows():
        if journal.used_bytes() <= TARGET_RATIO * bytes_max:
            break
        dropped = journal.drop_through(row)
        events += dropped
        if passed_row is not None and row > passed_row:
            unsent += dropped
    if unsent:
        log.error("%s is at its limit: %d events were removed before every sink had them", journal.path.name, unsent)
    elif events:
        log.warning("%s is at its limit: its oldest %d events were removed", journal.path.name, events)
    return Removed(events, unsent)
