"""The listening end of the intake's socket: lets nobody new in while file descriptors run short.

Given: the socket, its endpoint, the time. Hands on: a bound socket.
Never: touches peers that are already here. Who finds it shut comes again later, as trainers do by themselves.
"""

import logging

import zmq

from sidecar import descriptors

log = logging.getLogger("sidecar.intake")

LOOK_SECONDS = 0.1  # Between two counts of the descriptors in use.
RESERVE_MAX = 2_048  # More than libzmq lets in between two counts; of small limits half is kept free.


class Listener:
    """Binds at once. Raises zmq.ZMQError when that cannot be done."""

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        self._socket, self._endpoint = socket, endpoint
        self._listening = False
        self._next_look = 0.0
        self._reserve = min(descriptors.limit() // 2, RESERVE_MAX)
        self._can_exhaust = endpoint.startswith("ipc://")  # Over tcp, libzmq survives an accept without descriptors.
        self._listen()

    def mind(self, now: float) -> bool:
        """Stop or go on listening, as the descriptors left allow. ``now``: monotonic seconds. True: just stopped."""
        if not self._can_exhaust or now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        left = descriptors.left()
        if self._listening and left < self._reserve:
            log.warning("%d file descriptors left: no new trainer is let in until there are more; see ulimit -n", left)
            self._socket.unbind(self._endpoint)
            self._listening = False
            return True
        if not self._listening and left > self._reserve * 1.2:
            try:
                self._listen()
            except zmq.ZMQError as error:  # The next look tries again.
                log.warning("cannot listen at %s again yet: %s", self._endpoint, error)
        return False

    def _listen(self) -> None:
        self._socket.bind(self._endpoint)
        self._listening = True
