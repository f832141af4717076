"""The listening end of the intake's socket: accepts no new trainer while file descriptors run short.

Given: the socket, its endpoint, the time. Hands on: a bound socket.
Never: touches trainers that are already connected. One that cannot connect tries again by itself.
"""

import logging

import zmq

from sidecar import descriptors

log = logging.getLogger("sidecar.intake")

CHECK_SECONDS = 0.1  # Between two counts of the descriptors in use, at least.
RESERVE_MAX = 2_048  # More than libzmq accepts in that time; of a small limit, half is kept free.
CHECK_SECONDS_MAX = 5.0


class Listener:
    """Binds at once. Raises zmq.ZMQError when that cannot be done."""

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        self._socket, self._endpoint = socket, endpoint
        self._listening = False
        self._next_check = 0.0
        self._reserve = min(descriptors.limit() // 2, RESERVE_MAX)
        self._can_exhaust = endpoint.startswith("ipc://")  # Over tcp, libzmq survives an accept without descriptors.
        self._listen()

    def adjust(self, now: float) -> bool:
        """Stop or resume listening, by the file descriptors left. ``now``: monotonic seconds. True: just stopped."""
        if not self._can_exhaust or now < self._next_check:
            return False
        left = descriptors.left()
        self._next_check = now + _seconds_they_suffice(left)
        if self._listening and left < self._reserve:
            log.warning("%d file descriptors left: no trainer is accepted until there are more; see ulimit -n", left)
            self._socket.unbind(self._endpoint)
            self._listening = False
            return True
        if not self._listening and left > self._reserve * 1.2:
            try:
                self._listen()
            except zmq.ZMQError as error:  # The next check tries again.
                log.warning("cannot listen at %s again yet: %s", self._endpoint, error)
        return False

    def seconds_to_check(self, now: float) -> float:
        """How long nobody need call ``adjust``."""
        return max(0.0, self._next_check - now) if self._can_exhaust else CHECK_SECONDS_MAX

    def _listen(self) -> None:
        self._socket.bind(self._endpoint)
        self._listening = True


def _seconds_they_suffice(left: int) -> float:
    """How long it takes at the least until no more than the reserve is left."""
    return min(max(CHECK_SECONDS, CHECK_SECONDS * (left - RESERVE_MAX) / RESERVE_MAX), CHECK_SECONDS_MAX)
