"""Rings of dead trainers whose sidecar is on another host: their tails travel there over the same protocol.

Given: the ring folders, a tcp endpoint and its keys. Hands on: the orphaned events to the remote sidecar.
Never: touches the ring of a living trainer, or removes one before everything in it is acknowledged.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import zmq

from sidecar import descriptors, wire
from sidecar.recovery import rings_of
from sidecar.rendezvous import NoKeys, secure_client
from sidecar.ring import Orphan, RingRefused

log = logging.getLogger("sidecar.replay")

FRAMES_IN_FLIGHT_MAX = 16
SILENCE_SECONDS = 1.0


def replay_rings(endpoint: str, environ: Mapping[str, str] = os.environ, timeout_seconds: float = 10.0) -> int:
    """Send what dead trainers of this host left for ``endpoint``; return how many rings are done.

    Stops after ``timeout_seconds``; what is left stays for the next call. Raises NoKeys when keys are missing.
    """
    deadline = time.monotonic() + timeout_seconds
    done = 0
    for path in rings_of(endpoint):
        try:
            done += _replay(path, endpoint, environ, deadline)
        except NoKeys:
            raise
        except (OSError, ValueError, zmq.ZMQError) as error:  # A damaged ring or answer must not keep the others here.
            log.warning("the ring %s is not sent: %s", path, error)
    return done


def _replay(path: Path, endpoint: str, environ: Mapping[str, str], deadline: float) -> bool:
    ring = Orphan(path)
    try:
        if not ring.claim() or not _send(ring, endpoint, environ, deadline):
            return False
        ring.remove()
        return True
    finally:
        ring.close()


def _send(ring: Orphan, endpoint: str, environ: Mapping[str, str], deadline: float) -> bool:
    """True once the remote sidecar has acknowledged the last event of the ring."""
    hello = wire.decode_from_trainer(ring.hello())
    if not isinstance(hello, wire.Hello):
        raise RingRefused("no hello in it")
    socket = descriptors.open_socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        secure_client(socket, endpoint, environ)
        socket.connect(endpoint)
        return _Conversation(socket, hello, ring).run(deadline)
    finally:
        socket.context.destroy(linger=0)


class _Conversation:
    """Hello, then frames within a small window. After a silence it starts again from what was acknowledged."""

    def __init__(self, socket: "zmq.Socket[bytes]", hello: wire.Hello, ring: Orphan) -> None:
        self._socket, self._hello, self._ring = socket, hello, ring
        self._acknowledged = -1
        self._refused = False
        events = [seq for seq, _ in ring.events()]
        self._end = events[-1] + 1 if events else ring.oldest_seq()

    def run(self, deadline: float) -> bool:
        while not self._refused and time.monotonic() < deadline:
            self._socket.send(wire.encode(self._hello))
            if self._await_reply() and self._send_frames(deadline):
                return True
        return False

    def _send_frames(self, deadline: float) -> bool:
        frames = self._frames()
        while self._acknowledged < self._end and not self._refused and time.monotonic() < deadline:
            sent = 0
            for frame in islice(frames, FRAMES_IN_FLIGHT_MAX):
                self._socket.send(wire.encode(frame))
                sent += 1
            before = self._acknowledged
            while self._acknowledged < self._end and self._await_reply():
                pass
            if not sent and self._acknowledged == before:
                return False
        return self._acknowledged >= self._end

    def _frames(self) -> Iterator[wire.Frame]:
        hello, oldest = self._hello, self._ring.oldest_seq()
        # An empty one first: where the sidecar lacks something older than this ring, it learns that it is lost.
        yield wire.Frame(hello.run_id, hello.rank, hello.session, oldest, oldest)
        events = ((seq, data) for seq, data in self._ring.events() if seq >= self._acknowledged)
        while batch := _frame_of(events):
            yield wire.Frame(hello.run_id, hello.rank, hello.session, batch[0][0], oldest, [data for _, data in batch])

    def _await_reply(self) -> bool:
        if not self._socket.poll(int(SILENCE_SECONDS * 1000)):
            return False
        reply = wire.decode_from_sidecar(self._socket.recv())
        if isinstance(reply, wire.Ack) and reply.session == self._hello.session:
            self._acknowledged = max(self._acknowledged, reply.next_seq)
        elif isinstance(reply, wire.Refused):
            log.warning("the sidecar refuses what %s left: %s", self._ring.path, reply.reason)
            self._refused = True
        return True


def _frame_of(events: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The next events that fit one frame."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event[1])
        if len(batch) >= wire.FRAME_EVENTS_MAX or size >= wire.FRAME_BYTES_MAX:
            break
    return batch
