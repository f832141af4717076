"""Has what was handed over arrived? At the server, or in W&B's own file. Pure: time is an argument.

Given: the highest ``_step`` handed over, and now and then the last one found at the far end. Hands on: whether it is
time to look, and whether the far end makes progress.
Never: looks by itself.
"""


class Arrivals:
    """Does the far end keep up?"""

    def __init__(self, verify_seconds: float, arrive_seconds: float) -> None:
        """Look every so often; lacking something with no progress at all for ``arrive_seconds`` is a failure."""
        self._verify_seconds, self._arrive_seconds = verify_seconds, arrive_seconds
        self._arrived = -1
        self._asked_at: float | None = None
        self._behind_since: float | None = None
        self._expected = -1

    def due(self, logged: int, now: float) -> bool:
        """Is it time to ask? ``logged``: the highest step handed over."""
        self._expected = logged
        if logged <= self._arrived or (self._asked_at is not None and now - self._asked_at < self._verify_seconds):
            return False
        first, self._asked_at = self._asked_at is None, now
        return not first  # The first rows have only just been handed over.

    def seen(self, step: int, now: float) -> bool:
        """The far end's last step. False: it has lacked something for too long without any progress."""
        if step >= self._expected or step > self._arrived:
            self._arrived, self._behind_since = step, None if step >= self._expected else now
            return True
        self._behind_since = self._behind_since if self._behind_since is not None else now
        return now - self._behind_since < self._arrive_seconds
