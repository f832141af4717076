"""When training processes are asked for what they hold, and which readers wait for their answers.

Given: the sessions that can be asked; readers who want fresh figures, from any thread. Hands on: whom to ask now.
Never: asks a session again before it has answered, or makes a reader wait for one that has been silent for long.

All are asked together, so that their answers are committed together, however many they are.
"""

import threading
from collections.abc import Callable, Collection

FETCH_SECONDS = 1.0  # While nobody reads. Each wakes every trainer and commits, which training pays for.
ANSWER_SECONDS_MAX = 0.05  # No reader waits longer. Most answers arrive within a few milliseconds.


class Fetches:
    """Owned by one thread; only ``fetch`` may be called from others."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake`` interrupts the wait of the owning thread, which then looks at ``are_due``."""
        self._wake = wake
        self._served = threading.Condition()
        self._wanted = self._asked_for = self._served_for = 0  # Counts of the calls of ``fetch``.
        self._unanswered: dict[int, float] = {}  # Session -> when it was asked.
        self._asked = 0.0

    def fetch(self) -> None:
        """Have all asked now; return once their answers are committed, or when that takes too long. Thread-safe."""
        with self._served:
            self._wanted += 1
            own = self._wanted
            self._wake()
            self._served.wait_for(lambda: self._served_for >= own, ANSWER_SECONDS_MAX)

    def are_due(self, now: float) -> bool:
        """``now``, here as below: monotonic seconds."""
        return self._asked_for != self._wanted or now >= self._asked + FETCH_SECONDS

    def ask(self, now: float, sessions: Collection[int]) -> list[int]:
        """Begin to ask: returns those of ``sessions`` to send a Fetch to, which are all that owe no answer."""
        self._asked_for, self._asked = self._wanted, now
        self._unanswered = {id: at for id, at in self._unanswered.items() if id in sessions}
        asked = [id for id in sessions if id not in self._unanswered]
        self._unanswered |= dict.fromkeys(asked, now)
        return asked

    def answered(self, session: int) -> None:
        self._unanswered.pop(session, None)

    def seconds_to_due(self, now: float) -> float:
        return max(0.0, self._asked + FETCH_SECONDS - now)

    def awaited_since(self) -> float:
        """When the last of those were asked that still owe an answer; 0.0 if nobody does."""
        return max(self._unanswered.values(), default=0.0)

    def settle(self, now: float) -> None:
        """Let readers go on, unless an answer may still come in time. For when all that came is committed."""
        if self._served_for != self._asked_for and now >= self.awaited_since() + ANSWER_SECONDS_MAX:
            with self._served:
                self._served_for = self._asked_for
                self._served.notify_all()
