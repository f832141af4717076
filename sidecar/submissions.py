"""What the sidecar itself wants to have journaled, queued for the thread that owns the journals.

Given: events and writes, from any thread. Hands on: everything queued, at once.
Never: waits, or grows without a limit while that thread hangs in a write to the disk.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from sidecar import wire
from sidecar.journal import Journal

READINGS_MAX = 1_024  # A quarter of an hour of one run's hardware, about 10 MB. The newest are worth most.
EVENTS_MAX = 16_384  # All others. They come from the taking thread itself, one for each process that ended.

READINGS_SECONDS_MAX = 1.5  # Readings and writes wait this long for a batch of trainers' events to join: one a second.

Write = Callable[[Journal], None]


class Taken(NamedTuple):
    writes: list[tuple[str, Write]]
    events: list[tuple[str, wire.Event]]


class Submissions:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: deque[tuple[str, wire.Event]] = deque(maxlen=READINGS_MAX)
        self._events: deque[tuple[str, wire.Event]] = deque(maxlen=EVENTS_MAX)
        self._writes: dict[tuple[str, str], Write] = {}
        self._since = math.inf
        """When the oldest of what is queued came; infinity where nothing is."""

    def put(self, run_id: str, event: wire.Event, now: float) -> bool:
        """``now``: monotonic seconds. False: the oldest event of its kind had to make room, and is lost."""
        waiting = self._readings if isinstance(event, wire.Hardware) else self._events
        with self._lock:
            self._since = min(self._since, now)
            had_room = len(waiting) != waiting.maxlen
            waiting.append((run_id, event))
        return had_room

    def put_write(self, run_id: str, kind: str, write: Write, now: float, *, at_once: bool = False) -> None:
        """Replaces a queued write of the same run and kind: only the last one counts. ``at_once``: without a batch."""
        with self._lock:
            self._since = -math.inf if at_once else min(self._since, now)
            self._writes[run_id, kind] = write

    def are_due(self, now: float) -> bool:
        """Whether to take them without a batch: readings and writes after a while, everything else at once."""
        return bool(self._events) or now >= self._since + READINGS_SECONDS_MAX

    def take(self) -> Taken:
        with self._lock:
            writes = [(run_id, write) for (run_id, _), write in self._writes.items()]
            events = [*self._events, *self._readings]
            self._writes.clear()
            self._events.clear()
            self._readings.clear()
            self._since = math.inf
        return Taken(writes, events)
