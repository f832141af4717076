"""How a journal stays within its size: the oldest events go, up to a checkpoint, once every sink has them.

Given: a journal, how far its slowest sink has come, a bound. Hands on: how much was removed.
Never: removes what a sink still needs while there is another way, or removes anything in silence.
"""

import logging
from typing import NamedTuple

from sidecar.journal import Journal

log = logging.getLogger("sidecar.retention")

TARGET = 0.9  # Of the bound: so that the next batch does not start it again.


class Removed(NamedTuple):
    events: int
    unsent_events: int
    """Of these, how many some sink had not passed yet: the bound left no choice."""


def make_room(journal: Journal, passed_row: int | None, bytes_max: int) -> Removed:
    """Remove the oldest events up to a checkpoint until the journal is within ``bytes_max``.

    ``passed_row`` is the last row that every sink has delivered; None when there is no sink to wait for. Only rows
    up to a checkpoint can go, because what came before must not be folded again. Raises JournalFull, sqlite3.Error.
    """
    events = unsent = 0
    if journal.used_bytes() <= bytes_max:
        return Removed(0, 0)
    for row in journal.checkpoint_rows():
        if journal.used_bytes() <= TARGET * bytes_max:
            break
        dropped = journal.drop_through(row)
        events += dropped
        if passed_row is not None and row > passed_row:
            unsent += dropped
    if unsent:
        log.error("%s is at its bound: %d events were removed before every sink had them", journal.path.name, unsent)
    elif events:
        log.warning("%s is at its bound: its oldest %d events were removed", journal.path.name, events)
    return Removed(events, unsent)
